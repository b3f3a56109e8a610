#include "graph/rotary.h"

#include <algorithm>
#include <cmath>

namespace tandem {

std::vector<float> rotary_powers(float theta, std::int64_t rotary_dim) {
  std::vector<float> powers;
  for (std::int64_t i = 0; i < rotary_dim; i += 2)
    powers.push_back(std::pow(theta, static_cast<float>(i) / static_cast<float>(rotary_dim)));
  return powers;
}

std::vector<float> unscaled_frequencies(float theta, std::int64_t rotary_dim) {
  std::vector<float> frequencies = rotary_powers(theta, rotary_dim);
  for (float& frequency : frequencies) frequency = 1.0F / frequency;
  return frequencies;
}

std::int64_t rotary_epoch(const RotaryExtension& extension, std::int64_t length) noexcept {
  if (extension.original_context == 0 || length <= extension.original_context) return 0;
  return extension.inverse_frequencies.empty() ? length : 1;
}

std::int64_t rotary_epoch(const Graph& graph, std::int64_t length) noexcept {
  const auto rotary = std::ranges::find(graph.nodes(), Op::kRotaryEmbedding, &Node::op);
  if (rotary == graph.nodes().end()) return 0;
  return rotary_epoch(rotary->as<RotaryAttributes>().extension, length);
}

std::vector<float> frequencies_of(const RotaryAttributes& attributes, std::int64_t epoch) {
  const RotaryExtension& extension = attributes.extension;
  if (epoch == 0) return attributes.inverse_frequencies;
  if (!extension.inverse_frequencies.empty()) return extension.inverse_frequencies;
  // Dynamic NTK (transformers' _compute_dynamic_ntk_parameters): the longer the sequence, the
  // larger the base.
  const auto rotary_dim = 2 * static_cast<float>(attributes.inverse_frequencies.size());
  const float stretch = extension.factor * static_cast<float>(epoch) /
                            static_cast<float>(extension.original_context) -
                        (extension.factor - 1);
  const float theta = extension.theta * std::pow(stretch, rotary_dim / (rotary_dim - 2));
  return unscaled_frequencies(theta, static_cast<std::int64_t>(rotary_dim));
}

}  // namespace tandem
