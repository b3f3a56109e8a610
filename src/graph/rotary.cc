// Frequencies by epoch, and the angles of a position.
#include "graph/rotary.h"

#include <algorithm>
#include <cmath>

namespace tandem {
namespace {

float rotary_power(float theta, std::size_t pair, float rotary_dim) noexcept {
  return std::pow(theta, static_cast<float>(2 * pair) / rotary_dim);
}

}  // namespace

std::vector<float> rotary_powers(float theta, std::int64_t rotary_dim) {
  std::vector<float> powers;
  for (std::int64_t i = 0; i < rotary_dim / 2; ++i)
    powers.push_back(
        rotary_power(theta, static_cast<std::size_t>(i), static_cast<float>(rotary_dim)));
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
  const auto angles = std::ranges::find(graph.nodes(), Op::kRotaryAngles, &Node::op);
  if (angles == graph.nodes().end()) return 0;
  return rotary_epoch(angles->as<RotaryAnglesAttributes>().extension, length);
}

void write_frequencies(const RotaryAnglesAttributes& attributes, std::int64_t epoch,
                       std::span<float> out) noexcept {
  const RotaryExtension& extension = attributes.extension;
  if (epoch == 0 || !extension.inverse_frequencies.empty()) {
    std::ranges::copy(epoch == 0 ? attributes.inverse_frequencies : extension.inverse_frequencies,
                      out.begin());
    return;
  }
  // Dynamic NTK (transformers' _compute_dynamic_ntk_parameters): the base grows with the sequence
  // length.
  const auto rotary_dim = 2 * static_cast<float>(attributes.inverse_frequencies.size());
  const float stretch = extension.factor * static_cast<float>(epoch) /
                            static_cast<float>(extension.original_context) -
                        (extension.factor - 1);
  const float theta = extension.theta * std::pow(stretch, rotary_dim / (rotary_dim - 2));
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = 1.0F / rotary_power(theta, i, rotary_dim);
}

void write_angles(std::span<const float> frequencies, std::int64_t position, float factor,
                  float* out) noexcept {
  float* sines = out + frequencies.size();
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    // The angle is a float32 product, as in the reference implementations; distant positions are
    // sensitive to that.
    const float angle = static_cast<float>(position) * frequencies[i];
    out[i] = std::cos(angle) * factor;
    sines[i] = std::sin(angle) * factor;
  }
}

}  // namespace tandem
