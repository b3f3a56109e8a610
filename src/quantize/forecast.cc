// Counts operations and bytes. The constants are those of runs on models of 5 million to 1.2
// billion weights; docs/performance.md says how far forecasts were off.
#include "quantize/forecast.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <set>
#include <vector>

#include "quantize/awq.h"
#include "quantize/journal.h"
#include "quantize/kept_codes.h"
#include "quantize/passes.h"
#include "quantize/products.h"
#include "quantize/quantize_linears.h"
#include "quantize/smoothquant.h"
#include "tensor/weight.h"

namespace tandem {
namespace {

// Of a block, compared with the product that is measured: attention, norms and packing.
constexpr double kBlockEfficiency = 0.85;
// Seconds for a weight and a thread: rounding it, making its codes and writing them.
constexpr double kRoundSeconds = 2.5e-9, kCodeSeconds = 6e-9;
constexpr int kAwqClips = 10, kSeqMseClips = 40;
constexpr std::int64_t kProcessBytes = 120LL << 20;

struct Linear {
  double n = 0, k = 0;
  Scheme decode;
  double weights() const { return n * k; }
  double group() const { return decode.group > 0 ? static_cast<double>(decode.group) : k; }
};

// What the passes cost depends on.
struct ModelShape {
  // By layer.
  std::map<std::int32_t, std::vector<Linear>> blocks;
  std::vector<Linear> all;
  // Widths of the values that the Linears of blocks read, each once.
  std::vector<double> inputs;
  double hidden = 0;
  double embedding_bytes = 0;
};

ModelShape shape_of(const Graph& graph, const Recipe& recipe) {
  ModelShape shape;
  std::map<ValueId, double> inputs;
  for (const Node& node : graph.nodes()) {
    if (node.op == Op::kEmbedding) {
      const auto& table = node.as<EmbeddingAttributes>().table;
      shape.hidden = static_cast<double>(table.dim(1));
      shape.embedding_bytes = static_cast<double>(table.bytes().size());
    }
    if (node.op != Op::kLinear) continue;
    const Weight& weight = node.as<LinearAttributes>().weight;
    const Linear linear{static_cast<double>(output_channels(weight)),
                        static_cast<double>(input_channels(weight)), plan_of(recipe, node).decode};
    shape.all.push_back(linear);
    if (node.layer < 0) continue;
    shape.blocks[node.layer].push_back(linear);
    inputs[node.inputs[0]] = linear.k;
  }
  for (const auto& [value, width] : inputs) shape.inputs.push_back(width);
  return shape;
}

struct OutputBytes {
  std::int64_t made = 0;
  // Weights that stay as they are: those of both phases and of a tied head are stored once.
  std::int64_t kept = 0;
  // A table that a pass makes, which is kept until the output is whole.
  std::int64_t table = 0;
};

OutputBytes output_of(const Graph& graph, const Recipe& recipe, int phases) {
  OutputBytes bytes;
  std::set<const std::byte*> stored;
  const auto keep = [&](const Node& linear) {
    const std::vector<Tensor> parts = parts_of(linear.as<LinearAttributes>().weight);
    if (parts.empty() || stored.insert(parts.front().bytes().data()).second)
      bytes.kept += bytes_in(linear, {});
  };
  for (const Node& node : graph.nodes()) {
    if (node.op == Op::kEmbedding) {
      const Tensor& table = node.as<EmbeddingAttributes>().table;
      if (rotates_embedding(recipe)) {
        bytes.table += table.elements() * static_cast<std::int64_t>(sizeof(float));
      } else if (stored.insert(table.bytes().data()).second) {
        bytes.kept += static_cast<std::int64_t>(table.bytes().size());
      }
    }
    if (node.op != Op::kLinear) continue;
    const ModulePlan plan = plan_of(recipe, node);
    const auto add = [&](const Scheme& scheme) {
      if (scheme.weights == WeightType::kFloat) return keep(node);
      bytes.made += bytes_in(node, scheme);
    };
    add(plan.decode);
    if (phases > 1 && plan.prefill != plan.decode) add(plan.prefill);
  }
  return bytes;
}

// Floating-point operations for each second of a product of the usual size.
double measure_speed(ThreadPool& pool) {
  constexpr std::int64_t kRows = 512, kWidth = 1024;
  const std::vector<float> x(static_cast<std::size_t>(kRows * kWidth), 0.5F);
  const Tensor weight = Tensor::from_floats(
      std::vector<float>(static_cast<std::size_t>(kWidth * kWidth), 0.25F), {kWidth, kWidth});
  double least = 1e9;
  for (int i = 0; i < 4; ++i) {
    const auto start = std::chrono::steady_clock::now();
    multiply(x, weight, pool);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    least = std::min(least, took.count());
  }
  return 2.0 * kRows * kWidth * kWidth / least;
}

class Counter {
 public:
  Counter(const ModelShape& shape, double tokens) : shape_(shape), tokens_(tokens) {
    for (const auto& [layer, linears] : shape.blocks)
      for (const Linear& linear : linears) weights_ += linear.weights();
  }

  // Operations of products, and seconds of one thread for the rest.
  double operations = 0;
  double seconds = 0;

  void run_blocks() { operations += 2 * weights_ * tokens_ / kBlockEfficiency; }

  void awq(double search_tokens) {
    run_blocks();
    const double searched = searched_of(search_tokens);
    // Every Linear once with its block, and the one of a single reader again for itself.
    operations += kAwqExponents * 2.6 * weights_ * searched / kBlockEfficiency;
    seconds += kAwqExponents * 1.4 * weights_ * kRoundSeconds;
    clip(kAwqClips);
  }

