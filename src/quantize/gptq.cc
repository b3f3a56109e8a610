// Everything of the order k^3 or n k^2 is a product of matrices; what is left runs along rows.
#include "quantize/gptq.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <memory>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/merge_sort.h"
#include "quantize/kept_codes.h"
#include "quantize/linear_weights.h"
#include "quantize/quantize_linears.h"
#include "tensor/half.h"
#include "tensor/packed_codes.h"

namespace tandem {
namespace {

// Channels between two products of matrices.
constexpr std::int64_t kBlock = 128;
constexpr double kMostDamping = 10;

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

// Columns [first, first + columns) of the rows of a matrix.
std::vector<float> copy_columns(const float* from, std::int64_t rows, std::int64_t stride,
                                std::int64_t first, std::int64_t columns) {
  std::vector<float> copy(index(rows * columns));
  for (std::int64_t row = 0; row < rows; ++row)
    std::copy_n(from + row * stride + first, columns,
                copy.begin() + static_cast<std::ptrdiff_t>(row * columns));
  return copy;
}

// In place, the lower Cholesky factor of a small block on the diagonal; false if the matrix is not
// positive definite.
bool factorize_block(float* block, std::int64_t stride, std::int64_t size) {
  for (std::int64_t c = 0; c < size; ++c) {
    float* row = block + c * stride;
    for (std::int64_t i = 0; i <= c; ++i) {
      const float* other = block + i * stride;
      double sum = row[i];
      for (std::int64_t t = 0; t < i; ++t) sum -= double{row[t]} * other[t];
      if (i < c) {
        row[i] = static_cast<float>(sum / other[i]);
      } else if (sum > 0 && std::isfinite(sum)) {
        row[i] = static_cast<float>(std::sqrt(sum));
      } else {
        return false;
      }
    }
  }
  return true;
}

// Rows below a factorized block: x becomes x · L⁻ᵀ.
void solve_rows(const float* block, float* rows, std::int64_t stride, std::int64_t size,
                std::int64_t count, ThreadPool& pool) {
  std::vector<float> transposed(index(size * size));
  for (std::int64_t c = 0; c < size; ++c)
    for (std::int64_t t = 0; t <= c; ++t) transposed[index(t * size + c)] = block[c * stride + t];
  pool.parallel_for(count, 16, [&](Range range) {
    for (std::int64_t r = range.begin; r < range.end; ++r) {
      float* row = rows + r * stride;
      for (std::int64_t t = 0; t < size; ++t) {
        const float* column = &transposed[index(t * size)];
        const float value = row[t] /= column[t];
        for (std::int64_t c = t + 1; c < size; ++c) row[c] -= value * column[c];
      }
    }
  });
}

// In place, the lower Cholesky factor of the lower triangle of a matrix [k, k]; false if it is not
// positive definite.
bool factorize_matrix(std::vector<float>& matrix, std::int64_t k, ThreadPool& pool) {
  for (std::int64_t at = 0; at < k; at += kBlock) {
    const std::int64_t size = std::min(kBlock, k - at);
    float* rows = matrix.data() + at * k;
    if (at > 0) {
      const std::vector<float> left = copy_columns(rows, k - at, k, 0, at);
      const std::vector<float> product = multiply(
          left, Tensor::from_floats(std::span(left).first(index(size * at)), {size, at}), pool);
      for (std::int64_t row = 0; row < k - at; ++row)
        for (std::int64_t c = 0; c < size; ++c)
          rows[row * k + at + c] -= product[index(row * size + c)];
    }
    if (!factorize_block(rows + at, k, size)) return false;
    solve_rows(rows + at, rows + size * k + at, k, size, k - at - size, pool);
  }
  return true;
}

// The scale and the zero point of every group of a weight, and its codes, one in each byte.
class Grid {
 public:
  explicit Grid(const GroupCodes& codes)
      : group_(codes.group),
        groups_(codes.groups()),
        low_(codes.is_signed ? -static_cast<float>(1 << (codes.bits - 1)) : 0.0F),
        high_(low_ + static_cast<float>((1 << codes.bits) - 1)),
        scales_(codes.scales.to_floats()),
        zeros_(scales_.size()) {
    if (codes.zero_points.empty()) return;
    const std::byte* row = codes.zero_points.bytes().data();
    const std::int64_t row_bytes = packed_bytes(groups_, codes.bits);
    for (std::int64_t i = 0; i < codes.n * groups_; ++i)
      zeros_[index(i)] = packed_code(row + i / groups_ * row_bytes, codes.bits, i % groups_);
  }

