// Whatever a package would store of a graph is looked at, in pieces that stay in a thread's cache.
#include "graph/finite.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>
#include <vector>

#include "base/error.h"
#include "graph/graph_json.h"

namespace tandem {
namespace {

constexpr std::int64_t kPiece = 1 << 14;

class FiniteCheck : public TensorSink {
 public:
  FiniteCheck(ThreadPool& pool, const Observer& observer) : pool_(pool), observer_(observer) {}

  std::string keep(const std::string& name, const Tensor& tensor) override {
    if (is_float(tensor.dtype())) {
      look(name, tensor.elements(), kPiece,
           [&](std::int64_t begin, std::span<float> out) { tensor.copy_floats(begin, out); });
    }
    return name;
  }
  std::string keep(const std::string& name, const std::shared_ptr<const RowSource>& rows) override {
    const std::int64_t columns = rows->columns();
    look(name, rows->rows() * columns, std::max<std::int64_t>(1, kPiece / columns) * columns,
         [&](std::int64_t begin, std::span<float> out) { rows->read(begin / columns, out); });
    rows->release();
    return name;
  }

  std::optional<NonFinite> take() { return std::move(found_); }

 private:
  // Reads `elements` in pieces, each from its first element on.
  template <typename Read>
  void look(const std::string& name, std::int64_t elements, std::int64_t piece, Read&& read) {
    if (found_) return;
    if (observer_.cancelled()) fail(ErrorCode::kCancelled, "[graph] interrupted before {}", name);
    std::atomic<std::int64_t> first = elements;
    pool_.parallel_for((elements + piece - 1) / piece, 1, [&](Range pieces) {
      std::vector<float> values;
      for (std::int64_t i = pieces.begin; i < pieces.end; ++i) {
        values.resize(static_cast<std::size_t>(std::min(piece, elements - i * piece)));
        read(i * piece, values);
        const auto bad = std::ranges::find_if(values, [](float v) { return !std::isfinite(v); });
        if (bad == values.end()) continue;
        const std::int64_t at = i * piece + (bad - values.begin());
        std::int64_t known = first.load();
        while (at < known && !first.compare_exchange_weak(known, at)) {
        }
        return;
      }
    });
    if (first == elements) return;
    const std::int64_t begin = first / piece * piece;
    std::vector<float> values(static_cast<std::size_t>(std::min(piece, elements - begin)));
    read(begin, values);
    found_ = {name, first, values[static_cast<std::size_t>(first - begin)]};
  }

  ThreadPool& pool_;
  const Observer& observer_;
  std::optional<NonFinite> found_;
};

}  // namespace

std::string to_string(const NonFinite& found) {
  return fmt::format("{}: element {}: expected a finite number, got {}", found.tensor,
                     found.element, found.value);
}

std::optional<NonFinite> find_non_finite(const Graph& graph, ThreadPool& pool,
                                         const Observer& observer) {
  FiniteCheck check(pool, observer);
  graph_to_json(graph, check);
  return check.take();
}

}  // namespace tandem
