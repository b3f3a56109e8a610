// The table of passes.
#include "quantize/passes.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/printable.h"
#include "quantize/awq.h"
#include "quantize/clip_weights.h"
#include "quantize/gptq.h"
#include "quantize/learn_rotations.h"
#include "quantize/rotate.h"
#include "quantize/smoothquant.h"

namespace tandem {
namespace {

// Reads the settings of a step. The first that is wrong is kept as an objection.
class Settings {
 public:
  explicit Settings(const PassStep& step) : step_(step) {}

  bool flag(const char* key, bool fallback) {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) object(key, "true or false", *value);
    return value->is_boolean() && value->get<bool>();
  }
  std::int64_t integer(const char* key, std::int64_t fallback, std::int64_t most) {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    const bool fits = value->is_number_integer() && value->get<double>() >= 0 &&
                      value->get<double>() <= static_cast<double>(most);
    if (!fits) object(key, fmt::format("an integer in [0, {}]", most), *value);
    return fits ? value->get<std::int64_t>() : fallback;
  }
  double fraction(const char* key, double fallback) {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (!is_fraction(*value)) object(key, "a number in [0, 1]", *value);
    return is_fraction(*value) ? value->get<double>() : fallback;
  }
  // None for the only word that the key knows.
  std::optional<double> fraction_or(const char* word, const char* key, double fallback) {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (is_fraction(*value)) return value->get<double>();
    if (*value != word) object(key, fmt::format("a number in [0, 1] or \"{}\"", word), *value);
    return std::nullopt;
  }
  // One of the words, by its number.
  std::size_t one_of(const char* key, std::span<const std::string_view> words,
                     std::size_t fallback) {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    const std::string got = value->is_string() ? value->get<std::string>() : std::string();
    const auto found = std::ranges::find(words, std::string_view(got));
    if (found == words.end())
      object(key, fmt::format("\"{}\"", fmt::join(words, "\" or \"")), *value);
    return found == words.end() ? fallback : static_cast<std::size_t>(found - words.begin());
  }
  // 0 for false, 1 for true, or an integer from 2 on.
  std::int64_t flag_or_integer(const char* key, bool fallback, std::int64_t most) {
    const Json* value = find(key);
    if (value == nullptr) return fallback ? 1 : 0;
    if (value->is_boolean()) return value->get<bool>() ? 1 : 0;
    const bool fits = value->is_number_integer() && value->get<double>() >= 2 &&
                      value->get<double>() <= static_cast<double>(most);
    if (!fits) object(key, fmt::format("true, false or an integer in [2, {}]", most), *value);
    return fits ? value->get<std::int64_t>() : 0;
  }
  std::string text(const char* key) {
    const Json* value = find(key);
    if (value == nullptr) return {};
    if (!value->is_string()) object(key, "a text", *value);
    return value->is_string() ? value->get<std::string>() : std::string();
  }
  // True for the only word that a key knows.
  bool word(const char* key, const char* known) {
    const Json* value = find(key);
    if (value != nullptr && *value != known) object(key, fmt::format("\"{}\"", known), *value);
    return value != nullptr;
  }

  // Of what was read, and of keys that were not asked for.
  std::string objection() const {
    if (!objection_.empty()) return objection_;
    for (const auto& [key, value] : step_.settings.items()) {
      if (std::ranges::find(asked_, key) != asked_.end()) continue;
      if (asked_.empty())
        return fmt::format("{} has no settings, got \"{}\"", step_.name, printable(key));
      return fmt::format("{} has the settings {}, got \"{}\"", step_.name, fmt::join(asked_, ", "),
                         printable(key));
    }
    return {};
  }

 private:
  static bool is_fraction(const Json& value) {
    return value.is_number() && value.get<double>() >= 0 && value.get<double>() <= 1;
  }
  const Json* find(const char* key) {
    asked_.emplace_back(key);
    const auto found = step_.settings.find(key);
    return found == step_.settings.end() ? nullptr : &*found;
  }
  void object(const char* key, const std::string& expected, const Json& got) {
    if (objection_.empty())
      objection_ = fmt::format("{}: expected {}, got {}", key, expected, printable(got.dump()));
  }

