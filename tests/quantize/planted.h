// Models with outliers that change nothing of what they compute, and how far two models are apart.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "quantize/calibration.h"
#include "quantize/fake_quantize.h"
#include "quantize/linear_weights.h"
#include "quantize/scaling_groups.h"
#include "support.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem::testing {

// Windows of the demo's text.
inline CalibrationWindows demo_windows(std::int64_t windows, std::int64_t window) {
  const Tokenizer tokenizer = Tokenizer::open(demo_dir());
  return cut_windows(tokenizer.encode(read_text_file(demo_dir() / "calibration.txt")), window,
                     windows);
}

// Mean KL divergence of what a graph predicts from what another does, nats per token.
inline double divergence(const std::vector<float>& p_logits, const std::vector<float>& q_logits,
                         std::size_t vocabulary) {
  const auto log_softmax = [&](const float* logits) {
    std::vector<double> result(logits, logits + vocabulary);
    const double largest = std::ranges::max(result);
    double sum = 0;
    for (const double x : result) sum += std::exp(x - largest);
    for (double& x : result) x -= largest + std::log(sum);
    return result;
  };
  double sum = 0;
  for (std::size_t at = 0; at < p_logits.size(); at += vocabulary) {
    const auto p = log_softmax(p_logits.data() + at), q = log_softmax(q_logits.data() + at);
    for (std::size_t i = 0; i < vocabulary; ++i) sum += std::exp(p[i]) * (p[i] - q[i]);
  }
  return sum / static_cast<double>(p_logits.size() / vocabulary);
}

// A model with four channels up in every group that this absorbs, and the weights that read them
// down: the same function, with outliers in an activation of every block.
inline Graph planted(const Graph& graph, Absorber absorber, float strength) {
  const std::vector<ScalingGroup> groups = find_scaling_groups(graph);
  std::vector<std::vector<float>> factors;
  for (const ScalingGroup& group : groups) {
    factors.emplace_back();
    if (group.absorber != absorber) continue;
    const auto width = static_cast<std::size_t>(graph.value(group.value).width);
    factors.back().resize(width, 1.0F);
    for (const std::size_t channel : {5U, 20U, 45U, 60U})
      factors.back()[channel % width] = strength;
    // The query heads that share a head of values have the same.
    factors.back() = expanded_factors(group, factors.back());
    for (float& factor : factors.back()) factor = 1 / factor;
  }
  return rescale(graph, groups, factors);
}

// With every Linear of the blocks rounded, and float activations.
inline Graph rounded(const Graph& graph, const Recipe& recipe, ThreadPool& pool) {
  std::map<std::string, Rows> weights;
  for (const Node& node : graph.nodes()) {
    if (node.op != Op::kLinear || node.layer < 0) continue;
    const RowSource& rows = *rows_of(node);
    const FakeQuantizer quantizer(resolve(recipe, node.name).decode, rows.columns());
    weights[node.name] = stored_rows(
        Tensor::from_floats(quantizer.quantize_rows(rows, pool), {rows.rows(), rows.columns()}));
  }
  return with_weights(graph, weights);
}

}  // namespace tandem::testing
