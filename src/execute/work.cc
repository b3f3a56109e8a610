// Counts multiply-adds of products, and of everything else the values that it writes.
#include "execute/work.h"

namespace tandem {
namespace {

// A vector instruction holds four times as many int8 as floats.
constexpr double kFloat = 4;
// Operators that compute rows one by one spend a few float instructions on a value.
constexpr double kRowWise = 4 * kFloat;

}  // namespace

Work work_of(const Graph& graph, const Node& node) {
  double written = 0;
  for (const ValueId output : node.outputs)
    written += static_cast<double>(graph.value(output).width);
  if (node.op == Op::kLinear) {
    const auto k = static_cast<double>(graph.value(node.inputs[0]).width);
    const DType input = graph.value(node.inputs[0]).dtype;
    const bool is_float = std::holds_alternative<FloatWeight>(node.as<LinearAttributes>().weight);
    return {written * k * (is_float ? kFloat : input == DType::kI16 ? 2 : 1), 0};
  }
  if (node.op == Op::kShadowLinear) {
    const auto hot = static_cast<double>(node.as<ShadowLinearAttributes>().channels.elements());
    return {written * (hot * kFloat + kRowWise), 0};
  }
  // A product with a key and one with a value for each head.
  if (node.op == Op::kGroupQueryAttention) return {written * kRowWise, 2 * written * kFloat};
  return {written * kRowWise, 0};
}

double total(const Work& work, std::int64_t rows, std::span<const SequenceSlice> slices) {
  double pairs = 0;
  for (const SequenceSlice& slice : slices)
    pairs += static_cast<double>(slice.rows) *
             (static_cast<double>(slice.position) + static_cast<double>(slice.rows + 1) / 2);
  return work.per_row * static_cast<double>(rows) + work.per_pair * pairs;
}

}  // namespace tandem
