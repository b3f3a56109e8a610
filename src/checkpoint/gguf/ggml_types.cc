// Names and sizes of ggml's element types.
#include <algorithm>
#include <array>
#include <limits>

#include "checkpoint/gguf/ggml_blocks.h"

namespace tandem {
namespace {

constexpr std::array kTypes = {
    GgmlTypeInfo{GgmlType::kF32, "F32", 1, 4},
    GgmlTypeInfo{GgmlType::kF16, "F16", 1, 2},
    GgmlTypeInfo{GgmlType::kQ4_0, "Q4_0", 32, 18},
    GgmlTypeInfo{GgmlType::kQ4_1, "Q4_1", 32, 20},
    GgmlTypeInfo{GgmlType::kQ5_0, "Q5_0", 32, 22},
    GgmlTypeInfo{GgmlType::kQ5_1, "Q5_1", 32, 24},
    GgmlTypeInfo{GgmlType::kQ8_0, "Q8_0", 32, 34},
    GgmlTypeInfo{GgmlType::kQ8_1, "Q8_1", 32, 40},
    GgmlTypeInfo{GgmlType::kQ2_K, "Q2_K", 256, 84},
    GgmlTypeInfo{GgmlType::kQ3_K, "Q3_K", 256, 110},
    GgmlTypeInfo{GgmlType::kQ4_K, "Q4_K", 256, 144},
    GgmlTypeInfo{GgmlType::kQ5_K, "Q5_K", 256, 176},
    GgmlTypeInfo{GgmlType::kQ6_K, "Q6_K", 256, 210},
    GgmlTypeInfo{GgmlType::kQ8_K, "Q8_K", 256, 292},
    GgmlTypeInfo{GgmlType::kIQ2_XXS, "IQ2_XXS", 256, 66},
    GgmlTypeInfo{GgmlType::kIQ2_XS, "IQ2_XS", 256, 74},
    GgmlTypeInfo{GgmlType::kIQ3_XXS, "IQ3_XXS", 256, 98},
    GgmlTypeInfo{GgmlType::kIQ1_S, "IQ1_S", 256, 50},
    GgmlTypeInfo{GgmlType::kIQ4_NL, "IQ4_NL", 32, 18},
    GgmlTypeInfo{GgmlType::kIQ3_S, "IQ3_S", 256, 110},
    GgmlTypeInfo{GgmlType::kIQ2_S, "IQ2_S", 256, 82},
    GgmlTypeInfo{GgmlType::kIQ4_XS, "IQ4_XS", 256, 136},
    GgmlTypeInfo{GgmlType::kI8, "I8", 1, 1},
    GgmlTypeInfo{GgmlType::kI16, "I16", 1, 2},
    GgmlTypeInfo{GgmlType::kI32, "I32", 1, 4},
    GgmlTypeInfo{GgmlType::kI64, "I64", 1, 8},
    GgmlTypeInfo{GgmlType::kF64, "F64", 1, 8},
    GgmlTypeInfo{GgmlType::kIQ1_M, "IQ1_M", 256, 56},
    GgmlTypeInfo{GgmlType::kBF16, "BF16", 1, 2},
    GgmlTypeInfo{GgmlType::kQ4_0_4_4, "Q4_0_4_4", 32, 18},
    GgmlTypeInfo{GgmlType::kQ4_0_4_8, "Q4_0_4_8", 32, 18},
    GgmlTypeInfo{GgmlType::kQ4_0_8_8, "Q4_0_8_8", 32, 18},
    GgmlTypeInfo{GgmlType::kTQ1_0, "TQ1_0", 256, 54},
    GgmlTypeInfo{GgmlType::kTQ2_0, "TQ2_0", 256, 66},
    GgmlTypeInfo{GgmlType::kMXFP4, "MXFP4", 32, 17},
};

}  // namespace

std::optional<GgmlTypeInfo> find_ggml_type(std::uint32_t number) noexcept {
  const auto* found = std::ranges::find(kTypes, static_cast<GgmlType>(number), &GgmlTypeInfo::type);
  if (found == kTypes.end()) return std::nullopt;
  return *found;
}

GgmlTypeInfo ggml_info(GgmlType type) noexcept {
  return *std::ranges::find(kTypes, type, &GgmlTypeInfo::type);
}

std::optional<DType> plain_dtype(GgmlType type) noexcept {
  switch (type) {
    case GgmlType::kF32:
      return DType::kF32;
    case GgmlType::kF16:
      return DType::kF16;
    case GgmlType::kBF16:
      return DType::kBF16;
    case GgmlType::kF64:
      return DType::kF64;
    case GgmlType::kI8:
      return DType::kI8;
    case GgmlType::kI16:
      return DType::kI16;
    case GgmlType::kI32:
      return DType::kI32;
    case GgmlType::kI64:
      return DType::kI64;
    default:
      return std::nullopt;
  }
}

DType loaded_dtype(GgmlType type) noexcept {
  const DType blocks = type == GgmlType::kMXFP4 ? DType::kBF16 : DType::kF16;
  return plain_dtype(type).value_or(blocks);
}

std::optional<std::int64_t> checked_ggml_bytes(GgmlType type, const Shape& shape) noexcept {
  const GgmlTypeInfo format = ggml_info(type);
  // As many elements as bytes is a valid bound for every type: no block has more than 292 bytes for
  // 256 elements, and F64 has 8 bytes for one element, which is what is checked.
  const auto elements = checked_bytes(DType::kF64, shape);
  if (!elements) return std::nullopt;
  const std::int64_t innermost = shape.empty() ? 1 : shape.back();
  if (innermost % format.block_elements != 0) return std::nullopt;
  return element_count(shape) / format.block_elements * format.block_bytes;
}

}  // namespace tandem
