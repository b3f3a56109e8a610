#include "quantize/linear_weights.h"

#include <utility>

#include "graph/rewriter.h"

namespace tandem {
namespace {

class DequantizedRows : public RowSource {
 public:
  explicit DequantizedRows(GroupCodes codes)
      : RowSource(codes.n, codes.k, DType::kF32), codes_(std::move(codes)) {}

 private:
  void read_rows(std::int64_t first, std::span<float> out) const override {
    dequantize_rows(codes_, first, out);
  }

  Weight codes_;
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

const Rows& rows_of(const Node& linear) {
  return std::get<FloatWeight>(linear.as<LinearAttributes>().weight).rows;
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

Rows dequantized_rows(GroupCodes codes) {
  return std::make_shared<DequantizedRows>(std::move(codes));
}

Rows with_codes(Rows rows, GroupCodes codes) {
  return std::make_shared<CodedRows>(std::move(rows), std::move(codes));
}

const GroupCodes* chosen_codes(const RowSource& rows) {
  const auto* coded = dynamic_cast<const CodedRows*>(&rows);
  return coded == nullptr ? nullptr : &coded->codes();
}

}  // namespace tandem
