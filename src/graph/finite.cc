// Whatever a package would store of a graph is looked at.
#include "graph/finite.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "graph/graph_json.h"

namespace tandem {
namespace {

constexpr std::int64_t kElementsAtOnce = std::int64_t{1} << 16;

bool are_finite(std::span<const float> values) {
  return std::ranges::all_of(values, [](float value) { return std::isfinite(value); });
}

class FiniteCheck : public TensorSink {
 public:
  std::string keep(const std::string& name, const Tensor& tensor) override {
    if (!found.empty() || !is_float(tensor.dtype())) return name;
    std::vector<float> values;
    for (std::int64_t at = 0; at < tensor.elements(); at += kElementsAtOnce) {
      values.resize(static_cast<std::size_t>(std::min(kElementsAtOnce, tensor.elements() - at)));
      tensor.copy_floats(at, values);
      if (!are_finite(values)) found = name;
    }
    return name;
  }
  std::string keep(const std::string& name, const std::shared_ptr<const RowSource>& rows) override {
    if (!found.empty()) return name;
    const std::int64_t step = std::max<std::int64_t>(1, kElementsAtOnce / rows->columns());
    std::vector<float> values;
    for (std::int64_t row = 0; row < rows->rows(); row += step) {
      const std::int64_t count = std::min(step, rows->rows() - row);
      values.resize(static_cast<std::size_t>(count * rows->columns()));
      rows->read(row, values);
      if (!are_finite(values)) found = name;
    }
    return name;
  }

  std::string found;
};

}  // namespace

std::string find_non_finite(const Graph& graph) {
  FiniteCheck check;
  graph_to_json(graph, check);
  return check.found;
}

}  // namespace tandem
