// Reading rope parameters, in the spelling of transformers 5 and the earlier one, with bounds.
#include <cmath>
#include <string_view>

#include "base/error.h"
#include "models/rope.h"

namespace tandem {
namespace {

using Scaling = RopeParameters::Scaling;

// Wide enough for any model, narrow enough that every float32 result stays finite and above zero.
constexpr double kMinimum = 1e-6;
constexpr double kMaxTheta = 1e15;
constexpr double kMaxFactor = 1e6;
constexpr double kMaxContext = 1e9;

double check_positive(const JsonObject& object, std::string_view key, double value, double max) {
  if (!(value >= kMinimum && value <= max))
    fail(ErrorCode::kFormat, "[models] {}: {}: expected a number in [{}, {}], got {}",
         object.where(), key, kMinimum, max, value);
  return value;
}

double read_positive(const JsonObject& object, std::string_view key, double max) {
  return check_positive(object, key, object.get_number(key), max);
}

double read_positive_or(const JsonObject& object, std::string_view key, double fallback,
                        double max) {
  return object.has(key) ? read_positive(object, key, max) : fallback;
}

std::vector<float> read_factors(const JsonObject& object, std::string_view key) {
  const Json& list = object.at(key);
  std::vector<float> factors;
  if (!list.is_array())
    fail(ErrorCode::kFormat, "[models] {}: {}: expected an array of numbers", object.where(), key);
  for (const Json& factor : list) {
    if (!factor.is_number())
      fail(ErrorCode::kFormat, "[models] {}: {}: entry {}: expected a number", object.where(), key,
           factors.size());
    factors.push_back(
        static_cast<float>(check_positive(object, key, factor.get<double>(), kMaxFactor)));
  }
  return factors;
}

Scaling read_scaling(const JsonObject& object) {
  const char* key = object.has("rope_type") ? "rope_type" : "type";
  const std::string name = object.get_string_or(key, "default");
  if (name == "default") return Scaling::kDefault;
  if (name == "linear") return Scaling::kLinear;
  if (name == "dynamic") return Scaling::kDynamic;
  // Early Phi-3 files say "su" or "yarn" for LongRoPE.
  if (name == "longrope" || name == "su" || (name == "yarn" && object.has("long_factor")))
    return Scaling::kLongRope;
  if (name == "yarn") return Scaling::kYarn;
  if (name == "llama3") return Scaling::kLlama3;
  fail(ErrorCode::kUnsupported,
       "[models] {}: {}: expected \"default\", \"linear\", \"dynamic\", \"yarn\", \"longrope\" or "
       "\"llama3\", got \"{}\"",
       object.where(), key, name.substr(0, 64));
}

void read_llama3(const JsonObject& object, RopeParameters& parameters) {
  parameters.low_freq_factor = read_positive(object, "low_freq_factor", kMaxFactor);
  parameters.high_freq_factor = read_positive(object, "high_freq_factor", kMaxFactor);
  if (parameters.high_freq_factor <= parameters.low_freq_factor)
    fail(ErrorCode::kFormat,
         "[models] {}: high_freq_factor: expected more than low_freq_factor = {}, got {}",
         object.where(), parameters.low_freq_factor, parameters.high_freq_factor);
}

// The factor applied to cos and sin of an extended context.
double yarn_attention_factor(double factor, double weight) {
  return factor <= 1 ? 1 : 0.1 * weight * std::log(factor) + 1;
}

void read_yarn(const JsonObject& object, RopeParameters& parameters) {
  parameters.beta_fast = read_positive_or(object, "beta_fast", 32, kMaxFactor);
  parameters.beta_slow = read_positive_or(object, "beta_slow", 1, kMaxFactor);
  parameters.truncate = object.get_bool_or("truncate", true);
  const double mscale = object.get_number_or("mscale", 0);
  const double mscale_all_dim = object.get_number_or("mscale_all_dim", 0);
  double fallback = yarn_attention_factor(parameters.factor, 1);
  if (mscale != 0 && mscale_all_dim != 0)
    fallback = yarn_attention_factor(parameters.factor, mscale) /
               yarn_attention_factor(parameters.factor, mscale_all_dim);
  parameters.attention_factor = read_positive_or(object, "attention_factor", fallback, kMaxFactor);
  check_positive(object, "mscale", parameters.attention_factor, kMaxFactor);
}

void read_longrope(const JsonObject& object, RopeParameters& parameters) {
  parameters.pair_factors = read_factors(object, "short_factor");
  parameters.long_pair_factors = read_factors(object, "long_factor");
  double fallback = 1;
  if (parameters.factor > 1 && parameters.original_context > 1)
    fallback = std::sqrt(1 + std::log(parameters.factor) / std::log(parameters.original_context));
  parameters.attention_factor = read_positive_or(object, "attention_factor", fallback, kMaxFactor);
}

double read_original_context(const JsonObject& config, const JsonObject& object, Scaling scaling,
                             std::int64_t context_length) {
  constexpr const char* kKey = "original_max_position_embeddings";
  const auto context = static_cast<double>(context_length);
  if (scaling == Scaling::kDynamic) return context;
  // Outside the object it takes precedence, as in transformers.
  if (config.has(kKey)) return read_positive(config, kKey, kMaxContext);
  return read_positive_or(object, kKey, context, kMaxContext);
}

}  // namespace

RopeParameters read_rope_parameters(const JsonObject& config, std::int64_t context_length,
                                    double theta) {
  constexpr const char* kPartial = "partial_rotary_factor";
  RopeParameters parameters;
  parameters.theta = read_positive_or(config, "rope_theta", theta, kMaxTheta);
  parameters.partial = read_positive_or(config, kPartial, 1, 1);

  const bool old_spelling = config.has("rope_scaling") && !config.at("rope_scaling").empty();
  const char* key = old_spelling ? "rope_scaling" : "rope_parameters";
  if (!config.has(key)) return parameters;
  const JsonObject object = config.child(key);
  for (const char* layer_type : {"full_attention", "sliding_attention"})
    if (object.has(layer_type))
      fail(ErrorCode::kUnsupported,
           "[models] {}: {}: expected one set of parameters for all layers", object.where(),
           layer_type);
  parameters.theta = read_positive_or(object, "rope_theta", parameters.theta, kMaxTheta);
  parameters.partial = read_positive_or(object, kPartial, parameters.partial, 1);
  parameters.scaling = read_scaling(object);
  parameters.original_context =
      read_original_context(config, object, parameters.scaling, context_length);
  switch (parameters.scaling) {
    case Scaling::kDefault:
      // GGUF files contain the result of any static scaling as factors.
      if (object.has("frequency_factors"))
        parameters.pair_factors = read_factors(object, "frequency_factors");
      break;
    case Scaling::kLinear:
    case Scaling::kDynamic:
      parameters.factor = read_positive(object, "factor", kMaxFactor);
      break;
    case Scaling::kYarn:
    case Scaling::kLongRope: {
      const double stretch = static_cast<double>(context_length) / parameters.original_context;
      parameters.factor = read_positive_or(object, "factor", stretch, kMaxFactor);
      if (parameters.scaling == Scaling::kYarn) {
        read_yarn(object, parameters);
      } else {
        read_longrope(object, parameters);
      }
      break;
    }
    case Scaling::kLlama3:
      parameters.factor = read_positive(object, "factor", kMaxFactor);
      read_llama3(object, parameters);
      break;
  }
  return parameters;
}

}  // namespace tandem
