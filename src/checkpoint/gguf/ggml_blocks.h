// The element types of ggml: blocks of codes with their scales, as stored in GGUF and .mllm files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"

namespace tandem {

// The values are those used in files.
enum class GgmlType : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ8_1 = 9,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kQ8_K = 15,
  kIQ2_XXS = 16,
  kIQ2_XS = 17,
  kIQ3_XXS = 18,
  kIQ1_S = 19,
  kIQ4_NL = 20,
  kIQ3_S = 21,
  kIQ2_S = 22,
  kIQ4_XS = 23,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kIQ1_M = 29,
  kBF16 = 30,
  kQ4_0_4_4 = 31,
  kQ4_0_4_8 = 32,
  kQ4_0_8_8 = 33,
  kTQ1_0 = 34,
  kTQ2_0 = 35,
  kMXFP4 = 39,
};

struct GgmlTypeInfo {
  GgmlType type;
  // Such as "Q4_K".
  std::string_view name;
  // Consecutive elements along the innermost dimension.
  std::int64_t block_elements;
  std::int64_t block_bytes;
};

// Returns nullopt for a number that no file of a known version uses.
std::optional<GgmlTypeInfo> find_ggml_type(std::uint32_t number) noexcept;
GgmlTypeInfo ggml_info(GgmlType type) noexcept;
inline std::string_view to_string(GgmlType type) noexcept { return ggml_info(type).name; }

// The dtype for types that are not blocks: F32, F16, BF16, F64, I8 to I64.
std::optional<DType> plain_dtype(GgmlType type) noexcept;

// The size in bytes of a tensor whose shape comes from a file; nullopt for an invalid shape: a
// negative dimension, a product that overflows int64, or an innermost dimension that is not a
// multiple of the block size.
std::optional<std::int64_t> checked_ggml_bytes(GgmlType type, const Shape& shape) noexcept;

// True for the types that can be dequantized: all but those of one to three bits with a codebook
// (IQ1 to IQ3, TQ), Q8_1, which is for activations, and those that need a matrix (interleaved_rows.h).
bool can_dequantize(GgmlType type) noexcept;

// The dtype of a tensor loaded from `type`: the plain type itself; BF16 for MXFP4, whose values are
// exact there over the whole range of its exponents; F16 for all other blocks.
DType loaded_dtype(GgmlType type) noexcept;

// Dequantizes whole blocks to float32, bit-exact with ggml; `out` has as many elements as `bytes`
// holds. Only for types for which can_dequantize() is true (and, of the plain ones, the floats).
void dequantize_blocks(GgmlType type, std::span<const std::byte> bytes, std::span<float> out);

// Quantizes finite values to whole blocks of F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to
// Q6_K or Q8_K, rounding as ggml's reference quantizers do. Throws kUnsupported naming `name` for a
// non-finite value or a scale beyond the range of F16.
void quantize_blocks(GgmlType type, std::span<const float> values, std::span<std::byte> out,
                     std::string_view name);
// The same, in memory of their own.
std::vector<std::byte> quantize_blocks(GgmlType type, std::span<const float> values,
                                       std::string_view name);

}  // namespace tandem