  struct Rounded {
    std::uint8_t code = 0;
    float value = 0;
  };
  Rounded round(float value, std::int64_t row, std::int64_t channel) const {
    const std::size_t g = index(row * groups_ + channel / group_);
    const float zero = zeros_[g];
    const float code = std::clamp(std::nearbyint(value * (1.0F / scales_[g])) + zero, low_, high_);
    return {static_cast<std::uint8_t>(static_cast<int>(code)), (code - zero) * scales_[g]};
  }

 private:
  std::int64_t group_;
  std::int64_t groups_;
  float low_;
  float high_;
  std::vector<float> scales_;
  std::vector<float> zeros_;
};

bool has_groups(const Scheme& scheme) {
  return scheme.weights != WeightType::kFloat && scheme.activations == ActivationType::kFloat;
}

class Gptq : public BlockVisitor {
 public:
  Gptq(const Graph& graph, const Recipe& recipe, const GptqSettings& settings, WeightSink& sink,
       ThreadPool& pool, Observer& observer)
      : graph_(graph),
        recipe_(recipe),
        settings_(settings),
        sink_(sink),
        pool_(pool),
        linears_(linears_by_input(graph, [&](const Node& node) {
          return !is_quantized(node) && has_groups(resolve(recipe, node.name).decode);
        })) {
    std::int64_t count = 0;
    for (const auto& [value, linears] : linears_) count += std::ssize(linears);
    task_ = std::make_unique<Task>(observer, "gptq", count, "weights");
  }

  std::vector<ValueId> wanted() const { return inputs_of(linears_); }
  std::map<std::string, GroupCodes> chosen;

  void begin(std::int32_t layer) override {
    for (const auto& [value, linears] : linears_)
      if (graph_.node(linears.front()).layer == layer)
        grams_.emplace(value, GramMatrix(graph_.value(value).width, pool_));
  }

  void batch(const BlockRunner& runner, std::int64_t first, std::int64_t rows) override {
    for (auto& [value, gram] : grams_)
      gram.add({runner.rows_of(value, first), index(rows * gram.k())});
  }

  void end(const BlockRunner& runner) override {
    layer_ = runner.layer();
    while (!grams_.empty()) {
      auto [value, gram] = std::move(*grams_.begin());
      grams_.erase(grams_.begin());
      const std::vector<NodeId>& linears = linears_.at(value);
      const GptqRounding rounding(std::move(gram), settings_, graph_.node(linears.front()).name,
                                  pool_);
      for (const NodeId id : linears) round(graph_.node(id), rounding);
    }
  }

  NamedTensors learned() const override {
    NamedTensors tensors;
    visit_layer(layer_, [&](const Node& node) {
      const GroupCodes& codes = chosen.at(node.name);
      tensors[node.name + ".codes"] = codes.codes;
      tensors[node.name + ".scales"] = codes.scales;
      if (!codes.zero_points.empty()) tensors[node.name + ".zero_points"] = codes.zero_points;
    });
    return tensors;
  }
  void recall(std::int32_t layer, const NamedTensors& learned) override {
    visit_layer(layer, [&](const Node& node) {
      const Rows source = rows_of(node);
      const RowSource& rows = *source;
      const GroupFormat format = group_format(resolve(recipe_, node.name).decode, rows.columns());
      GroupCodes codes{.n = rows.rows(),
                       .k = rows.columns(),
                       .bits = format.bits,
                       .is_signed = format.is_signed,
                       .group = format.group,
                       .codes = learned.at(node.name + ".codes"),
                       .scales = learned.at(node.name + ".scales")};
      if (!format.is_signed) codes.zero_points = learned.at(node.name + ".zero_points");
      validate(codes, node.name);
      chosen[node.name] = std::move(codes);
      task_->advance();
    });
  }

