// llama.cpp's mixtures of types.
#include "checkpoint/gguf/gguf_mixture.h"

#include <charconv>
#include <limits>

#include "base/error.h"

namespace tandem {
namespace {

constexpr std::string_view kEmbedding = "token_embd.weight";
constexpr std::string_view kHead = "output.weight";

// Of "blk.3.attn_v.weight" 3; outside the layers a number beyond all of them.
std::int64_t layer_of(std::string_view name) {
  constexpr std::string_view kPrefix = "blk.";
  std::int64_t layer = std::numeric_limits<std::int64_t>::max();
  if (name.starts_with(kPrefix))
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), layer);
  return layer;
}

GgmlType of_smaller_blocks(GgmlType type) {
  switch (type) {
    case GgmlType::kQ4_K:
      return GgmlType::kQ5_0;
    case GgmlType::kQ5_K:
      return GgmlType::kQ5_1;
    case GgmlType::kQ6_K:
      return GgmlType::kQ8_0;
    default:
      return GgmlType::kF16;
  }
}

}  // namespace

std::uint32_t gguf_file_type(GgmlType type) {
  switch (type) {
    case GgmlType::kF32:
      return 0;
    case GgmlType::kF16:
      return 1;
    case GgmlType::kQ4_0:
      return 2;
    case GgmlType::kQ4_1:
      return 3;
    case GgmlType::kQ8_0:
      return 7;
    case GgmlType::kQ4_K:
      return 14;
    case GgmlType::kQ6_K:
      return 18;
    case GgmlType::kBF16:
      return 32;
    default:
      fail(ErrorCode::kInvalidArgument, "[gguf] files of type {} are not written here",
           to_string(type));
  }
}

GgmlType GgufMixture::intended(std::string_view name) const {
  const bool is_k_quant = type_ == GgmlType::kQ4_K || type_ == GgmlType::kQ6_K;
  if (!is_k_quant) return name == kEmbedding || name == kHead ? GgmlType::kQ8_0 : type_;
  if (name == kHead || (is_tied_ && name == kEmbedding)) return GgmlType::kQ6_K;
  if (type_ == GgmlType::kQ6_K) return type_;
  const std::int64_t layer = layer_of(name);
  const bool has_values = name.ends_with(".attn_v.weight") || name.ends_with(".attn_qkv.weight");
  if (has_values && layer < 4) return GgmlType::kQ5_K;
  if (name.ends_with(".ffn_down.weight") && layer < layers_ / 8) return GgmlType::kQ5_K;
  return type_;
}

GgmlType GgufMixture::choose(std::string_view name, const Shape& shape) {
  if (shape.size() < 2) return GgmlType::kF32;
  if (plain_dtype(type_)) return type_;
  const GgmlType wanted = intended(name);
  GgmlType type = wanted;
  while (shape.back() % ggml_info(type).block_elements != 0) type = of_smaller_blocks(type);
  if (type != wanted) ++fallen_back_;
  return type;
}

}  // namespace tandem
