#include "quantize/linear_weights.h"

#include <algorithm>
#include <utility>

#include "graph/rewriter.h"

namespace tandem {
namespace {

class DequantizedRows : public RowSource {
 public:
  explicit DequantizedRows(Weight weight)
      : RowSource(output_channels(weight), input_channels(weight), DType::kF32),
        weight_(std::move(weight)) {}

  void release() const noexcept override {
    for (const Tensor& part : parts_of(weight_)) part.release();
  }

 private:
  void read_rows(std::int64_t first, std::span<float> out) const override {
    dequantize_rows(weight_, first, out);
  }

  Weight weight_;
};

class CodedRows : public RowSource {
 public:
  CodedRows(Rows rows, GroupCodes codes)
      : RowSource(rows->rows(), rows->columns(), rows->dtype()),
        rows_(std::move(rows)),
        codes_(std::move(codes)) {}
  const Tensor* stored() const noexcept override { return rows_->stored(); }
  void release() const noexcept override { rows_->release(); }
  const GroupCodes& codes() const noexcept { return codes_; }

 private:
  void read_rows(std::int64_t first, std::span<float> out) const override {
    rows_->read(first, out);
  }

  Rows rows_;
  GroupCodes codes_;
};

}  // namespace

Rows rows_of(const Node& linear) { return rows_of(linear.as<LinearAttributes>().weight); }

Rows rows_of(const Weight& weight) {
  if (const auto* real = std::get_if<FloatWeight>(&weight)) return real->rows;
  return std::make_shared<DequantizedRows>(weight);
}

const FloatWeight* float_weight(const Node& node) {
  if (node.op != Op::kLinear) return nullptr;
  return std::get_if<FloatWeight>(&node.as<LinearAttributes>().weight);
}

bool is_embedding_of(const Graph& graph, const Node& linear) {
  const FloatWeight* weight = float_weight(linear);
  const Tensor* rows = weight == nullptr ? nullptr : weight->rows->stored();
  return rows != nullptr && std::ranges::any_of(graph.nodes(), [&](const Node& node) {
           return node.op == Op::kEmbedding &&
                  node.as<EmbeddingAttributes>().table.bytes().data() == rows->bytes().data();
         });
}

LinearsByInput linears_by_input(const Graph& graph,
                                const std::function<bool(const Node&)>& counts) {
  LinearsByInput linears;
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    if (node.op == Op::kLinear && node.layer >= 0 && counts(node))
      linears[node.inputs[0]].push_back(id);
  }
  return linears;
}

std::vector<ValueId> inputs_of(const LinearsByInput& linears) {
  std::vector<ValueId> values;
  for (const auto& [value, nodes] : linears) values.push_back(value);
  return values;
}

Graph with_weights(const Graph& graph, const std::map<std::string, Rows>& weights) {
  Rewriter rewriter(graph);
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const auto found = weights.find(graph.node(id).name);
    if (found == weights.end()) {
      rewriter.copy(id);
      continue;
    }
    auto linear = graph.node(id).as<LinearAttributes>();
    linear.weight = FloatWeight(found->second);
    rewriter.copy(id, std::move(linear));
  }
  return std::move(rewriter).finish();
}

Rows with_codes(Rows rows, GroupCodes codes) {
  return std::make_shared<CodedRows>(std::move(rows), std::move(codes));
}

const GroupCodes* chosen_codes(const RowSource& rows) {
  const auto* coded = dynamic_cast<const CodedRows*>(&rows);
  return coded == nullptr ? nullptr : &coded->codes();
}

}  // namespace tandem
