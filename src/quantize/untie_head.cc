// The pass untie_head.
#include <memory>

#include "graph/rewriter.h"
#include "quantize/linear_weights.h"
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

}  // namespace

Graph untie_head(const Graph& graph) {
  Rewriter rewriter(graph);
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    if (node.op != Op::kLinear || !is_embedding_of(graph, node)) {
      rewriter.copy(id);
      continue;
    }
    auto linear = node.as<LinearAttributes>();
    linear.weight =
        FloatWeight(std::make_shared<OwnRows>(std::get<FloatWeight>(linear.weight).rows));
    rewriter.copy(id, std::move(linear));
  }
  return std::move(rewriter).finish();
}

}  // namespace tandem
