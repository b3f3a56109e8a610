// Reads and writes recipes as JSON.
#include <algorithm>
#include <array>
#include <limits>

#include "base/error.h"
#include "base/json_reader.h"
#include "base/printable.h"
#include "quantize/passes.h"
#include "quantize/recipe.h"
#include "tensor/weight.h"

namespace tandem {
namespace {

template <typename T>
struct Word {
  T value;
  std::string_view name;
};

constexpr std::array kWeights = {Word{WeightType::kFloat, "float"},
                                 Word{WeightType::kUint4, "uint4"}, Word{WeightType::kInt4, "int4"},
                                 Word{WeightType::kUint8, "uint8"},
                                 Word{WeightType::kInt8, "int8"}};
constexpr std::array kActivations = {
    Word{ActivationType::kFloat, "float"}, Word{ActivationType::kStatic, "static"},
    Word{ActivationType::kStatic16, "static16"}, Word{ActivationType::kDynamic, "dynamic"}};
constexpr std::array kBounds = {Word{InputBound::kLeastError, "least_error"},
                                Word{InputBound::kMax, "max"},
                                Word{InputBound::kPercentile, "percentile"}};
constexpr std::array kScales = {Word{DType::kF16, "float16"}, Word{DType::kBF16, "bfloat16"},
                                Word{DType::kF32, "float32"}};
constexpr std::array kCaches = {Word{DType::kF16, "float16"}, Word{DType::kI8, "int8"}};

template <typename T, std::size_t N>
std::string_view name_of(const std::array<Word<T>, N>& words, T value) {
  return std::ranges::find(words, value, &Word<T>::value)->name;
}

constexpr std::int64_t kMaxGroup = 1 << 16;
constexpr std::size_t kMaxPrefix = 64;

// A rule for everything says little about a module in particular: codes that are there are kept.
bool is_general(const Rule& rule) { return rule.match == "*"; }

class RecipeReader : JsonReader {
 public:
  RecipeReader(std::string_view text, std::string where)
      : JsonReader(text, std::move(where), "recipe", "recipe") {}

  Recipe read() {
    require_object(root(), "");
    require_keys(root(), "", {"passes", "rules", "calibration", "chunk", "kv"});
    Recipe recipe;
    if (root().contains("passes")) read_passes(recipe);
    if (root().contains("rules")) {
      read_rules(recipe);
    } else {
      recipe.rules = default_recipe().rules;
    }
    if (root().contains("calibration")) read_calibration(recipe.calibration);
    recipe.chunk = integer_or(root(), "", "chunk", recipe.chunk, 1, 4096);
    recipe.kv = word(root(), "", "kv", kCaches, recipe.kv);
    return recipe;
  }

 private:
  const Json& list(const char* key) const {
    const Json& found = root()[key];
    if (!found.is_array()) reject(key, "expected an array");
    return found;
  }

  std::string string(const Json& json, const std::string& path, std::string_view key) const {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_string() || found->get<std::string>().empty())
      reject(found == json.end() ? path : join(path, key),
             fmt::format("expected {} to be a name", key));
    return found->get<std::string>();
  }

  template <typename T, std::size_t N>
  T word(const Json& json, const std::string& path, std::string_view key,
         const std::array<Word<T>, N>& words, T fallback) const {
    const auto found = json.find(key);
    if (found == json.end()) return fallback;
    if (found->is_string())
      for (const Word<T>& entry : words)
        if (entry.name == found->get_ref<const std::string&>()) return entry.value;
    std::string known;
    for (const Word<T>& entry : words)
      known += fmt::format("{}\"{}\"", known.empty() ? "" : ", ", entry.name);
    reject(join(path, key),
           fmt::format("expected one of {}, got {}", known, printable(found->dump())));
  }

  void read_passes(Recipe& recipe) const {
    const Json& passes = list("passes");
    for (std::size_t i = 0; i < passes.size(); ++i) {
      const std::string path = fmt::format("passes[{}]", i);
      PassStep step;
      if (passes[i].is_string()) {
        step.name = passes[i].get<std::string>();
      } else {
        require_object(passes[i], path);
        step.name = string(passes[i], path, "name");
        step.settings = passes[i];
        step.settings.erase("name");
      }
      if (const std::string objection = objection_to_pass(step); !objection.empty())
        reject(path, objection);
      recipe.passes.push_back(std::move(step));
    }
  }

