// The operators' rules, and the checks they share.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "graph/ops.h"

namespace tandem::rules {

[[noreturn]] void reject(const Inspection& node, const std::string& what);
void require(const Inspection& node, bool condition, const std::string& what);
void require_inputs(const Inspection& node, std::size_t count);
void require_dtype(const Inspection& node, DType expected);
// `what` is the name of the axis in the error, such as "K" or "width of q".
void require_width(const Inspection& node, std::string_view what, std::int64_t expected,
                   std::int64_t got);
void require_same_rows(const Inspection& node);
// Must run before any dimension is read, because a tensor may have any rank.
void require_float_tensor(const Inspection& node, std::string_view what, const Tensor& tensor,
                          std::size_t rank);
void require_f32_row(const Inspection& node, std::string_view what, const Tensor& tensor,
                     std::int64_t width);
template <typename T>
const T& attributes_of(const Inspection& node) {
  const T* found = std::get_if<T>(&node.attributes);
  if (found == nullptr) reject(node, "the attributes are not those of this operator");
  return *found;
}
// One F32 value with the rows of the first input.
std::vector<Value> float_output(const Inspection& node, std::int64_t width);

std::vector<Value> embedding(const Inspection& node);
std::vector<Value> linear(const Inspection& node);
std::vector<Value> rms_norm(const Inspection& node);
std::vector<Value> rotary_angles(const Inspection& node);
std::vector<Value> rotary_embedding(const Inspection& node);
std::vector<Value> group_query_attention(const Inspection& node);
std::vector<Value> unary(const Inspection& node);
std::vector<Value> binary(const Inspection& node);
std::vector<Value> softcap(const Inspection& node);
std::vector<Value> select_rows(const Inspection& node);

std::vector<Value> int8_linear(const Inspection& node);
std::vector<Value> quantize(const Inspection& node);
std::vector<Value> quantize_int16(const Inspection& node);
std::vector<Value> dynamic_quantize(const Inspection& node);
std::vector<Value> dequantize(const Inspection& node);
std::vector<Value> requantize(const Inspection& node);
std::vector<Value> hadamard(const Inspection& node);
std::vector<Value> shadow_linear(const Inspection& node);

}  // namespace tandem::rules