  const PassStep& step_;
  std::vector<std::string> asked_;
  std::string objection_;
};

std::int64_t read_search_tokens(Settings& settings, std::int64_t fallback) {
  return settings.integer("search_tokens", fallback, std::int64_t{1} << 30);
}

AwqSettings read_awq(Settings& settings) {
  AwqSettings awq;
  awq.search_tokens = read_search_tokens(settings, awq.search_tokens);
  awq.clip = settings.flag("clip", awq.clip);
  awq.quark = settings.word("compat", "quark");
  return awq;
}

SmoothQuantSettings read_smoothquant(Settings& settings) {
  SmoothQuantSettings smoothquant;
  smoothquant.alpha = settings.fraction_or("search", "alpha", 0.5);
  smoothquant.everywhere = settings.flag("everywhere", smoothquant.everywhere);
  smoothquant.search_tokens = read_search_tokens(settings, smoothquant.search_tokens);
  return smoothquant;
}

GptqSettings read_gptq(Settings& settings) {
  GptqSettings gptq;
  gptq.damping = settings.fraction("damping", gptq.damping);
  gptq.act_order = settings.flag("act_order", gptq.act_order);
  return gptq;
}

RotateSettings read_rotate(Settings& settings) {
  static constexpr std::array<std::string_view, 4> kKinds = {"none", "hadamard", "random",
                                                             "learned"};
  RotateSettings rotate;
  const auto kind = [&](const char* key, RotationKind fallback) {
    return static_cast<RotationKind>(
        settings.one_of(key, kKinds, static_cast<std::size_t>(fallback)));
  };
  rotate.r1 = kind("r1", rotate.r1);
  rotate.r2 = kind("r2", rotate.r2);
  rotate.r3 = settings.flag("r3", rotate.r3);
  const std::int64_t r4 = settings.flag_or_integer("r4", rotate.r4, std::int64_t{1} << 30);
  rotate.r4 = r4 > 0;
  rotate.r4_block = r4 > 1 ? r4 : 0;
  rotate.seed = static_cast<std::uint64_t>(settings.integer("seed", 0, std::int64_t{1} << 53));
  rotate.steps = settings.integer("steps", rotate.steps, 1 << 20);
  rotate.learning_rate = settings.fraction("learning_rate", rotate.learning_rate);
  return rotate;
}

bool learns(const RotateSettings& settings) {
  return settings.r1 == RotationKind::kLearned || settings.r2 == RotationKind::kLearned;
}

// What a pass is given besides its graph.
struct Inputs {
  Settings& settings;
  const Recipe& recipe;
  const PassInputs& learned;
  PassContext& context;
};

Graph run_awq(const Graph& graph, const Inputs& in) {
  const AwqSettings settings = read_awq(in.settings);
  const AwqResult result = search_awq(graph, in.recipe, settings, *in.learned.windows,
                                      in.context.pool, in.context.observer, in.learned.journal);
  return apply_awq(graph, in.recipe, settings, result);
}

Graph run_smoothquant(const Graph& graph, const Inputs& in) {
  return smooth(graph,
                find_smoothing(graph, in.recipe, read_smoothquant(in.settings), *in.learned.windows,
                               in.context.pool, in.context.observer, in.learned.journal));
}

Graph run_rotate(const Graph& graph, const Inputs& in) {
  const RotateSettings settings = read_rotate(in.settings);
  const std::string load = in.settings.text("load");
  const Rotations rotations = !load.empty() ? read_rotations(load)
                              : learns(settings)
                                  ? learn_rotations(graph, in.recipe, settings, *in.learned.windows,
                                                    in.context.pool, in.context.observer)
                                  : make_rotations(graph, settings);
  if (const std::string save = in.settings.text("save"); !save.empty())
    write_rotations(save, rotations);
  return rotate(graph, rotations, settings, in.learned.sink);
}

Graph run_mse_clip(const Graph& graph, const Inputs& in) {
  return clip_weights(graph, in.recipe, in.context.pool, in.context.observer);
}

Graph run_seqmse(const Graph& graph, const Inputs& in) {
  return clip_outputs(graph, in.recipe, *in.learned.windows, in.context.pool, in.context.observer,
                      in.learned.journal);
}

Graph run_gptq(const Graph& graph, const Inputs& in) {
  return gptq(graph, in.recipe, read_gptq(in.settings), *in.learned.windows, in.learned.sink,
              in.context.pool, in.context.observer, in.learned.journal);
}

struct Entry {
  std::string_view name;
  bool needs_text;
  // Asks for every setting that the pass knows.
  void (*read)(Settings&);
  Graph (*run)(const Graph&, const Inputs&);
};

constexpr std::array kPasses = {
    Entry{"fold_norms", false, [](Settings&) {},
          [](const Graph& graph, const Inputs&) { return fold_norms(graph); }},
    Entry{"untie_head", false, [](Settings&) {},
          [](const Graph& graph, const Inputs&) { return untie_head(graph); }},
    Entry{"rotate", false,
          [](Settings& settings) {
            read_rotate(settings);
            settings.text("load");
            settings.text("save");
          },
          run_rotate},
    Entry{"smoothquant", true, [](Settings& settings) { read_smoothquant(settings); },
          run_smoothquant},
    Entry{"awq", true, [](Settings& settings) { read_awq(settings); }, run_awq},
    Entry{"mse_clip", false, [](Settings&) {}, run_mse_clip},
    Entry{"seqmse", true, [](Settings&) {}, run_seqmse},
    Entry{"gptq", true, [](Settings& settings) { read_gptq(settings); }, run_gptq}};

std::optional<RotateSettings> rotation_of(const PassStep& step) {
  if (step.name != "rotate") return std::nullopt;
  Settings settings(step);
  return read_rotate(settings);
}

const Entry* find_pass(std::string_view name) {
  const auto* entry = std::ranges::find(kPasses, name, &Entry::name);
  return entry == kPasses.end() ? nullptr : entry;
}

}  // namespace