  void read_rules(Recipe& recipe) const {
    const Json& rules = list("rules");
    for (std::size_t i = 0; i < rules.size(); ++i) {
      const std::string path = fmt::format("rules[{}]", i);
      require_object(rules[i], path);
      require_keys(rules[i], path, {"match", "decode", "prefill", "keep_codes"});
      Rule rule{.match = match(rules[i], path)};
      if (rules[i].contains("decode")) rule.decode = scheme(rules[i]["decode"], path + ".decode");
      if (rules[i].contains("prefill")) {
        const Json& prefill = rules[i]["prefill"];
        rule.prefill_as_decode = prefill == "decode";
        if (!rule.prefill_as_decode) rule.prefill = scheme(prefill, path + ".prefill");
      }
      rule.keep_codes = keep_codes(rules[i], path, is_general(rule));
      recipe.rules.push_back(std::move(rule));
    }
  }

  bool keep_codes(const Json& rule, const std::string& path, bool fallback) const {
    const auto found = rule.find("keep_codes");
    if (found == rule.end()) return fallback;
    if (!found->is_boolean()) reject(join(path, "keep_codes"), "expected true or false");
    return found->get<bool>();
  }

  std::string match(const Json& rule, const std::string& path) const {
    std::string match = string(rule, path, "match");
    try {
      check_match(match);
    } catch (const Error& error) {
      reject(join(path, "match"), error.what());
    }
    return match;
  }

  Scheme scheme(const Json& json, const std::string& path) const {
    if (json == "float") return {};
    if (!json.is_object()) reject(path, "expected \"float\" or an object with \"weights\"");
    require_keys(json, path, {"weights", "group", "scales", "activations"});
    if (!json.contains("weights")) reject(path, "expected \"weights\"");
    Scheme scheme;
    scheme.weights = word(json, path, "weights", kWeights, scheme.weights);
    scheme.activations = word(json, path, "activations", kActivations, scheme.activations);
    const bool whole_row = json.contains("group") && json["group"] == "row";
    const bool whole_tensor = json.contains("group") && json["group"] == "tensor";
    if (whole_tensor && bits_of(scheme.weights) != 8)
      reject(join(path, "group"), "one scale per tensor is for int8 and uint8");
    const bool has_input = scheme.activations != ActivationType::kFloat;
    const std::int64_t usual = has_blocks(scheme) ? 32 : bits_of(scheme.weights) == 4 ? 128 : 0;
    scheme.group = whole_tensor ? kWholeTensor
                   : whole_row  ? 0
                                : integer_or(json, path, "group", usual, 1, kMaxGroup);
    scheme.scales = word(json, path, "scales", kScales, has_input ? DType::kF32 : DType::kF16);
    if (has_blocks(scheme) && !is_block_size(scheme.group))
      reject(join(path, "group"), "int4 with int8 activations is in blocks of 16, 32 or 64");
    const bool is_int8 = scheme.weights == WeightType::kInt8 && scheme.group == 0;
    if (has_input && (!(is_int8 || has_blocks(scheme)) || scheme.scales != DType::kF32))
      reject(join(path, "activations"),
             "int8 activations need int8 weights or int4 in blocks, and one float32 scale for each "
             "row");
    return scheme;
  }

  void read_prefix(const Json& json, CalibrationSettings& calibration) const {
    calibration.searches_prefix = json == "search";
    if (json == "search" || json == "none") return;
    const bool fits = json.is_array() && json.size() <= kMaxPrefix &&
                      std::ranges::all_of(json, [](const Json& id) {
                        return id.is_number_integer() && id.get<double>() >= 0 &&
                               id.get<double>() <= std::numeric_limits<std::int32_t>::max();
                      });
    if (!fits)
      reject("calibration.prefix",
             fmt::format("expected \"none\", \"search\" or at most {} token ids, got {}",
                         kMaxPrefix, printable(json.dump().substr(0, 200))));
    calibration.prefix = json.get<std::vector<std::int32_t>>();
  }

  // One of two numbers, or "none".
  ShadowSettings shadow(const Json& json) const {
    const std::string path = "calibration.shadow";
    if (json == "none") return {};
    if (!json.is_object() || json.size() != 1)
      reject(path, fmt::format("expected \"none\", {{\"threshold\": RATIO}} or {{\"budget\": "
                               "PERCENT}}, got {}",
                               printable(json.dump().substr(0, 200))));
    require_keys(json, path, {"threshold", "budget"});
    using Limits = ShadowSettings;
    return {.threshold =
                number(json, path, "threshold", Limits::kLeastThreshold, Limits::kMostThreshold),
            .budget = number(json, path, "budget", Limits::kLeastBudget, Limits::kMostBudget)};
  }

