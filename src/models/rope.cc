// Rotary position embedding: reading its parameters, and the three kinds of scaling.
#include "models/rope.h"

#include <cmath>
#include <numbers>
#include <string_view>

#include "base/error.h"

namespace tandem {
namespace {

using Scaling = RopeParameters::Scaling;

// Wide enough for any model, narrow enough that float32 keeps every result finite and above zero.
constexpr double kMinimum = 1e-6;
constexpr double kMaxTheta = 1e15;
constexpr double kMaxFactor = 1e6;

double read_positive(const JsonObject& object, std::string_view key, double max) {
  const double value = object.get_number(key);
  if (!(value >= kMinimum && value <= max))
    fail(ErrorCode::kFormat, "[models] {}: {}: expected a number in [{}, {}], got {}",
         object.where(), key, kMinimum, max, value);
  return value;
}

Scaling read_scaling(const JsonObject& object) {
  const char* key = object.has("rope_type") ? "rope_type" : "type";
  const std::string name = object.get_string_or(key, "default");
  if (name == "default") return Scaling::kDefault;
  if (name == "linear") return Scaling::kLinear;
  if (name == "llama3") return Scaling::kLlama3;
  fail(ErrorCode::kUnsupported,
       "[models] {}: {}: expected \"default\", \"linear\" or \"llama3\", got \"{}\"",
       object.where(), key, name.substr(0, 64));
}

void require_full_rotation(const JsonObject& object) {
  if (object.get_number_or("partial_rotary_factor", 1) != 1)
    fail(ErrorCode::kUnsupported, "[models] {}: partial_rotary_factor: expected 1, got {}",
         object.where(), object.get_number("partial_rotary_factor"));
}

void read_llama3(const JsonObject& config, const JsonObject& object, std::int64_t context_length,
                 RopeParameters& parameters) {
  constexpr const char* kOriginal = "original_max_position_embeddings";
  constexpr double kMaxContext = 1e9;
  parameters.low_freq_factor = read_positive(object, "low_freq_factor", kMaxFactor);
  parameters.high_freq_factor = read_positive(object, "high_freq_factor", kMaxFactor);
  if (parameters.high_freq_factor <= parameters.low_freq_factor)
    fail(ErrorCode::kFormat,
         "[models] {}: high_freq_factor: expected more than low_freq_factor = {}, got {}",
         object.where(), parameters.low_freq_factor, parameters.high_freq_factor);
  if (config.has(kOriginal))  // outside the object it takes precedence, as in transformers
    parameters.original_context = read_positive(config, kOriginal, kMaxContext);
  else if (object.has(kOriginal))
    parameters.original_context = read_positive(object, kOriginal, kMaxContext);
  else
    parameters.original_context = static_cast<double>(context_length);
}

// Llama 3.1's scaling of one frequency. A division of a number by a tensor is, in torch, a
// multiplication by the tensor's reciprocal; results equal to the last bit need the same.
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

}  // namespace

RopeParameters read_rope_parameters(const JsonObject& config, std::int64_t context_length) {
  RopeParameters parameters;
  if (config.has("rope_theta")) parameters.theta = read_positive(config, "rope_theta", kMaxTheta);
  require_full_rotation(config);

  const bool old_spelling = config.has("rope_scaling") && !config.at("rope_scaling").empty();
  const char* key = old_spelling ? "rope_scaling" : "rope_parameters";
  if (!config.has(key)) return parameters;
  const JsonObject object = config.child(key);
  for (const char* layer_type : {"full_attention", "sliding_attention"})
    if (object.has(layer_type))
      fail(ErrorCode::kUnsupported,
           "[models] {}: {}: expected one set of parameters for all layers", object.where(),
           layer_type);
  if (object.has("rope_theta")) parameters.theta = read_positive(object, "rope_theta", kMaxTheta);
  require_full_rotation(object);
  parameters.scaling = read_scaling(object);
  if (parameters.scaling != Scaling::kDefault)
    parameters.factor = read_positive(object, "factor", kMaxFactor);
  if (parameters.scaling == Scaling::kLlama3)
    read_llama3(config, object, context_length, parameters);
  return parameters;
}

std::vector<float> inverse_frequencies(const RopeParameters& parameters, std::int64_t head_dim) {
  const auto theta = static_cast<float>(parameters.theta);
  const auto factor = static_cast<float>(parameters.factor);
  std::vector<float> frequencies;
  for (std::int64_t i = 0; i < head_dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(head_dim);
    float frequency = 1.0F / std::pow(theta, exponent);
    if (parameters.scaling == Scaling::kLinear) frequency /= factor;
    if (parameters.scaling == Scaling::kLlama3) frequency = scale_llama3(frequency, parameters);
    frequencies.push_back(frequency);
  }
  return frequencies;
}

}  // namespace tandem