  // Every Linear, also those that nothing is searched for unless it is everywhere.
  void search_alpha(double search_tokens) {
    operations += kSmoothQuantAlphas * 2 * weights_ * searched_of(search_tokens) / kBlockEfficiency;
    seconds += kSmoothQuantAlphas * weights_ * kRoundSeconds;
  }

  void seqmse() {
    run_blocks();
    run_blocks();
    clip(kSeqMseClips);
  }

  void gptq() {
    run_blocks();
    run_blocks();
    for (const double k : shape_.inputs)
      operations += 1.3 * tokens_ * k * k + 2 * k * k * k / kBlockEfficiency;
    for (const auto& [layer, linears] : shape_.blocks)
      for (const Linear& linear : linears) {
        operations += linear.weights() * linear.k;
        seconds += linear.weights() * 80 * kRoundSeconds;
      }
  }

  void clip(int trials) {
    for (const auto& [layer, linears] : shape_.blocks)
      for (const Linear& linear : linears)
        if (linear.decode.weights != WeightType::kFloat) {
          seconds += trials * linear.weights() * kRoundSeconds;
          operations += trials * 2 * linear.weights() * std::min(linear.group(), 512.0);
        }
  }

  // Every input with and without hot channels, through half of the blocks on average and the head, on
  // two windows.
  void shadows(double window) {
    constexpr double kTrials = 2;
    double head = -weights_;
    for (const Linear& linear : shape_.all) head += linear.weights();
    operations += kTrials * static_cast<double>(shape_.inputs.size()) * 2 * (weights_ / 2 + head) *
                  std::min(2 * window, tokens_) / kBlockEfficiency;
  }

  void make_codes(int phases) {
    for (const Linear& linear : shape_.all) seconds += phases * linear.weights() * kCodeSeconds;
  }

 private:
  double searched_of(double search_tokens) const {
    return search_tokens > 0 ? std::min(search_tokens, tokens_) : tokens_;
  }

  const ModelShape& shape_;
  double tokens_;
  // Of all blocks.
  double weights_ = 0;
};

bool searches_alpha(const PassStep& step) {
  const auto found = step.settings.find("alpha");
  return step.name == "smoothquant" && found != step.settings.end() && *found == "search";
}

// Tokens that awq searches on, or smoothquant; nothing for another pass.
double search_tokens(const PassStep& step) {
  const auto found = step.settings.find("search_tokens");
  return found == step.settings.end() ? static_cast<double>(AwqSettings().search_tokens)
                                      : found->get<double>();
}

double count_memory(const ModelShape& shape, const Recipe& recipe, double tokens) {
  double block = 0, widest = 0, largest = 0, inputs = 0;
  for (const auto& [layer, linears] : shape.blocks) {
    double weights = 0;
    for (const Linear& linear : linears) {
      weights += linear.weights();
      largest = std::max(largest, linear.weights());
      widest = std::max(widest, linear.k);
    }
    block = std::max(block, weights);
  }
  for (const double width : shape.inputs) inputs += width;
  inputs /= std::max<double>(1, static_cast<double>(shape.blocks.size()));
  double most = tokens > 0 ? block * 4 : 0;
  double hidden = 1;
  for (const PassStep& step : recipe.passes) {
    double extra = 0;
    if (step.name == "awq" || searches_alpha(step)) {
      const double searched = search_tokens(step) > 0 ? search_tokens(step) : tokens;
      extra = 12 * largest + 4 * std::min(searched, tokens) * (inputs + 3 * widest);
    }
    if (step.name == "gptq") extra = 8 * widest * widest + 16 * largest;
    if (step.name == "seqmse") extra = 4 * 1024 * inputs + 4 * largest;
    if (step.name == "gptq" || step.name == "seqmse") hidden = 2;
    most = std::max(most, block * 4 + extra);
  }
  // Of each channel a histogram.
  constexpr double kHistogramBytes = 2048;
  if (recipe.calibration.shadow.budget > 0) most += kHistogramBytes * inputs;
  return kProcessBytes + most + hidden * tokens * shape.hidden * 4 + shape.embedding_bytes;
}

}  // namespace

Forecast forecast(const Graph& graph, const Recipe& recipe, std::int64_t tokens, int phases,
                  ThreadPool& pool) {
  const ModelShape shape = shape_of(graph, recipe);
  const auto count = static_cast<double>(tokens);
  Counter counter(shape, count);
  for (const PassStep& step : recipe.passes) {
    if (step.name == "awq") counter.awq(search_tokens(step));
    if (step.name == "gptq") counter.gptq();
    if (step.name == "seqmse") counter.seqmse();
    if (step.name == "mse_clip") counter.clip(kSeqMseClips);
    if (step.name == "smoothquant") counter.run_blocks();
    if (searches_alpha(step)) counter.search_alpha(search_tokens(step));
  }
  if (phases > 1 && has_static_inputs(recipe, graph)) {
    counter.run_blocks();
    if (recipe.calibration.shadow.budget > 0)
      counter.shadows(static_cast<double>(recipe.calibration.window));
  }
  counter.make_codes(phases);
  const double seconds =
      counter.operations / measure_speed(pool) + counter.seconds / pool.threads();
  // Codes wait in a file of their own; finished blocks wait if the work takes its time.
  const OutputBytes output = output_of(graph, recipe, phases);
  const std::chrono::duration<double> interval = kJournalInterval;
  const double blocks = seconds > interval.count() ? count * shape.hidden * 4 : 0;
  return {seconds, static_cast<std::int64_t>(count_memory(shape, recipe, count)),
          output.made + output.kept + output.table,
          output.made + output.table + static_cast<std::int64_t>(blocks)};
}

std::int64_t peak_memory_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace tandem