  // 0 if it is not there.
  double number(const Json& json, const std::string& path, std::string_view key, double low,
                double high) const {
    const auto found = json.find(key);
    if (found == json.end()) return 0;
    if (!found->is_number() || found->get<double>() < low || found->get<double>() > high)
      reject(join(path, key), fmt::format("expected a number in [{}, {}], got {}", low, high,
                                          printable(found->dump().substr(0, 200))));
    return found->get<double>();
  }

  void read_calibration(CalibrationSettings& calibration) const {
    const Json& json = root()["calibration"];
    require_object(json, "calibration");
    require_keys(json, "calibration", {"samples", "window", "input_scale", "prefix", "shadow"});
    calibration.samples =
        integer_or(json, "calibration", "samples", calibration.samples, 1, 1 << 20);
    calibration.window = integer_or(json, "calibration", "window", calibration.window, 2, 1 << 20);
    calibration.input_bound =
        word(json, "calibration", "input_scale", kBounds, calibration.input_bound);
    if (json.contains("prefix")) read_prefix(json["prefix"], calibration);
    if (json.contains("shadow")) calibration.shadow = shadow(json["shadow"]);
  }
};

OrderedJson to_json(const ShadowSettings& shadow) {
  if (shadow.threshold > 0) return {{"threshold", shadow.threshold}};
  if (shadow.budget > 0) return {{"budget", shadow.budget}};
  return "none";
}

OrderedJson to_json(const Scheme& scheme) {
  if (scheme.weights == WeightType::kFloat) return "float";
  OrderedJson json = {{"weights", to_string(scheme.weights)}};
  json["group"] = scheme.group > 0 ? OrderedJson(scheme.group)
                                   : OrderedJson(scheme.group == kWholeTensor ? "tensor" : "row");
  json["scales"] = name_of(kScales, scheme.scales);
  json["activations"] = to_string(scheme.activations);
  return json;
}

}  // namespace

std::string_view to_string(WeightType type) noexcept { return name_of(kWeights, type); }
std::string_view to_string(ActivationType type) noexcept { return name_of(kActivations, type); }
std::string_view to_string(InputBound bound) noexcept { return name_of(kBounds, bound); }

Recipe parse_recipe(std::string_view text, const std::string& where) {
  return RecipeReader(text, where).read();
}

Recipe read_recipe(const fs::path& path) {
  return parse_recipe(read_text_file(path, std::size_t{16} << 20), path.string());
}

OrderedJson to_json(const Recipe& recipe) {
  OrderedJson passes = OrderedJson::array();
  for (const PassStep& step : recipe.passes) {
    OrderedJson json = {{"name", step.name}};
    for (const auto& [key, value] : step.settings.items()) json[key] = value;
    passes.push_back(step.settings.empty() ? OrderedJson(step.name) : std::move(json));
  }
  OrderedJson rules = OrderedJson::array();
  for (const Rule& rule : recipe.rules) {
    OrderedJson json = {{"match", rule.match}};
    if (rule.decode) json["decode"] = to_json(*rule.decode);
    if (rule.prefill_as_decode) json["prefill"] = "decode";
    if (rule.prefill) json["prefill"] = to_json(*rule.prefill);
    if (rule.keep_codes != is_general(rule)) json["keep_codes"] = rule.keep_codes;
    rules.push_back(std::move(json));
  }
  return {
      {"passes", std::move(passes)},
      {"rules", std::move(rules)},
      {"calibration",
       {{"samples", recipe.calibration.samples},
        {"window", recipe.calibration.window},
        {"input_scale", to_string(recipe.calibration.input_bound)},
        {"prefix", recipe.calibration.searches_prefix  ? OrderedJson("search")
                   : recipe.calibration.prefix.empty() ? OrderedJson("none")
                                                       : OrderedJson(recipe.calibration.prefix)},
        {"shadow", to_json(recipe.calibration.shadow)}}},
      {"chunk", recipe.chunk},
      {"kv", name_of(kCaches, recipe.kv)}};
}

}  // namespace tandem
