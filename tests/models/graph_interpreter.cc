// The interpreter: one function for each operator, over whole matrices.
#include "models/graph_interpreter.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>
#include <numeric>

#include "graph/rotary.h"

namespace tandem::testing {
namespace {

using Matrix = std::vector<float>;  // [tokens, width], row-major

class Interpreter {
 public:
  Interpreter(const Graph& graph, std::span<const std::int32_t> ids)
      : graph_(graph), ids_(ids), tokens_(ids.size()), values_(graph.values().size()) {}

  Matrix run() {
    for (const Node& node : graph_.nodes()) values_[index(node.output)] = compute(node);
    return values_[index(graph_.output)];
  }

 private:
  static std::size_t index(ValueId id) { return static_cast<std::size_t>(id); }
  const Matrix& read(const Node& node, std::size_t i) const {
    return values_[index(node.inputs[i])];
  }

  Matrix compute(const Node& node) const {
    switch (node.op) {
      case Op::kEmbedding:
        return embed(node.as<EmbeddingAttributes>());
      case Op::kLinear:
        return multiply(read(node, 0), node.as<LinearAttributes>());
      case Op::kRmsNorm:
        return normalize(read(node, 0), node.as<RmsNormAttributes>());
      case Op::kRotaryEmbedding:
        return rotate(read(node, 0), node.as<RotaryAttributes>());
      case Op::kGroupQueryAttention:
        return attend(read(node, 0), read(node, 1), read(node, 2), node.as<AttentionAttributes>());
      case Op::kSilu:
        return silu(read(node, 0));
      case Op::kGelu:
        return gelu(read(node, 0));
      case Op::kSoftcap:
        return softcap(read(node, 0), node.as<SoftcapAttributes>().cap);
      case Op::kMul:
        return combine(read(node, 0), read(node, 1), std::multiplies<float>());
      case Op::kAdd:
        return combine(read(node, 0), read(node, 1), std::plus<float>());
      case Op::kSelectRows:
        return read(node, 0);
    }
    return {};
  }

  Matrix embed(const EmbeddingAttributes& a) const {
    const auto width = static_cast<std::size_t>(a.table.dim(1));
    Matrix y(tokens_ * width);
    for (std::size_t t = 0; t < tokens_; ++t)
      a.table.copy_floats(ids_[t] * a.table.dim(1), std::span(y).subspan(t * width, width));
    for (float& value : y) value *= a.scale;
    return y;
  }

  Matrix multiply(const Matrix& x, const LinearAttributes& a) const {
    const auto n = static_cast<std::size_t>(output_channels(a.weight));
    const auto k = static_cast<std::size_t>(input_channels(a.weight));
    const std::vector<float> w = dequantize_rows(a.weight, 0, output_channels(a.weight));
    Matrix y(tokens_ * n);
    for (std::size_t t = 0; t < tokens_; ++t)
      for (std::size_t c = 0; c < n; ++c) {
        double sum = a.bias.empty() ? 0 : a.bias.as<float>()[c];
        for (std::size_t i = 0; i < k; ++i) sum += double{x[t * k + i]} * w[c * k + i];
        y[t * n + c] = static_cast<float>(sum);
      }
    return y;
  }

  Matrix normalize(const Matrix& x, const RmsNormAttributes& a) const {
    const auto parts = tokens_ * static_cast<std::size_t>(a.heads);
    const std::size_t width = x.size() / parts;
    Matrix y(x.size());
    for (std::size_t t = 0; t < parts; ++t) {
      double squares = 0;
      for (std::size_t i = 0; i < width; ++i)
        squares += double{x[t * width + i]} * x[t * width + i];
      const double scale = 1 / std::sqrt(squares / static_cast<double>(width) + a.epsilon);
      for (std::size_t i = 0; i < width; ++i)
        y[t * width + i] = static_cast<float>(x[t * width + i] * scale * a.weight.as<float>()[i]);
    }
    return y;
  }

