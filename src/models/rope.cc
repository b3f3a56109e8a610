// Inverse frequencies for each kind of scaling.
#include "models/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"
#include "graph/rotary.h"

namespace tandem {
namespace {

using Scaling = RopeParameters::Scaling;

// Llama 3.1's scaling of one frequency. In torch, dividing a number by a tensor is a multiplication
// by the tensor's reciprocal; bit-exact results need the same.
float scale_llama3(float frequency, const RopeParameters& parameters) {
  const auto factor = static_cast<float>(parameters.factor);
  const auto context = static_cast<float>(parameters.original_context);
  const auto low = static_cast<float>(parameters.low_freq_factor);
  const auto longest = static_cast<float>(parameters.original_context / parameters.low_freq_factor);
  const auto shortest =
      static_cast<float>(parameters.original_context / parameters.high_freq_factor);
  const auto span = static_cast<float>(parameters.high_freq_factor - parameters.low_freq_factor);

  const float wavelength = (1.0F / frequency) * static_cast<float>(2 * std::numbers::pi);
  if (wavelength > longest) return frequency / factor;
  if (wavelength < shortest) return frequency;
  const float smooth = ((1.0F / wavelength) * context - low) / span;
  return (1.0F - smooth) * frequency / factor + smooth * frequency;
}

// The (fractional) pair that makes `turns` rotations within the original context.
double yarn_pair(double turns, double rotary_dim, const RopeParameters& parameters) {
  return rotary_dim * std::log(parameters.original_context / (turns * 2 * std::numbers::pi)) /
         (2 * std::log(parameters.theta));
}

// Arithmetic as in YaRN (arXiv 2309.00071, section 3.2): interpolated and original frequencies,
// mixed by a ramp over the pairs.
std::vector<float> scale_yarn(const RopeParameters& parameters, const std::vector<float>& powers) {
  const auto rotary_dim = 2 * static_cast<double>(powers.size());
  double low = yarn_pair(parameters.beta_fast, rotary_dim, parameters);
  double high = yarn_pair(parameters.beta_slow, rotary_dim, parameters);
  if (parameters.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, rotary_dim - 1);
  if (low == high) high += 0.001;
  std::vector<float> frequencies;
  for (std::size_t i = 0; i < powers.size(); ++i) {
    const float ramp = std::clamp(
        (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0F,
        1.0F);
    const float kept = 1.0F - ramp;
    const float stretched = 1.0F / (static_cast<float>(parameters.factor) * powers[i]);
    frequencies.push_back(stretched * (1.0F - kept) + 1.0F / powers[i] * kept);
  }
  return frequencies;
}

// 1 / (factor * theta^exponent) for each pair.
std::vector<float> divide_pairs(const std::vector<float>& factors, const std::vector<float>& powers,
                                const std::string& where) {
  if (factors.size() != powers.size())
    fail(ErrorCode::kFormat,
         "[models] {}: rope scaling: expected a factor for each of {} pairs, got {}", where,
         powers.size(), factors.size());
  std::vector<float> frequencies;
  for (std::size_t i = 0; i < powers.size(); ++i)
    frequencies.push_back(1.0F / (factors[i] * powers[i]));
  return frequencies;
}

}  // namespace

std::int64_t scaled_context(const RopeParameters& parameters, std::int64_t context_length) {
  switch (parameters.scaling) {
    case Scaling::kLinear:
    case Scaling::kDynamic:
    case Scaling::kYarn: {
      const double trained = parameters.scaling == Scaling::kYarn
                                 ? parameters.original_context
                                 : static_cast<double>(context_length);
      constexpr double kMost = std::int64_t{1} << 30;
      return std::max(context_length,
                      static_cast<std::int64_t>(std::min(trained * parameters.factor, kMost)));
    }
    case Scaling::kDefault:
    case Scaling::kLongRope:
    case Scaling::kLlama3:
      return context_length;
  }
  return context_length;
}

Rope make_rope(const RopeParameters& parameters, std::int64_t head_dim, const std::string& where) {
  const auto rotary_dim =
      static_cast<std::int64_t>(static_cast<double>(head_dim) * parameters.partial);
  if (rotary_dim < 2 || rotary_dim % 2 != 0)
    fail(ErrorCode::kFormat,
         "[models] {}: partial_rotary_factor: expected an even part of head_dim = {}, got {}",
         where, head_dim, rotary_dim);
  Rope rope;
  rope.attention_factor = static_cast<float>(parameters.attention_factor);
  const auto theta = static_cast<float>(parameters.theta);
  const std::vector<float> powers = rotary_powers(theta, rotary_dim);
  rope.inverse_frequencies = unscaled_frequencies(theta, rotary_dim);
  switch (parameters.scaling) {
    case Scaling::kDefault:
      if (!parameters.pair_factors.empty())
        rope.inverse_frequencies = divide_pairs(parameters.pair_factors, powers, where);
      break;
    case Scaling::kLinear:
      for (float& frequency : rope.inverse_frequencies)
        frequency /= static_cast<float>(parameters.factor);
      break;
    case Scaling::kDynamic:
      if (rotary_dim == 2)
        fail(ErrorCode::kFormat,
             "[models] {}: head_dim: expected more than one pair for dynamic rope scaling", where);
      rope.extension = {.original_context = static_cast<std::int64_t>(parameters.original_context),
                        .inverse_frequencies = {},
                        .theta = theta,
                        .factor = static_cast<float>(parameters.factor)};
      break;
    case Scaling::kYarn:
      rope.inverse_frequencies = scale_yarn(parameters, powers);
      break;
    case Scaling::kLongRope:
      rope.inverse_frequencies = divide_pairs(parameters.pair_factors, powers, where);
      rope.extension.original_context = static_cast<std::int64_t>(parameters.original_context);
      rope.extension.inverse_frequencies =
          divide_pairs(parameters.long_pair_factors, powers, where);
      break;
    case Scaling::kLlama3:
      for (float& frequency : rope.inverse_frequencies)
        frequency = scale_llama3(frequency, parameters);
      break;
  }
  return rope;
}

}  // namespace tandem
