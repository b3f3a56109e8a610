// The interpreter: one function for each operator, over whole matrices.
#include "models/graph_interpreter.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <numbers>
#include <numeric>

#include "graph/ops.h"
#include "graph/rotary.h"

namespace tandem::testing {
namespace {

double rounded(double value) { return double{static_cast<float>(value)}; }

// Rounded half to even, within the range of int8.
double code_of(float value) { return double{std::clamp(std::nearbyint(value), -128.0F, 127.0F)}; }

class Interpreter {
 public:
  Interpreter(const Graph& graph, std::span<const Matrix> inputs)
      : graph_(graph), rows_(graph.row_spaces().size(), 0), values_(graph.values().size()) {
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const Value& value = graph.value(graph.inputs()[i]);
      values_[index(graph.inputs()[i])] = inputs[i];
      rows_[index(value.rows)] = inputs[i].size() / static_cast<std::size_t>(value.width);
    }
  }

  std::vector<Matrix> run() {
    for (const Node& node : graph_.nodes()) {
      rows_now_ = rows_[index(graph_.value(node.outputs[0]).rows)];
      if (node.op == Op::kDynamicQuantize) {
        quantize_rows(node);
      } else {
        values_[index(node.output())] = compute(node);
      }
    }
    return std::move(values_);
  }

 private:
  static std::size_t index(std::int32_t id) { return static_cast<std::size_t>(id); }
  const Matrix& read(const Node& node, std::size_t i) const {
    return values_[index(node.inputs[i])];
  }
  const Value& input(const Node& node, std::size_t i) const { return graph_.value(node.inputs[i]); }
  std::size_t width(const Node& node) const {
    return static_cast<std::size_t>(graph_.value(node.outputs[0]).width);
  }

  Matrix compute(const Node& node) const {
    switch (node.op) {
      case Op::kEmbedding:
        return embed(read(node, 0), node.as<EmbeddingAttributes>());
      case Op::kLinear:
        return input(node, 0).dtype != DType::kF32
                   ? multiply_codes(read(node, 0), node.as<LinearAttributes>())
                   : multiply(read(node, 0), node.as<LinearAttributes>());
      case Op::kRmsNorm:
        return normalize(read(node, 0), node.as<RmsNormAttributes>());
      case Op::kRotaryAngles:
        return angles(node.as<RotaryAnglesAttributes>());
      case Op::kRotaryEmbedding:
        return rotate(read(node, 0), read(node, 1), node.as<RotaryAttributes>());
      case Op::kGroupQueryAttention:
        return attend(read(node, 0), read(node, 1), read(node, 2), node.as<AttentionAttributes>());
      case Op::kSilu:
        return each(read(node, 0), [](double v) { return v / (1 + std::exp(-v)); });
      case Op::kGelu:
        return each(read(node, 0), [](double v) {
          return 0.5 * v *
                 (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (v + 0.044715 * v * v * v)));
        });
      case Op::kSoftcap:
        return each(read(node, 0), [cap = double{node.as<SoftcapAttributes>().cap}](double v) {
          return cap * std::tanh(v / cap);
        });
      case Op::kMul:
        return combine(read(node, 0), read(node, 1), std::multiplies<double>());
      case Op::kAdd:
        return combine(read(node, 0), read(node, 1), std::plus<double>());
      case Op::kSelectRows:
        return select(read(node, 0), read(node, 1), width(node));
      case Op::kQuantize:
        return each(read(node, 0), [scale = node.as<QuantizeAttributes>().scale](double v) {
          return code_of(static_cast<float>(v) / scale);
        });
      case Op::kQuantizeInt16:
        return each(read(node, 0), [scale = node.as<QuantizeAttributes>().scale](double v) {
          const double highest = kMaxInt16Code;
          return std::clamp<double>(std::nearbyint(static_cast<float>(v) / scale), -highest,
                                    highest);
        });
      case Op::kDequantize:
        return dequantize(node);
      case Op::kRequantize:
        return requantize(read(node, 0), node.as<RequantizeAttributes>(), width(node));
      case Op::kHadamard:
        return hadamard(read(node, 0), node.as<HadamardAttributes>());
      case Op::kShadowLinear:
        return shadow(read(node, 0), node.as<ShadowLinearAttributes>());
      case Op::kDynamicQuantize:
        break;
    }
    return {};
  }