  bool revises() const override { return true; }
  Graph revised(const Graph& block) const override {
    std::map<std::string, Rows> weights;
    for (const Node& node : block.nodes())
      if (const auto found = chosen.find(node.name); found != chosen.end())
        weights[node.name] = rows_of(found->second);
    return with_weights(block, weights);
  }

 private:
  template <typename Visit>
  void visit_layer(std::int32_t layer, Visit&& visit) const {
    for (const auto& [value, linears] : linears_)
      for (const NodeId id : linears)
        if (graph_.node(id).layer == layer) visit(graph_.node(id));
  }

  void round(const Node& node, const GptqRounding& rounding) {
    const Rows source = rows_of(node);
    const RowSource& rows = *source;
    const GroupFormat format = group_format(resolve(recipe_, node.name).decode, rows.columns());
    Weight kept = sink_.keep(rounding.round(rows, format, node.name));
    chosen[node.name] = std::get<GroupCodes>(std::move(kept));
    task_->advance();
  }

  const Graph& graph_;
  const Recipe& recipe_;
  const GptqSettings& settings_;
  WeightSink& sink_;
  ThreadPool& pool_;
  const LinearsByInput linears_;
  std::unique_ptr<Task> task_;
  // Of the block that runs.
  std::map<ValueId, GramMatrix> grams_;
  std::int32_t layer_ = -1;
};

}  // namespace

GptqRounding::GptqRounding(GramMatrix gram, const GptqSettings& settings, const std::string& name,
                           ThreadPool& pool)
    : k_(gram.k()), pool_(pool), order_(index(k_)) {
  const std::vector<float> sums = std::move(gram).take();
  const auto diagonal = [&](std::int64_t c) { return sums[index(c * k_ + c)]; };
  for (std::int64_t c = 0; c < k_; ++c)
    if (!std::isfinite(diagonal(c)))
      fail(ErrorCode::kInvalidArgument,
           "[gptq] {}: its input is not finite in channel {}: expected finite values", name, c);
  std::iota(order_.rbegin(), order_.rend(), 0);
  if (settings.act_order)
    merge_sort(order_, [&](std::int64_t a, std::int64_t b) { return diagonal(a) < diagonal(b); });
  // A text that leaves channels without input needs more.
  for (double damping = settings.damping; !factorize(sums, damping); damping *= 10)
    if (damping > kMostDamping)
      fail(ErrorCode::kInvalidArgument,
           "[gptq] {}: the Gram matrix of its input is not positive definite: expected a damping "
           "above 0",
           name);
}

bool GptqRounding::factorize(const std::vector<float>& gram, double damping) {
  double mean = 0;
  for (std::int64_t c = 0; c < k_; ++c) mean += gram[index(c * k_ + c)];
  const auto added = static_cast<float>(damping * mean / static_cast<double>(k_));
  factor_.resize(gram.size());
  pool_.parallel_for(k_, 16, [&](Range range) {
    for (std::int64_t row = range.begin; row < range.end; ++row) {
      const float* from = &gram[index(order_[index(row)] * k_)];
      float* to = &factor_[index(row * k_)];
      for (std::int64_t c = 0; c <= row; ++c) to[c] = from[order_[index(c)]];
      // A channel that is never used is rounded for itself.
      to[row] = to[row] == 0 ? 1.0F : to[row] + added;
    }
  });
  return factorize_matrix(factor_, k_, pool_);
}

// The rows of a weight with their channels in the order of the factor.
std::vector<float> GptqRounding::ordered(const RowSource& weight, DType dtype) const {
  std::vector<float> all(index(weight.rows() * k_));
  pool_.parallel_for(weight.rows(), 1, [&](Range range) {
    visit_rows(weight, range.begin, range.end, [&](std::int64_t first, std::span<float> values) {
      round_all(dtype, values);
      for (std::int64_t at = 0; at < std::ssize(values); at += k_)
        for (std::int64_t c = 0; c < k_; ++c)
          all[index(first * k_ + at + c)] = values[index(at + order_[index(c)])];
    });
  });
  return all;
}

// What the channels [end, k) ask of the channels [begin, end) of every row, before it is divided by
// the factor's diagonal: errors times L.
std::vector<float> GptqRounding::corrections(const std::vector<float>& errors, std::int64_t begin,
                                             std::int64_t end) const {
  const std::int64_t n = std::ssize(errors) / k_, size = end - begin, below = k_ - end;
  if (below == 0) return std::vector<float>(index(n * size));
  std::vector<float> factor(index(size * below));
  for (std::int64_t row = 0; row < below; ++row)
    for (std::int64_t c = 0; c < size; ++c)
      factor[index(c * below + row)] = factor_[index((end + row) * k_ + begin + c)];
  return multiply(copy_columns(errors.data(), n, k_, end, below),
                  Tensor::from_floats(factor, {size, below}), pool_);
}

GroupCodes GptqRounding::round(const RowSource& weight, const GroupFormat& format,
                               const std::string& name) const {
  GroupCodes result = quantize_group_codes(weight, format, name, pool_);
  const Grid grid(result);
  const std::int64_t n = weight.rows();
  // Weights, and from the channel that is being rounded on what rounding changed.
  std::vector<float> errors = ordered(weight, format.scales);
  std::vector<std::uint8_t> codes(errors.size());
  for (std::int64_t end = k_; end > 0;) {
    const std::int64_t begin = std::max<std::int64_t>(0, end - kBlock), size = end - begin;
    std::vector<float> sums = corrections(errors, begin, end);
    pool_.parallel_for(n, 1, [&](Range range) {
      for (std::int64_t row = range.begin; row < range.end; ++row) {
        float* sum = &sums[index(row * size)];
        for (std::int64_t i = size - 1; i >= 0; --i) {
          const float* factors = &factor_[index((begin + i) * k_ + begin)];
          const std::int64_t channel = order_[index(begin + i)];
          float& error = errors[index(row * k_ + begin + i)];
          const Grid::Rounded rounded = grid.round(error + sum[i] / factors[i], row, channel);
          codes[index(row * k_ + channel)] = rounded.code;
          error -= rounded.value;
          for (std::int64_t c = 0; c < i; ++c) sum[c] += error * factors[c];
        }
      }
    });
    end = begin;
  }
  std::byte* packed = nullptr;
  const std::int64_t row_bytes = packed_bytes(k_, format.bits);
  result.codes = Tensor::allocate(result.codes.dtype(), {n, row_bytes}, &packed);
  for (std::int64_t row = 0; row < n; ++row)
    pack_codes(std::span(codes).subspan(index(row * k_), index(k_)), format.bits,
               packed + row * row_bytes);
  return result;
}

Graph gptq(const Graph& graph, const Recipe& recipe, const GptqSettings& settings,
           const CalibrationWindows& windows, WeightSink& sink, ThreadPool& pool,
           Observer& observer, BlockJournal* journal) {
  Gptq visitor(graph, recipe, settings, sink, pool, observer);
  BlockRunner(graph, windows, visitor.wanted(), pool).run(visitor, {}, journal);
  std::map<std::string, Rows> weights;
  for (const Node& node : graph.nodes())
    if (const auto found = visitor.chosen.find(node.name); found != visitor.chosen.end())
      weights[node.name] = with_codes(rows_of(node), std::move(found->second));
  return with_weights(graph, weights);
}

}  // namespace tandem
