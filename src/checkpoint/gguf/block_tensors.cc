// From blocks to tensors.
#include "checkpoint/gguf/block_tensors.h"

#include <cassert>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "tensor/half.h"

namespace tandem {
namespace {

// Elements per block: an F16 scale and 16 bytes of codes.
constexpr std::int64_t kQ4Block = 32;
constexpr std::int64_t kQ4Bytes = 18;

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
  GroupCodes w{.n = n, .k = k, .group = kQ4Block};
  const std::int64_t groups = k / kQ4Block;
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

}  // namespace tandem