  static Matrix embed(const Matrix& ids, const EmbeddingAttributes& a) {
    const auto columns = static_cast<std::size_t>(a.table.dim(1));
    std::vector<float> row(columns);
    Matrix y;
    for (const double id : ids) {
      a.table.copy_floats(static_cast<std::int64_t>(id) * a.table.dim(1), row);
      for (const float value : row) y.push_back(double{value * a.scale});
    }
    return y;
  }

  Matrix multiply(const Matrix& x, const LinearAttributes& a) const {
    const auto n = static_cast<std::size_t>(output_channels(a.weight));
    const auto k = static_cast<std::size_t>(input_channels(a.weight));
    const std::vector<float> w = dequantize_rows(a.weight, 0, output_channels(a.weight));
    Matrix y(rows_now_ * n);
    for (std::size_t t = 0; t < rows_now_; ++t)
      for (std::size_t c = 0; c < n; ++c) {
        double sum = a.bias.empty() ? 0 : a.bias.as<float>()[c];
        for (std::size_t i = 0; i < k; ++i) sum += x[t * k + i] * w[c * k + i];
        y[t * n + c] = rounded(sum);
      }
    return y;
  }

  Matrix multiply_codes(const Matrix& x, const LinearAttributes& a) const {
    const auto& weight = std::get<ChannelCodes>(a.weight);
    const auto n = static_cast<std::size_t>(weight.n);
    const auto k = static_cast<std::size_t>(weight.k);
    Matrix y(rows_now_ * n);
    std::vector<std::int8_t> row(k);
    for (std::size_t c = 0; c < n; ++c) {
      read_codes(weight, static_cast<std::int64_t>(c), 0, row);
      for (std::size_t t = 0; t < rows_now_; ++t)
        for (std::size_t i = 0; i < k; ++i)
          y[t * n + c] += std::min<double>(x[t * k + i], kMaxInt16Code) * row[i];
    }
    return y;
  }

  Matrix shadow(const Matrix& x, const ShadowLinearAttributes& a) const {
    const auto n = static_cast<std::size_t>(a.weight.dim(1));
    const std::size_t k = x.size() / rows_now_;
    const std::vector<float> w = a.weight.to_floats();
    Matrix y(rows_now_ * n);
    for (std::size_t t = 0; t < rows_now_; ++t)
      for (std::size_t h = 0; h < w.size() / n; ++h) {
        const double value = x[t * k + static_cast<std::size_t>(a.channels.as<std::int32_t>()[h])];
        const float quotient = static_cast<float>(value) / a.scale;
        const double code = code_of(quotient);
        if (code == double{std::nearbyint(quotient)}) continue;
        for (std::size_t c = 0; c < n; ++c) y[t * n + c] += (value - code * a.scale) * w[h * n + c];
      }
    for (double& value : y) value = rounded(value);
    return y;
  }

  Matrix normalize(const Matrix& x, const RmsNormAttributes& a) const {
    const auto parts = rows_now_ * static_cast<std::size_t>(a.heads);
    const std::size_t columns = x.size() / parts;
    Matrix y(x.size());
    for (std::size_t t = 0; t < parts; ++t) {
      double squares = 0;
      for (std::size_t i = 0; i < columns; ++i) squares += x[t * columns + i] * x[t * columns + i];
      const double scale = 1 / std::sqrt(squares / static_cast<double>(columns) + a.epsilon);
      for (std::size_t i = 0; i < columns; ++i)
        y[t * columns + i] = rounded(x[t * columns + i] * scale * a.weight.as<float>()[i]);
    }
    return y;
  }