  Matrix rotate(const Matrix& x, const RotaryAttributes& a) const {
    const auto heads = static_cast<std::size_t>(a.heads);
    const auto head_dim = static_cast<std::size_t>(a.head_dim);
    const std::vector<float> frequencies =
        frequencies_of(a, rotary_epoch(a.extension, static_cast<std::int64_t>(tokens_)));
    const std::size_t half = frequencies.size();
    Matrix y = x;
    for (std::size_t t = 0; t < tokens_; ++t)
      for (std::size_t h = 0; h < heads; ++h)
        for (std::size_t i = 0; i < half; ++i) {
          const std::size_t first = (t * heads + h) * head_dim + i;
          const float angle = static_cast<float>(t) * frequencies[i];
          const double cosine = std::cos(double{angle}) * a.attention_factor;
          const double sine = std::sin(double{angle}) * a.attention_factor;
          y[first] = static_cast<float>(x[first] * cosine - x[first + half] * sine);
          y[first + half] = static_cast<float>(x[first + half] * cosine + x[first] * sine);
        }
    return y;
  }

  Matrix attend(const Matrix& q, const Matrix& k, const Matrix& v,
                const AttentionAttributes& a) const {
    const auto heads = static_cast<std::size_t>(a.heads);
    const auto kv_heads = static_cast<std::size_t>(a.kv_heads);
    const auto width = static_cast<std::size_t>(a.head_dim);
    Matrix y(q.size());
    for (std::size_t t = 0; t < tokens_; ++t)
      for (std::size_t h = 0; h < heads; ++h) {
        const auto window = static_cast<std::size_t>(a.window);
        const std::size_t first = a.window > 0 && t + 1 > window ? t + 1 - window : 0;
        const std::size_t kv = h / (heads / kv_heads);
        const float* query = &q[(t * heads + h) * width];
        std::vector<double> scores;
        for (std::size_t s = first; s <= t; ++s) {
          const float* key = &k[(s * kv_heads + kv) * width];
          const double score = std::inner_product(query, query + width, key, 0.0) * a.scale;
          scores.push_back(a.softcap > 0 ? a.softcap * std::tanh(score / a.softcap) : score);
        }
        const double highest = *std::max_element(scores.begin(), scores.end());
        double total = 0;
        for (double& score : scores) total += score = std::exp(score - highest);
        for (std::size_t i = 0; i < width; ++i) {
          double sum = 0;
          for (std::size_t s = first; s <= t; ++s)
            sum += scores[s - first] * v[(s * kv_heads + kv) * width + i];
          y[(t * heads + h) * width + i] = static_cast<float>(sum / total);
        }
      }
    return y;
  }

  static Matrix silu(const Matrix& x) {
    Matrix y(x.size());
    std::transform(x.begin(), x.end(), y.begin(),
                   [](float v) { return static_cast<float>(v / (1 + std::exp(-double{v}))); });
    return y;
  }

  static Matrix gelu(const Matrix& x) {
    Matrix y(x.size());
    std::transform(x.begin(), x.end(), y.begin(), [](double v) {
      return static_cast<float>(
          0.5 * v * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (v + 0.044715 * v * v * v))));
    });
    return y;
  }

  static Matrix softcap(const Matrix& x, double cap) {
    Matrix y(x.size());
    std::transform(x.begin(), x.end(), y.begin(),
                   [&](double v) { return static_cast<float>(cap * std::tanh(v / cap)); });
    return y;
  }

  template <typename Operation>
  static Matrix combine(const Matrix& a, const Matrix& b, Operation operation) {
    Matrix y(a.size());
    std::transform(a.begin(), a.end(), b.begin(), y.begin(), operation);
    return y;
  }

  const Graph& graph_;
  std::span<const std::int32_t> ids_;
  std::size_t tokens_;
  std::vector<Matrix> values_;
};

}  // namespace

std::vector<float> interpret(const Graph& graph, std::span<const std::int32_t> ids) {
  return Interpreter(graph, ids).run();
}

}  // namespace tandem::testing
