// From floats to ggml's blocks, with the rounding of ggml's reference quantizers.
#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "checkpoint/gguf/ggml_blocks.h"
#include "checkpoint/gguf/ggml_k_quants.h"
#include "tensor/half.h"

namespace tandem {
namespace {

constexpr int kBlock = 32;

void store_half(float value, std::uint8_t* at) {
  const std::uint16_t half = float_to_f16(value);
  std::memcpy(at, &half, sizeof half);
}

// 0 for a scale of 0, and for one so small that it becomes 0 in F16 and its reciprocal overflows.
float reciprocal(float d) {
  const float inverse = d == 0 ? 0.0f : 1.0f / d;
  return std::isfinite(inverse) ? inverse : 0.0f;
}

// Apart from rounding errors every quotient is in [0, limit + 1); truncation implements ggml's
// rounding half up.
int code(float value, int limit) { return std::min(static_cast<int>(value), limit); }

// The value with the largest magnitude gets code 0, which is -8 times the scale.
void quantize_q4_0(const float* x, std::uint8_t* block) {
  float extreme = 0;
  for (int i = 0; i < kBlock; ++i)
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  const float d = extreme / -8;
  const float inverse = reciprocal(d);
  store_half(d, block);
  for (int j = 0; j < 16; ++j) {
    const int low = code(x[j] * inverse + 8.5f, 15);
    const int high = code(x[j + 16] * inverse + 8.5f, 15);
    block[2 + j] = static_cast<std::uint8_t>(low | high << 4);
  }
}

void quantize_q4_1(const float* x, std::uint8_t* block) {
  const auto [lowest, highest] = std::minmax_element(x, x + kBlock);
  const float minimum = *lowest;
  const float d = (*highest - minimum) / 15;
  const float inverse = reciprocal(d);
  store_half(d, block);
  store_half(minimum, block + 2);
  for (int j = 0; j < 16; ++j) {
    const int low = code((x[j] - minimum) * inverse + 0.5f, 15);
    const int high = code((x[j + 16] - minimum) * inverse + 0.5f, 15);
    block[4 + j] = static_cast<std::uint8_t>(low | high << 4);
  }
}

// Five-bit codes: 4 bytes with the fifth bit of each, 16 bytes of nibbles.
void store_five_bits(const std::array<int, kBlock>& codes, std::uint8_t* out) {
  std::fill_n(out, 4, std::uint8_t{0});
  for (int i = 0; i < kBlock; ++i)
    out[i / 8] = static_cast<std::uint8_t>(out[i / 8] | codes[i] >> 4 << (i % 8));
  for (int j = 0; j < 16; ++j)
    out[4 + j] = static_cast<std::uint8_t>((codes[j] & 15) | (codes[j + 16] & 15) << 4);
}

// The value with the largest magnitude gets code 0, which is -16 times the scale.
void quantize_q5_0(const float* x, std::uint8_t* block) {
  float extreme = 0;
  for (int i = 0; i < kBlock; ++i)
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  const float d = extreme / -16;
  const float inverse = reciprocal(d);
  store_half(d, block);
  std::array<int, kBlock> codes;
  for (int i = 0; i < kBlock; ++i) codes[i] = code(x[i] * inverse + 16.5f, 31);
  store_five_bits(codes, block + 2);
}

void quantize_q5_1(const float* x, std::uint8_t* block) {
  const auto [lowest, highest] = std::minmax_element(x, x + kBlock);
  const float minimum = *lowest;
  const float d = (*highest - minimum) / 31;
  const float inverse = reciprocal(d);
  store_half(d, block);
  store_half(minimum, block + 2);
  std::array<int, kBlock> codes;
  for (int i = 0; i < kBlock; ++i) codes[i] = code((x[i] - minimum) * inverse + 0.5f, 31);
  store_five_bits(codes, block + 4);
}

void quantize_q8_0(const float* x, std::uint8_t* block) {
  float largest = 0;
  for (int i = 0; i < kBlock; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float d = largest / 127;
  const float inverse = reciprocal(d);
  store_half(d, block);
  for (int i = 0; i < kBlock; ++i)
    block[2 + i] = static_cast<std::uint8_t>(static_cast<std::int8_t>(std::round(x[i] * inverse)));
}

// Every F16 value, every minimum of Q4_1 and Q5_1 and every scale must stay finite in F16. Scales,
// and what the minimums of K-quants are multiples of, are at most an eighth of the largest value.
void check_range(std::span<const float> values, GgmlType type, std::string_view name) {
  if (type == GgmlType::kF32 || type == GgmlType::kBF16) return;
  const bool whole = type == GgmlType::kF16 || type == GgmlType::kQ4_1 || type == GgmlType::kQ5_1;
  const float limit = whole ? kLargestF16 : 8 * kLargestF16;
  for (const float value : values) {
    if (!(std::fabs(value) <= limit))
      fail(ErrorCode::kUnsupported, "[ggml] {}: {} has no {} form: expected magnitudes up to {}",
           name, value, to_string(type), limit);
  }
}

template <typename T, typename Convert>
void convert(std::span<const float> values, std::byte* out, Convert from_float) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    const T value = from_float(values[i]);
    std::memcpy(out + i * sizeof(T), &value, sizeof value);
  }
}

}  // namespace

