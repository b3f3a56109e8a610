// What becomes of a model when it is quantized, as data: which passes rewrite its graph, what each
// Linear's weight becomes for either phase, and how activations are calibrated.
//
//   {
//     "passes": ["fold_norms", "untie_head"],
//     "rules": [
//       {"match": "*", "decode": {"weights": "uint4", "group": 128},
//                      "prefill": {"weights": "int8", "activations": "static"}},
//       {"match": "lm_head", "decode": {"weights": "uint4", "group": 32}, "prefill": "decode",
//        "keep_codes": true},
//       {"match": "re:layers\\.[01]\\..*down_proj", "decode": "float", "prefill": "decode"}
//     ],
//     "calibration": {"samples": 128, "window": 512, "input_scale": "least_error",
//                     "prefix": "none", "shadow": "none"},
//     "chunk": 128,
//     "kv": "float16"
//   }
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "tensor/dtype.h"

namespace tandem {

enum class WeightType : std::uint8_t { kFloat, kUint4, kInt4, kUint8, kInt8 };
std::string_view to_string(WeightType type) noexcept;
// Of its codes, 4 or 8; not for kFloat.
constexpr int bits_of(WeightType type) noexcept {
  return type == WeightType::kUint4 || type == WeightType::kInt4 ? 4 : 8;
}
constexpr bool is_signed(WeightType type) noexcept {
  return type == WeightType::kInt4 || type == WeightType::kInt8;
}

// How an int8 Linear gets its int8 or int16 input.
enum class ActivationType : std::uint8_t {
  // Not at all: the codes are computed with as kernels see fit.
  kFloat,
  // With one scale, from calibration.
  kStatic,
  // The same, int16.
  kStatic16,
  // With a scale for each token.
  kDynamic,
};
std::string_view to_string(ActivationType type) noexcept;
constexpr bool is_static(ActivationType type) noexcept {
  return type == ActivationType::kStatic || type == ActivationType::kStatic16;
}

// As a group size: one scale for all of a weight, of 8 bits.
inline constexpr std::int64_t kWholeTensor = -1;

// What a Linear becomes.
struct Scheme {
  WeightType weights = WeightType::kFloat;
  // Input channels that share a scale; 0: the whole row; kWholeTensor: all rows. For int4 with
  // activations: those of a block (ChannelCodes).
  std::int64_t group = 0;
  // Of the scales: F16, BF16 or F32.
  DType scales = DType::kF16;
  // Other than kFloat: int8, or int4 in blocks, with one F32 scale for each row.
  ActivationType activations = ActivationType::kFloat;

  bool operator==(const Scheme&) const = default;
};

// Whether the Linears multiply codes by codes: the weights are int8, or int4 that expand to it.
constexpr bool multiplies_codes(const Scheme& scheme) noexcept {
  return scheme.weights != WeightType::kFloat && scheme.activations != ActivationType::kFloat;
}
// Of those, int4: ChannelCodes with a scale for each block.
constexpr bool has_blocks(const Scheme& scheme) noexcept {
  return scheme.weights == WeightType::kInt4 && multiplies_codes(scheme);
}

// Rules apply in their order; a later one replaces what it says.
struct Rule {
  // A module's full name, a pattern with * and ?, or "re:" and a regular expression that matches
  // somewhere in the name.
  std::string match;
  std::optional<Scheme> decode = {};
  std::optional<Scheme> prefill = {};
  // The prompt is read with what answers are written with.
  bool prefill_as_decode = false;
  // `decode` is for float modules only: one that the checkpoint holds quantized keeps its codes.
  bool keep_codes = false;
};

// The largest |x| that a static int8 scale reaches.
enum class InputBound : std::uint8_t {
  // What rounds with the least squared error.
  kLeastError,
  kMax,
  // 99.9 % of all values lie within.
  kPercentile,
};
std::string_view to_string(InputBound bound) noexcept;

// Which channels of static int8 inputs are hot: what their codes clip is computed in float and added
// (shadows.h). One of both, or neither.
struct ShadowSettings {
  // If above 0: of an input whose largest |x| is more than so many times the 99.9th percentile, those
  // that exceed the percentile, which the scale then reaches.
  double threshold = 0;
  // If above 0: those that are measured to lose the most for their bytes, up to so many percent of
  // what the int8 weights with static inputs take.
  double budget = 0;

  // What either may be. No largest value is below a percentile.
  static constexpr double kLeastThreshold = 1, kMostThreshold = 1e6;
  static constexpr double kLeastBudget = 0.01, kMostBudget = 100;

  bool any() const noexcept { return threshold > 0 || budget > 0; }
};

struct CalibrationSettings {
  // Windows, at most.
  std::int64_t samples = 128;
  // Tokens in each.
  std::int64_t window = 512;
  InputBound input_bound = InputBound::kLeastError;
  // Whether tokens are searched that stand before every sequence (prefix_search.h), or which they
  // are.
  bool searches_prefix = false;
  std::vector<std::int32_t> prefix = {};
  ShadowSettings shadow = {};

  bool has_prefix() const noexcept { return searches_prefix || !prefix.empty(); }
};

// A pass by name, with what it wants to be told.
struct PassStep {
  std::string name;
  Json settings = Json::object();
};

struct Recipe {
  std::vector<PassStep> passes;
  std::vector<Rule> rules;
  CalibrationSettings calibration;
  // Rows of an NPU program.
  std::int64_t chunk = 128;
  // Of the KV cache: F16, or I8 with scales from calibration.
  DType kv = DType::kF16;
};

// Int4 in groups for decode, static int8 for prefill, the head in int4 for both (0: in float).
Recipe default_recipe(std::int64_t group = 128, std::int64_t head_group = 32);
// Rules that leave a module in float in both phases, or with the codes that it has already.
Rule exclude(std::string match);

// What a recipe says of one module.
struct ModulePlan {
  Scheme decode;
  Scheme prefill;
};
// Throws kFormat for a regular expression that is malformed.
void check_match(const std::string& match);
// The same, of all rules. For a module that is quantized already, float stands for keeping its
// codes.
ModulePlan resolve(const Recipe& recipe, const std::string& module, bool is_quantized = false);
// Throws kInvalidArgument for a rule that matches none of the modules: a slip of the pen, whose
// result would surprise.
void check_matches(const Recipe& recipe, const std::vector<std::string>& modules);

// Errors are kFormat and name file, line and key. Unknown keys are errors.
Recipe parse_recipe(std::string_view text, const std::string& where);
Recipe read_recipe(const fs::path& path);
OrderedJson to_json(const Recipe& recipe);

}  // namespace tandem