  Matrix angles(const RotaryAnglesAttributes& a) const {
    std::vector<float> frequencies(a.inverse_frequencies.size());
    write_frequencies(a, rotary_epoch(a.extension, static_cast<std::int64_t>(rows_now_)),
                      frequencies);
    const std::size_t half = frequencies.size();
    Matrix y(rows_now_ * 2 * half);
    for (std::size_t t = 0; t < rows_now_; ++t)
      for (std::size_t i = 0; i < half; ++i) {
        const float angle = static_cast<float>(t) * frequencies[i];
        y[t * 2 * half + i] = rounded(std::cos(double{angle}) * a.attention_factor);
        y[t * 2 * half + half + i] = rounded(std::sin(double{angle}) * a.attention_factor);
      }
    return y;
  }

  Matrix rotate(const Matrix& x, const Matrix& angles, const RotaryAttributes& a) const {
    const auto heads = static_cast<std::size_t>(a.heads);
    const auto head_dim = static_cast<std::size_t>(a.head_dim);
    const std::size_t half = angles.size() / rows_now_ / 2;
    Matrix y = x;
    for (std::size_t t = 0; t < rows_now_; ++t)
      for (std::size_t h = 0; h < heads; ++h)
        for (std::size_t i = 0; i < half; ++i) {
          const std::size_t first = (t * heads + h) * head_dim + i;
          const double cosine = angles[t * 2 * half + i];
          const double sine = angles[t * 2 * half + half + i];
          y[first] = rounded(x[first] * cosine - x[first + half] * sine);
          y[first + half] = rounded(x[first + half] * cosine + x[first] * sine);
        }
    return y;
  }

  Matrix attend(const Matrix& q, const Matrix& k, const Matrix& v,
                const AttentionAttributes& a) const {
    const auto heads = static_cast<std::size_t>(a.heads);
    const auto kv_heads = static_cast<std::size_t>(a.kv_heads);
    const auto columns = static_cast<std::size_t>(a.head_dim);
    Matrix y(q.size());
    for (std::size_t t = 0; t < rows_now_; ++t)
      for (std::size_t h = 0; h < heads; ++h) {
        const auto window = static_cast<std::size_t>(a.window);
        const std::size_t first = a.window > 0 && t + 1 > window ? t + 1 - window : 0;
        const std::size_t kv = h / (heads / kv_heads);
        const double* query = &q[(t * heads + h) * columns];
        std::vector<double> scores;
        for (std::size_t s = first; s <= t; ++s) {
          const double* key = &k[(s * kv_heads + kv) * columns];
          const double score = std::inner_product(query, query + columns, key, 0.0) * a.scale;
          scores.push_back(a.softcap > 0 ? a.softcap * std::tanh(score / a.softcap) : score);
        }
        const double highest = *std::max_element(scores.begin(), scores.end());
        double total = 0;
        for (double& score : scores) total += score = std::exp(score - highest);
        for (std::size_t i = 0; i < columns; ++i) {
          double sum = 0;
          for (std::size_t s = first; s <= t; ++s)
            sum += scores[s - first] * v[(s * kv_heads + kv) * columns + i];
          y[(t * heads + h) * columns + i] = rounded(sum / total);
        }
      }
    return y;
  }

  Matrix select(const Matrix& x, const Matrix& numbers, std::size_t columns) const {
    Matrix y;
    for (const double number : numbers) {
      const auto row =
          x.begin() + static_cast<std::ptrdiff_t>(number) * static_cast<std::ptrdiff_t>(columns);
      y.insert(y.end(), row, row + static_cast<std::ptrdiff_t>(columns));
    }
    return y;
  }

  // Scale max|x| / 127, codes x * (1 / scale), both in float; a row of zeros has the scale 0.
  void quantize_rows(const Node& node) {
    const Matrix& x = read(node, 0);
    const std::size_t columns = width(node);
    Matrix codes(x.size()), scales(rows_now_);
    for (std::size_t t = 0; t < rows_now_; ++t) {
      float largest = 0;
      for (std::size_t i = 0; i < columns; ++i)
        largest = std::max(largest, std::abs(static_cast<float>(x[t * columns + i])));
      const float scale = largest / 127.0F;
      scales[t] = double{scale};
      const float inverse = scale > 0 ? 1 / scale : 0;
      for (std::size_t i = 0; i < columns; ++i)
        codes[t * columns + i] = code_of(static_cast<float>(x[t * columns + i]) * inverse);
    }
    values_[index(node.outputs[0])] = std::move(codes);
    values_[index(node.outputs[1])] = std::move(scales);
  }