void quantize_blocks(GgmlType type, std::span<const float> values, std::span<std::byte> out,
                     std::string_view name) {
  check_range(values, type, name);
  void (*quantize)(const float*, std::uint8_t*) = nullptr;
  switch (type) {
    case GgmlType::kF32:
      return convert<float>(values, out.data(), [](float value) { return value; });
    case GgmlType::kF16:
      return convert<std::uint16_t>(values, out.data(), float_to_f16);
    case GgmlType::kBF16:
      return convert<std::uint16_t>(values, out.data(), float_to_bf16);
    case GgmlType::kQ4_0:
      quantize = quantize_q4_0;
      break;
    case GgmlType::kQ4_1:
      quantize = quantize_q4_1;
      break;
    case GgmlType::kQ5_0:
      quantize = quantize_q5_0;
      break;
    case GgmlType::kQ5_1:
      quantize = quantize_q5_1;
      break;
    case GgmlType::kQ8_0:
      quantize = quantize_q8_0;
      break;
    case GgmlType::kQ2_K:
      quantize = quantize_q2_k;
      break;
    case GgmlType::kQ3_K:
      quantize = quantize_q3_k;
      break;
    case GgmlType::kQ4_K:
      quantize = quantize_q4_k;
      break;
    case GgmlType::kQ5_K:
      quantize = quantize_q5_k;
      break;
    case GgmlType::kQ6_K:
      quantize = quantize_q6_k;
      break;
    case GgmlType::kQ8_K:
      quantize = quantize_q8_k;
      break;
    default:
      fail(ErrorCode::kUnsupported, "[ggml] {}: type {} is not written here", name,
           to_string(type));
  }
  const GgmlTypeInfo format = ggml_info(type);
  const auto elements = static_cast<std::size_t>(format.block_elements);
  const auto size = static_cast<std::size_t>(format.block_bytes);
  assert(values.size() % elements == 0 && out.size() == values.size() / elements * size);
  auto* block = reinterpret_cast<std::uint8_t*>(out.data());
  for (std::size_t i = 0; i < values.size() / elements; ++i)
    quantize(values.data() + i * elements, block + i * size);
}

std::vector<std::byte> quantize_blocks(GgmlType type, std::span<const float> values,
                                       std::string_view name) {
  const GgmlTypeInfo format = ggml_info(type);
  const auto elements = static_cast<std::size_t>(format.block_elements);
  std::vector<std::byte> bytes(values.size() / elements *
                               static_cast<std::size_t>(format.block_bytes));
  quantize_blocks(type, values, bytes, name);
  return bytes;
}

}  // namespace tandem
