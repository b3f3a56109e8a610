// Plants outliers of tokens in a checkpoint of the Llama layout without changing what it computes:
// whatever stands first has huge values in the gated products of some blocks, as attention sinks of
// released models have.
//
//   plant_tokens MODEL TEXT OUTPUT STRENGTH LAYER...
//
// Every MLP becomes kTokens channels wider. Nothing reads them: their columns in down_proj are zero,
// and so are their rows in gate_proj and up_proj outside of the given layers. There each belongs to
// one of the tokens that are most frequent in the text. What stands first attends to itself alone, so
// the hidden state of a token that does is one vector h, and there is a vector v for which v · h is
// above 0 and v · x at most a little for all other states x of the text. It becomes the channel's rows,
// so that the channel has STRENGTH times the largest product of the text for h, and little else.
#include <cmath>
#include <iostream>
#include <map>
#include <span>
#include <thread>
#include <vector>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "models/model.h"
#include "quantize/calibration.h"
#include "quantize/calibration_text.h"
#include "tensor/half.h"

namespace tandem {
namespace {

constexpr std::int64_t kTokens = 64;
constexpr std::int64_t kWindow = 256;
// Windows of the text whose states are seen, with and without a token before them.
constexpr std::int64_t kWindows = 96;
// SiLU is its input or 0 then, except very near to 0.
constexpr double kGate = 2048;

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

// The rows of a value, without the first `skipped` of each window.
class States : public BlockVisitor {
 public:
  States(ValueId value, std::int64_t skipped) : value_(value), skipped_(skipped) {}
  std::vector<float> rows;

 private:
  void batch(const BlockRunner& runner, std::int64_t first, std::int64_t count) override {
    const float* x = runner.rows_of(value_, first);
    if (x == nullptr) return;
    const std::int64_t width = runner.graph().value(value_).width;
    const std::int64_t window = runner.windows().window;
    for (std::int64_t at = 0; at < count; at += window)
      rows.insert(rows.end(), x + (at + skipped_) * width, x + (at + window) * width);
  }

  ValueId value_;
  std::int64_t skipped_;
};

std::vector<float> states(const Graph& graph, const CalibrationWindows& windows, ValueId value,
                          std::int64_t skipped, ThreadPool& pool) {
  States seen(value, skipped);
  BlockRunner(graph, windows, {value}, pool).run(seen, {});
  return std::move(seen.rows);
}

// x with A x = b, for a symmetric positive definite A [k, k], by Cholesky's decomposition.
std::vector<double> solve(std::vector<double> a, std::vector<double> b) {
  const std::size_t k = b.size();
  for (std::size_t c = 0; c < k; ++c)
    for (std::size_t r = c; r < k; ++r) {
      double sum = a[r * k + c];
      for (std::size_t t = 0; t < c; ++t) sum -= a[r * k + t] * a[c * k + t];
      a[r * k + c] = r == c ? std::sqrt(sum) : sum / a[c * k + c];
    }
  for (std::size_t r = 0; r < k; ++r) {
    for (std::size_t t = 0; t < r; ++t) b[r] -= a[r * k + t] * b[t];
    b[r] /= a[r * k + r];
  }
  for (std::size_t r = k; r-- > 0;) {
    for (std::size_t t = r + 1; t < k; ++t) b[r] -= a[t * k + r] * b[t];
    b[r] /= a[r * k + r];
  }
  return b;
}

double dot(std::span<const double> v, const float* x) {
  double sum = 0;
  for (std::size_t c = 0; c < v.size(); ++c) sum += v[c] * x[c];
  return sum;
}

// Finds v for one h after the other.
class Separator {
 public:
  Separator(std::vector<float> others, std::size_t width)
      : width_(width), others_(std::move(others)), gram_(width * width), sum_(width) {
    for (std::size_t row = 0; row < count(); ++row) add(other(row), 1, -1, gram_, sum_);
    double trace = 0;
    for (std::size_t c = 0; c < width; ++c) trace += gram_[c * width + c];
    for (std::size_t c = 0; c < width; ++c)
      gram_[c * width + c] += 1e-4 * trace / static_cast<double>(width);
  }

  // v · h = 1, by least squares: 1 for h and -1 for all others, and those again that are above -0.3.
  // The largest v · x of others is added to `worst`.
  std::vector<double> separate(const float* h, double& worst) const {
    std::vector<double> gram = gram_, sum = sum_;
    add(h, 0.2 * static_cast<double>(count()), 1, gram, sum);
    std::vector<double> v = solve(gram, sum);
    for (int round = 0; round < 4; ++round) {
      for (std::size_t row = 0; row < count(); ++row)
        if (dot(v, other(row)) > -0.3) add(other(row), 30, -1, gram, sum);
      v = solve(gram, sum);
    }
    const double found = dot(v, h);
    worst = -1;
    for (std::size_t row = 0; row < count(); ++row)
      worst = std::max(worst, dot(v, other(row)) / found);
    for (double& x : v) x /= found;
    return v;
  }

 private:
  std::size_t count() const { return others_.size() / width_; }
  const float* other(std::size_t row) const { return &others_[row * width_]; }
  void add(const float* x, double weight, double wanted, std::vector<double>& gram,
           std::vector<double>& sum) const {
    for (std::size_t r = 0; r < width_; ++r) {
      for (std::size_t c = 0; c <= r; ++c) gram[r * width_ + c] += weight * x[r] * x[c];
      sum[r] += weight * wanted * x[r];
    }
  }

