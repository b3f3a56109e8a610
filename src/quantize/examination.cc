// Opens what a package was made of, makes its weights again and hands them to the gate.
#include "quantize/examination.h"

#include <algorithm>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/printable.h"
#include "quantize/kept_codes.h"
#include "quantize/passes.h"
#include "quantize/prefix_search.h"
#include "quantize/prepare_graph.h"

namespace tandem {
namespace {

// What write_package() adds to a recipe's "calibration": the text that was read.
constexpr const char* kTextKeys[] = {"file", "hash", "windows", "window_tokens"};

JsonObject recipe_object(const Package& package) {
  return JsonObject(package.manifest(), (package.folder() / kManifestFile).string())
      .child("recipe");
}

// Throws kInvalidArgument naming the first of the model's sizes in which the two differ.
void require_same_model(const Package& package, const ModelInfo& info,
                        const Checkpoint& checkpoint) {
  const OrderedJson made = to_json(package.info()), here = to_json(info);
  for (const auto& [key, value] : here.items()) {
    const auto other = made.find(key);
    if (other != made.end() && *other == value) continue;
    fail(ErrorCode::kInvalidArgument,
         "[doctor] {}: {} is {}, in {} it is {}: expected the checkpoint that the package was made "
         "of",
         package.folder().string(), key, other == made.end() ? "not set" : other->dump(),
         checkpoint.path().string(), value.dump());
  }
}

// Whether two weights hold the same codes, scales and zero points.
bool has_same_codes(const Weight& a, const Weight& b) {
  return std::ranges::equal(parts_of(a), parts_of(b), [](const Tensor& one, const Tensor& other) {
    return one.dtype() == other.dtype() && one.shape() == other.shape() &&
           std::ranges::equal(one.bytes(), other.bytes());
  });
}

}  // namespace

Recipe recipe_of(const Package& package) {
  const JsonObject recipe = recipe_object(package);
  Json plain = recipe.json();
  if (const auto calibration = plain.find("calibration");
      calibration != plain.end() && calibration->is_object())
    for (const char* key : kTextKeys) calibration->erase(key);
  Recipe made = parse_recipe(plain.dump(2), recipe.where());
  for (PassStep& step : made.passes) step.settings.erase("save");
  return made;
}

Examination::Examination(ExaminationOptions options, ThreadPool& pool, Observer& observer)
    : options_(std::move(options)),
      pool_(pool),
      observer_(observer),
      checkpoint_(Checkpoint::open(options_.checkpoint)),
      info_(
          read_model_info(checkpoint_.config_object(), &checkpoint_.generation_config(), silent())),
      weights_(checkpoint_),
      loaded_(build_graph(checkpoint_.config_object(), weights_)),
      recipe_(options_.package == nullptr ? options_.recipe : recipe_of(*options_.package)) {
  if (options_.package != nullptr) require_same_model(*options_.package, info_, checkpoint_);
  check_recipe(recipe_, loaded_);
  if (has_static_inputs(recipe_, loaded_) || recipe_.calibration.searches_prefix ||
      std::ranges::any_of(recipe_.passes, [](const PassStep& step) { return needs_text(step); }))
    read_text();
}

void Examination::read_text() {
  CalibrationSettings settings = recipe_.calibration;
  std::string hash;
  if (options_.package != nullptr && recipe_object(*options_.package).has("calibration")) {
    const JsonObject source = recipe_object(*options_.package).child("calibration");
    const std::string file = source.get_string_or("file", "built-in");
    if (options_.calibration.empty() && file != "built-in")
      fail(ErrorCode::kInvalidArgument,
           "[doctor] {}: was calibrated on {}: expected --calib with that text",
           options_.package->folder().string(), printable(file));
    // The windows that were read, fewer than the recipe's if the text was short.
    settings.samples = source.get_int_or("windows", settings.samples, 1, 1 << 20);
    settings.window = source.get_int_or("window_tokens", settings.window, 2, 1 << 20);
    hash = source.get_string_or("hash", "");
  }
  text_ = read_calibration_text(options_.calibration, checkpoint_, info_, settings, observer_);
  if (!hash.empty() && text_->source["hash"] != hash)
    observer_.warn(fmt::format(
        "[doctor] {}: was calibrated on another text than {}: its scales, and what passes found, "
        "are not quite those that are measured",
        options_.package->folder().string(),
        options_.calibration.empty() ? "the built-in one" : options_.calibration.string()));
}

void Examination::require_same_codes(const Graph& graph, LinearQuantizer& quantizer) {
  PassContext context{pool_, observer_};
  const Graph made = quantizer.decode(graph, context);
  const Graph packed = options_.package->graph(Phase::kDecode);
  std::map<std::string, const Weight*> weights;
  for (const Node& node : packed.nodes())
    if (node.op == Op::kLinear) weights[node.name] = &node.as<LinearAttributes>().weight;
  std::vector<std::string> others;
  std::int64_t linears = 0;
  for (const Node& node : made.nodes()) {
    if (node.op != Op::kLinear || !is_quantized(node)) continue;
    ++linears;
    const auto found = weights.find(node.name);
    if (found == weights.end() ||
        !has_same_codes(*found->second, node.as<LinearAttributes>().weight))
      others.push_back(node.name);
  }
  if (others.empty()) return;
  const std::string what = fmt::format(
      "[doctor] {}: {} of {} modules have other codes than its recipe makes of {}",
      options_.package->folder().string(), others.size(), linears, checkpoint_.path().string());
  const bool learns =
      std::ranges::any_of(recipe_.passes, [](const PassStep& step) { return needs_text(step); });
  if (!learns)
    fail(
        ErrorCode::kInvalidArgument,
        "{} ({}): expected the checkpoint that the package was made of, merged if it was made with "
        "an adapter",
        what, first_of(others));
  observer_.warn(
      fmt::format("{} with this text, so that those are measured: {}", what, first_of(others)));
}

GateReport Examination::run(CalibrationWindows windows) {
  windows.prefix =
      options_.package != nullptr
          ? std::vector(options_.package->prefix().begin(), options_.package->prefix().end())
          : prefix_of(recipe_, loaded_, info_, text_ ? &text_->windows : nullptr, pool_, observer_);
  if (text_) text_->windows.prefix = windows.prefix;
  FileSink sink(fs::temp_directory_path());
  PassContext context{pool_, observer_};
  const auto [graph, statistics] = prepare_graph(loaded_, recipe_,
                                                 {.windows = text_ ? &text_->windows : nullptr,
                                                  .calibrates = has_static_inputs(recipe_, loaded_),
                                                  .sink = sink},
                                                 context);
  // Rules of repairs are added to the recipe that the quantizer reads.
  LinearQuantizer quantizer(recipe_, statistics, sink);
  if (options_.package != nullptr) require_same_codes(graph, quantizer);
  GateOptions gate =
      options_.repairs.value_or(GateOptions{.max_kl = std::numeric_limits<double>::infinity()});
  gate.ranks_always = true;
  gate.ranking_windows = windows.tokens() / windows.window;
  return pass_gate(gate, {loaded_, graph, statistics, options_.has_prefill}, windows, recipe_,
                   quantizer, pool_, observer_);
}

}  // namespace tandem
