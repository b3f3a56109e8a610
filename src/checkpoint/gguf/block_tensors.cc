// From blocks to tensors.
#include "checkpoint/gguf/block_tensors.h"

#include <cassert>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "tensor/half.h"
#include "tensor/packed_codes.h"

namespace tandem {
namespace {

// Of a block of Q4_0: an F16 scale and 16 bytes of codes.
constexpr std::int64_t kQ4Bytes = 18;

// Codes and zero points without their sign, so that the middle of their range is 8 or 128.
int middle_of(const GroupCodes& codes) { return 1 << (codes.bits - 1); }

int unsigned_code(const GroupCodes& codes, const std::byte* row, std::int64_t i) {
  const int code = packed_code(row, codes.bits, i);
  return codes.is_signed ? code ^ middle_of(codes) : code;
}

int zero_point(const GroupCodes& codes, std::int64_t row, std::int64_t group) {
  if (codes.zero_points.empty()) return middle_of(codes);
  const auto stride = static_cast<std::size_t>(packed_bytes(codes.groups(), codes.bits));
  return unsigned_code(
      codes, codes.zero_points.bytes().data() + static_cast<std::size_t>(row) * stride, group);
}

// Appends `value` in F16 and returns what it is there.
float put_half(std::vector<std::byte>& out, float value, std::string_view name) {
  const std::uint16_t half = float_to_f16(value);
  const float stored = f16_to_float(half);
  if (!std::isfinite(stored))
    fail(ErrorCode::kUnsupported, "[ggml] {}: the scale or minimum {} is beyond F16", name, value);
  out.push_back(static_cast<std::byte>(half & 255));
  out.push_back(static_cast<std::byte>(half >> 8));
  return stored;
}

}  // namespace

Tensor load_plain(DType dtype, const Shape& shape, const Tensor& raw) {
  const auto bytes = raw.bytes();
  if (reinterpret_cast<std::uintptr_t>(bytes.data()) % size_of(dtype) == 0)
    return raw.view_as(dtype, shape);
  std::byte* data = nullptr;
  Tensor copy = Tensor::allocate(dtype, shape, &data);
  std::memcpy(data, bytes.data(), bytes.size());
  return copy;
}

Tensor load_blocks(GgmlType type, const Shape& shape, const Tensor& raw, const std::string& place) {
  if (const auto dtype = plain_dtype(type)) return load_plain(*dtype, shape, raw);
  if (!can_dequantize(type))
    fail(ErrorCode::kUnsupported,
         "{}: type {} is not read here: expected F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, "
         "Q2_K to Q6_K, IQ4_NL, IQ4_XS or MXFP4",
         place, to_string(type));
  const auto bytes = raw.bytes();
  // Block by block, so that the floats of a matrix are never all in memory.
  const GgmlTypeInfo format = ggml_info(type);
  const auto size = static_cast<std::size_t>(format.block_bytes);
  std::vector<float> block(static_cast<std::size_t>(format.block_elements));
  const DType dtype = loaded_dtype(type);
  std::byte* data = nullptr;
  Tensor result = Tensor::allocate(dtype, shape, &data);
  for (std::size_t at = 0; at < bytes.size(); at += size) {
    dequantize_blocks(type, bytes.subspan(at, size), block);
    for (const float value : block) {
      const bool wide = dtype == DType::kBF16;
      const std::uint16_t half = wide ? float_to_bf16(value) : float_to_f16(value);
      if (!std::isfinite(wide ? bf16_to_float(half) : f16_to_float(half)))
        fail(ErrorCode::kUnsupported, "{}: the value {} is beyond {}", place, value,
             to_string(dtype));
      std::memcpy(data, &half, sizeof half);
      data += sizeof half;
    }
  }
  return result;
}

Weight int4_from_q4_0(std::span<const std::byte> bytes, std::int64_t n, std::int64_t k) {
  GroupCodes w{.n = n, .k = k, .group = kGgmlBlock};
  const std::int64_t groups = k / kGgmlBlock;
  assert(bytes.size() == static_cast<std::size_t>(n * groups * kQ4Bytes));
  std::byte* codes = nullptr;
  std::byte* scales = nullptr;
  std::byte* zeros = nullptr;
  w.codes = Tensor::allocate(DType::kU8, {n, k / 2}, &codes);
  w.scales = Tensor::allocate(DType::kF16, {n, groups}, &scales);
  w.zero_points = Tensor::allocate(DType::kU8, {n, (groups + 1) / 2}, &zeros);
  std::memset(zeros, 0x88, w.zero_points.bytes().size());
  const auto* block = reinterpret_cast<const std::uint8_t*>(bytes.data());
  for (std::int64_t i = 0; i < n * groups; ++i, block += kQ4Bytes) {
    std::memcpy(scales + i * 2, block, 2);
    // Low nibbles are elements 0 to 15, high nibbles 16 to 31; in GroupCodes neighbours share a
    // byte.
    const std::uint8_t* nibbles = block + 2;
    for (int j = 0; j < 8; ++j) {
      codes[i * 16 + j] =
          static_cast<std::byte>((nibbles[2 * j] & 15) | (nibbles[2 * j + 1] & 15) << 4);
      codes[i * 16 + 8 + j] =
          static_cast<std::byte>(nibbles[2 * j] >> 4 | (nibbles[2 * j + 1] & 0xf0));
    }
  }
  return w;
}

std::optional<GgmlType> ggml_type_of_codes(const GroupCodes& codes) {
  if (codes.group % kGgmlBlock != 0) return std::nullopt;
  bool is_centred = true;
  for (std::int64_t row = 0; is_centred && row < codes.n; ++row)
    for (std::int64_t group = 0; is_centred && group < codes.groups(); ++group)
      is_centred = zero_point(codes, row, group) == middle_of(codes);
  if (codes.bits == 4) return is_centred ? GgmlType::kQ4_0 : GgmlType::kQ4_1;
  return is_centred ? std::optional(GgmlType::kQ8_0) : std::nullopt;
}

std::vector<std::byte> blocks_of_codes(const GroupCodes& codes, GgmlType type, std::int64_t begin,
                                       std::int64_t count, std::string_view name) {
  std::vector<std::byte> out;
  out.reserve(static_cast<std::size_t>(count * codes.k / kGgmlBlock * ggml_info(type).block_bytes));
  std::vector<float> scales(static_cast<std::size_t>(codes.groups()));
  const auto stride = static_cast<std::size_t>(packed_bytes(codes.k, codes.bits));
  for (std::int64_t row = begin; row < begin + count; ++row) {
    const std::byte* packed = codes.codes.bytes().data() + static_cast<std::size_t>(row) * stride;
    codes.scales.copy_floats(row * codes.groups(), scales);
    for (std::int64_t at = 0; at < codes.k; at += kGgmlBlock) {
      const std::int64_t group = at / codes.group;
      const float d = put_half(out, scales[static_cast<std::size_t>(group)], name);
      if (type == GgmlType::kQ4_1)
        put_half(out, -static_cast<float>(zero_point(codes, row, group)) * d, name);
      if (type == GgmlType::kQ8_0) {
        for (std::int64_t i = at; i < at + kGgmlBlock; ++i)
          out.push_back(static_cast<std::byte>(unsigned_code(codes, packed, i) - 128));
      } else {
        for (std::int64_t i = at; i < at + kGgmlBlock / 2; ++i)
          out.push_back(
              static_cast<std::byte>(unsigned_code(codes, packed, i) |
                                     unsigned_code(codes, packed, i + kGgmlBlock / 2) << 4));
      }
    }
  }
  return out;
}

}  // namespace tandem