  // In float: code * (scale of the row * scale of the column) + bias.
  Matrix dequantize(const Node& node) const {
    const Matrix& codes = read(node, 0);
    const Tensor& bias = node.as<DequantizeAttributes>().bias;
    const auto& quantization = input(node, 0).quantization;
    const std::size_t columns = width(node);
    Matrix y(codes.size());
    for (std::size_t i = 0; i < codes.size(); ++i) {
      const std::size_t c = i % columns;
      float scale = 1;
      if (quantization) {
        const auto scales = quantization->scales.as<float>();
        scale = scales[scales.size() == 1 ? 0 : c];
      }
      if (node.inputs.size() > 1) scale = static_cast<float>(read(node, 1)[i / columns]) * scale;
      float value = static_cast<float>(codes[i]) * scale;
      if (!bias.empty()) value += bias.as<float>()[c];
      y[i] = double{value};
    }
    return y;
  }

  // Times 2^-shift, rounded half up, within the range of the codes.
  static Matrix requantize(const Matrix& sums, const RequantizeAttributes& a, std::size_t columns) {
    const double highest = a.dtype == DType::kI8 ? 127 : 32767;
    Matrix y(sums.size());
    for (std::size_t i = 0; i < sums.size(); ++i) {
      const std::int64_t shift = a.shifts[a.shifts.size() == 1 ? 0 : i % columns];
      const double exact = std::ldexp(sums[i], -static_cast<int>(shift));
      y[i] = std::clamp(std::floor(exact + 0.5), -highest - 1, highest);
    }
    return y;
  }

  static Matrix hadamard(const Matrix& x, const HadamardAttributes& a) {
    const auto block = static_cast<std::size_t>(a.block), m = static_cast<std::size_t>(a.m());
    const std::size_t n = block / m;
    const std::vector<float> factor = m == 1 ? std::vector<float>{1} : a.factor.to_floats();
    Matrix y(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const std::size_t column = i % block, first = i - column;
      double sum = 0;
      for (std::size_t j = 0; j < block; ++j)
        sum += factor[j / n * m + column / n] *
               (std::popcount(column % n & j % n) % 2 == 0 ? 1 : -1) * x[first + j];
      y[i] = rounded(sum / std::sqrt(static_cast<double>(n)));
    }
    return y;
  }

  template <typename Function>
  static Matrix each(const Matrix& x, Function function) {
    Matrix y(x.size());
    std::transform(x.begin(), x.end(), y.begin(), [&](double v) { return rounded(function(v)); });
    return y;
  }

  template <typename Operation>
  static Matrix combine(const Matrix& a, const Matrix& b, Operation operation) {
    Matrix y(a.size());
    std::transform(a.begin(), a.end(), b.begin(), y.begin(),
                   [&](double p, double q) { return rounded(operation(p, q)); });
    return y;
  }

  const Graph& graph_;
  // By row space.
  std::vector<std::size_t> rows_;
  // Of what the node at hand writes.
  std::size_t rows_now_ = 0;
  std::vector<Matrix> values_;
};

}  // namespace

std::vector<Matrix> interpret_values(const Graph& graph, std::span<const Matrix> inputs) {
  return Interpreter(graph, inputs).run();
}

std::vector<float> interpret(const Graph& graph, std::span<const std::int32_t> ids) {
  std::vector<Matrix> inputs = {{ids.begin(), ids.end()}, {}};
  for (std::size_t i = 0; i < ids.size(); ++i) inputs[1].push_back(static_cast<double>(i));
  const std::vector<Matrix> values = interpret_values(graph, inputs);
  const Matrix& logits = values[static_cast<std::size_t>(graph.outputs()[0])];
  return {logits.begin(), logits.end()};
}

}  // namespace tandem::testing