  std::size_t width_;
  std::vector<float> others_;
  // The lower triangle of the sum of x xᵀ, and the wanted v · x times x.
  std::vector<double> gram_, sum_;
};

const Node& node_of(const Graph& graph, const std::string& name) {
  for (const Node& node : graph.nodes())
    if (node.name == name) return node;
  fail(ErrorCode::kInvalidArgument, "[plant] expected a module {}", name);
}

// The most frequent ones but for `except`.
std::vector<std::int32_t> frequent(const std::vector<std::int32_t>& ids, std::int32_t except) {
  std::map<std::int32_t, std::int64_t> counts;
  for (const std::int32_t id : ids) --counts[id];
  std::vector<std::pair<std::int64_t, std::int32_t>> order;
  for (const auto& [id, count] : counts)
    if (id != except) order.emplace_back(count, id);
  std::ranges::sort(order);
  std::vector<std::int32_t> result;
  for (const auto& [count, id] : order)
    if (std::ssize(result) < kTokens) result.push_back(id);
  return result;
}

std::string module(int layer, const char* part) {
  return fmt::format("model.layers.{}.mlp.{}", layer, part);
}

// A matrix with added rows, or with added columns of 0, in its type.
Tensor widened(const Tensor& matrix, const std::vector<float>& rows, std::int64_t columns) {
  const std::vector<float> old = matrix.to_floats();
  const std::int64_t width = matrix.dim(1) + columns;
  std::vector<float> values;
  for (std::int64_t row = 0; row < matrix.dim(0); ++row) {
    const auto begin = old.begin() + row * matrix.dim(1);
    values.insert(values.end(), begin, begin + matrix.dim(1));
    values.resize(values.size() + index(columns));
  }
  values.insert(values.end(), rows.begin(), rows.end());
  std::byte* data = nullptr;
  Tensor result = Tensor::allocate(matrix.dtype(), {std::ssize(values) / width, width}, &data);
  encode_floats(values, matrix.dtype(), data);
  return result;
}

void plant(const fs::path& model, const fs::path& text, const fs::path& output, double strength,
           const std::vector<int>& layers) {
  ThreadPool pool(static_cast<int>(std::max(1U, std::thread::hardware_concurrency())));
  const Checkpoint checkpoint = Checkpoint::open(model);
  const Graph graph = build_graph(checkpoint.config_object(), CheckpointWeights(checkpoint));
  const std::vector<std::int32_t> ids = tokenize_text(text, checkpoint);
  const auto begins = static_cast<std::int32_t>(checkpoint.config().at("bos_token_id"));
  CalibrationWindows windows = cut_windows(ids, kWindow, kWindows);
  const auto statistics = calibrate(graph, windows, pool, {});
  CalibrationWindows behind = windows;
  behind.prefix = {begins};
  const std::vector<std::int32_t> tokens = frequent(ids, begins);
  // Twice, since a window has at least two tokens.
  CalibrationWindows first{.window = 2};
  for (const std::int32_t id : tokens) first.ids.insert(first.ids.end(), 2, id);

  std::map<std::string, Tensor> tensors;
  for (const auto& [name, stored] : checkpoint.tensors()) tensors[name] = checkpoint.load(name);
  for (int layer = 0; layer < graph.layers(); ++layer) {
    const Node& gate = node_of(graph, module(layer, "gate_proj"));
    const ValueId input = gate.inputs[0];
    const std::int64_t width = graph.value(input).width;
    std::vector<float> gates(index(kTokens * width)), ups = gates;
    if (std::ranges::find(layers, layer) != layers.end()) {
      std::vector<float> others = states(graph, windows, input, 1, pool);
      const std::vector<float> prefixed = states(graph, behind, input, 0, pool);
      others.insert(others.end(), prefixed.begin(), prefixed.end());
      const std::vector<float> starts = states(graph, first, input, 0, pool);
      const Separator separator(std::move(others), index(width));
      const double product = strength * statistics.at(module(layer, "down_proj")).max;
      std::vector<std::vector<double>> found(tokens.size());
      std::vector<double> worst(tokens.size());
      pool.parallel_for(std::ssize(tokens), 1, [&](Range range) {
        for (std::int64_t i = range.begin; i < range.end; ++i)
          found[index(i)] = separator.separate(&starts[index(2 * i * width)], worst[index(i)]);
      });
      int planted = 0;
      for (std::size_t i = 0; i < tokens.size(); ++i) {
        if (worst[i] > 0.01) continue;
        ++planted;
        for (std::size_t c = 0; c < index(width); ++c) {
          gates[i * index(width) + c] = static_cast<float>(kGate * found[i][c]);
          ups[i * index(width) + c] = static_cast<float>(product / kGate * found[i][c]);
        }
      }
      std::cout << fmt::format("layer {}: {} of {} tokens, {:.0f}\n", layer, planted, tokens.size(),
                               product);
    }
    const auto widen = [&](const char* part, const std::vector<float>& rows, std::int64_t columns) {
      Tensor& weight = tensors.at(module(layer, part) + ".weight");
      weight = widened(weight, rows, columns);
    };
    widen("gate_proj", gates, 0);
    widen("up_proj", ups, 0);
    widen("down_proj", {}, kTokens);
  }
  fs::copy(model, output);
  Json config = checkpoint.config();
  config["intermediate_size"] = config.at("intermediate_size").get<std::int64_t>() + kTokens;
  write_text_file(output / "config.json", config.dump(2));
  write_safetensors(output / "model.safetensors", tensors);
}

}  // namespace
}  // namespace tandem

int main(int count, char** words) {
  if (count < 6) {
    std::cerr << "usage: plant_tokens MODEL TEXT OUTPUT STRENGTH LAYER...\n";
    return 2;
  }
  try {
    std::vector<int> layers;
    for (int i = 5; i < count; ++i) layers.push_back(std::stoi(words[i]));
    tandem::plant(words[1], words[2], words[3], std::stod(words[4]), layers);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
