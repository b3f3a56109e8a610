// Which of ggml's types each tensor of a GGUF file gets.
#pragma once

#include <cstdint>
#include <string_view>

#include "checkpoint/gguf/ggml_blocks.h"

namespace tandem {

// The value of general.file_type, llama.cpp's number for "mostly of this type": F32, F16, BF16,
// Q8_0, Q4_0, Q4_1, Q4_K (its Q4_K_S) or Q6_K. Throws kInvalidArgument for any other.
std::uint32_t gguf_file_type(GgmlType type);

// Vectors are F32, matrices mostly of one type. With Q8_0, Q4_0 and Q4_1, the embedding and the head
// are Q8_0. With Q4_K and Q6_K matrices are what llama.cpp's quantizer makes for Q4_K_S and Q6_K of
// a model of dense layers: the head, or the embedding where it is the head too, is Q6_K, and in
// Q4_K_S the values' projections of the first four layers and the down projections of the first
// eighth of the layers are Q5_K. (Its rule for the 70B models alone is left out.)
class GgufMixture {
 public:
  // `layers` are those of the model; `is_tied`: it has no head of its own.
  GgufMixture(GgmlType type, std::int64_t layers, bool is_tied)
      : type_(type), layers_(layers), is_tied_(is_tied) {}

  // By the tensor's name in the file, such as "blk.3.attn_v.weight". Where rows are not made of
  // whole blocks, the next type of smaller blocks is taken, as llama.cpp does: Q5_0 for Q4_K, Q5_1
  // for Q5_K, Q8_0 for Q6_K, else F16.
  GgmlType choose(std::string_view name, const Shape& shape);

  // Matrices that got another type for that reason.
  std::int64_t fallen_back() const noexcept { return fallen_back_; }

 private:
  GgmlType intended(std::string_view name) const;

  GgmlType type_;
  std::int64_t layers_;
  bool is_tied_;
  std::int64_t fallen_back_ = 0;
};

}  // namespace tandem