std::string objection_to_pass(const PassStep& step) {
  const Entry* entry = find_pass(step.name);
  if (entry == nullptr) {
    std::string known;
    for (const Entry& each : kPasses)
      known += fmt::format("{}{}", known.empty() ? "" : ", ", each.name);
    return fmt::format("expected a pass, one of {}, got \"{}\"", known, printable(step.name));
  }
  Settings settings(step);
  entry->read(settings);
  return settings.objection();
}

bool needs_text(const PassStep& step) {
  const Entry* entry = find_pass(step.name);
  const auto rotate = rotation_of(step);
  return (entry != nullptr && entry->needs_text) || (rotate && learns(*rotate));
}

void require_no_operators(const Recipe& recipe) {
  for (const PassStep& step : recipe.passes)
    if (const auto rotate = rotation_of(step); rotate && (rotate->r3 || rotate->r4))
      fail(
          ErrorCode::kInvalidArgument,
          "[export] rotate: R3 and R4 are operators, which only a package has: expected \"r3\" and "
          "\"r4\" to be false");
}

bool rotates_embedding(const Recipe& recipe) {
  return std::ranges::any_of(recipe.passes, [](const PassStep& step) {
    const auto rotate = rotation_of(step);
    return rotate && (rotate->r1 != RotationKind::kNone || step.settings.contains("load"));
  });
}

Pass make_pass(const PassStep& step, const Recipe& recipe, const PassInputs& inputs) {
  if (const std::string objection = objection_to_pass(step); !objection.empty())
    fail(ErrorCode::kInvalidArgument, "[recipe] {}", objection);
  const Entry& entry = *find_pass(step.name);
  if (needs_text(step) && inputs.windows == nullptr)
    fail(ErrorCode::kInvalidArgument, "[recipe] {} learns from a text: expected one", step.name);
  return {step.name, [&entry, &recipe, inputs, step](const Graph& graph, PassContext& context) {
            Settings settings(step);
            return entry.run(graph, {settings, recipe, inputs, context});
          }};
}

}  // namespace tandem
