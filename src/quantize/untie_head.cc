// The pass untie_head.
#include <memory>

#include "graph/rewriter.h"
#include "quantize/passes.h"

namespace tandem {
namespace {

// The rows of another matrix as a distinct matrix, so that both are stored separately.
class OwnRows : public RowSource {
 public:
  explicit OwnRows(std::shared_ptr<const RowSource> rows)
      : RowSource(rows->rows(), rows->columns(), rows->dtype()), rows_(std::move(rows)) {}

  void release() const noexcept override { rows_->release(); }

 private:
  void read_rows(std::int64_t first, std::span<float> out) const override {
    rows_->read(first, out);
  }

  std::shared_ptr<const RowSource> rows_;
};

bool is_same_memory(const Tensor& table, const FloatWeight& weight) {
  const Tensor* stored = weight.rows->stored();
  return stored != nullptr && stored->bytes().data() == table.bytes().data();
}

}  // namespace

Graph untie_head(const Graph& graph) {
  Tensor table;
  for (const Node& node : graph.nodes())
    if (node.op == Op::kEmbedding) table = node.as<EmbeddingAttributes>().table;
  Rewriter rewriter(graph);
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    if (node.op == Op::kLinear) {
      auto linear = node.as<LinearAttributes>();
      const auto* weight = std::get_if<FloatWeight>(&linear.weight);
      if (weight != nullptr && is_same_memory(table, *weight)) {
        linear.weight = FloatWeight(std::make_shared<OwnRows>(weight->rows));
        rewriter.copy(id, std::move(linear));
        continue;
      }
    }
    rewriter.copy(id);
  }
  return std::move(rewriter).finish();
}

}  // namespace tandem
