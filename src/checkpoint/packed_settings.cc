// The quantization_config of AWQ, GPTQ, Quark and 8-bit float checkpoints.
#include <fnmatch.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/printable.h"
#include "checkpoint/packed_linears.h"

namespace tandem {
namespace {

using Method = PackedScheme::Method;

// ASCII, as in "GEMM".
std::string in_lower_case(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

// AutoAWQ's earlier names for keys, and today's.
constexpr std::pair<const char*, const char*> kOlderNames[] = {{"w_bit", "bits"},
                                                               {"q_group_size", "group_size"}};

// `settings` with today's names for keys; where it has both, today's holds.
Json with_todays_names(Json settings) {
  for (const auto& [older, today] : kOlderNames) {
    const auto found = settings.find(older);
    if (found == settings.end()) continue;
    if (!settings.contains(today)) settings[today] = *found;
    settings.erase(older);
  }
  return settings;
}

PackedScheme read_awq(const JsonObject& config) {
  PackedScheme scheme{.method = Method::kAwq};
  scheme.bits = static_cast<int>(config.get_int_or("bits", 4, 1, 32));
  // Newer versions of transformers say "format".
  const std::string version =
      config.get_string_or("version", config.get_string_or("format", "gemm"));
  if (scheme.bits != 4 || (version != "gemm" && version != "GEMM"))
    fail(ErrorCode::kUnsupported,
         "[packed] {}: expected 4 bits in the layout \"gemm\", got {} in \"{}\"", config.where(),
         scheme.bits, printable(version));
  scheme.reordered = config.get_string_or("pack_method", "reorder") != "order";
  return scheme;
}

PackedScheme read_gptq(const JsonObject& config) {
  PackedScheme scheme{.method = Method::kGptq};
  scheme.bits = static_cast<int>(config.get_int_or("bits", 4, 1, 32));
  if (scheme.bits != 2 && scheme.bits != 3 && scheme.bits != 4 && scheme.bits != 8)
    fail(ErrorCode::kUnsupported, "[packed] {}: expected 2, 3, 4 or 8 bits, got {}", config.where(),
         scheme.bits);
  if (config.get_bool_or("is_marlin_format", false))
    fail(ErrorCode::kUnsupported, "[packed] {}: is_marlin_format: expected false, got true",
         config.where());
  // Newer versions of transformers say "format".
  const char* key = config.has("checkpoint_format") ? "checkpoint_format" : "format";
  const std::string format = config.get_string_or(key, "gptq");
  if (format != "gptq" && format != "gptq_v2")
    fail(ErrorCode::kUnsupported, "[packed] {}: {}: expected \"gptq\" or \"gptq_v2\", got \"{}\"",
         config.where(), key, printable(format));
  scheme.zeros_minus_one = format == "gptq";
  scheme.symmetric = config.get_bool_or("sym", false);
  return scheme;
}

[[noreturn]] void reject(const JsonObject& config, const char* key, std::string_view expected,
                         std::string_view got) {
  fail(ErrorCode::kUnsupported, "[packed] {}: {}: expected {}, got \"{}\"", config.where(), key,
       expected, printable(got));
}

// The rows and columns that share a scale, such as [128, 128].
std::array<std::int64_t, 2> read_block(const JsonObject& config, const char* key) {
  constexpr std::int64_t kMostRows = std::int64_t{1} << 30;
  const std::vector<std::int64_t> sizes = config.get_ints(key);
  if (sizes.size() != 2 || sizes[0] < 1 || sizes[1] < 1 || sizes[0] > kMostRows ||
      sizes[1] > kMostRows)
    fail(ErrorCode::kFormat, "[packed] {}: {}: expected [rows, columns] from 1 up, got {}",
         config.where(), key, printable(config.at(key).dump()));
  return {sizes[0], sizes[1]};
}

// The "fp8" of DeepSeek, Qwen and vLLM. Whether inputs are quantized, and how, is not used: they
// stay floats here.
PackedScheme read_fp8(const JsonObject& config) {
  PackedScheme scheme{.method = Method::kF8, .bits = 8};
  const std::string format = config.get_string_or("fmt", "e4m3");
  if (format != "e4m3" && format != "e5m2") reject(config, "fmt", "\"e4m3\" or \"e5m2\"", format);
  if (config.has("weight_block_size")) scheme.block = read_block(config, "weight_block_size");
  return scheme;
}

// The weights of one group of compressed-tensors.
PackedScheme read_float_group(const JsonObject& weights) {
  PackedScheme scheme{.method = Method::kF8, .bits = 8};
  const std::string type = weights.get_string_or("type", "int");
  const auto bits = weights.get_int_or("num_bits", 8, 1, 64);
  if (type != "float" || bits != 8)
    fail(ErrorCode::kUnsupported, "[packed] {}: expected floats of 8 bits, got {} of {}",
         weights.where(), printable(type), bits);
  const std::string strategy = weights.get_string_or("strategy", "tensor");
  if (strategy == "block") {
    scheme.block = read_block(weights, "block_structure");
  } else if (strategy == "group") {
    scheme.block = {1, weights.get_int("group_size", 1, std::int64_t{1} << 30)};
  } else if (strategy != "tensor" && strategy != "channel") {
    reject(weights, "strategy", "\"tensor\", \"channel\", \"block\" or \"group\"", strategy);
  }
  return scheme;
}

// compressed-tensors, whose weights are 8-bit floats: one group, or several that agree.
PackedScheme read_compressed_tensors(const JsonObject& config) {
  const std::string format = config.get_string_or("format", "float-quantized");
  // The second is what its first versions called weights in the type that they have.
  if (format != "float-quantized" && format != "naive-quantized")
    reject(config, "format", "\"float-quantized\"", format);
  std::optional<PackedScheme> all;
  const JsonObject groups = config.child("config_groups");
  for (const auto& [name, value] : groups.json().items()) {
    const JsonObject group = groups.child(name);
    if (!group.has("weights")) continue;
    const PackedScheme scheme = read_float_group(group.child("weights"));
    if (all && all->block != scheme.block)
      fail(ErrorCode::kUnsupported,
           "[packed] {}: groups with blocks of different sizes are not "
           "read here",
           groups.where());
    all = scheme;
  }
  if (!all) fail(ErrorCode::kFormat, "[packed] {}: expected a group with weights", groups.where());
  return *all;
}

PackedScheme read_modelopt(const JsonObject& config) {
  const std::string algorithm = config.get_string("quant_algo");
  if (algorithm != "FP8") reject(config, "quant_algo", "\"FP8\"", algorithm);
  return {.method = Method::kF8, .bits = 8};
}

// One of Quark's quantizers: {"dtype": "uint4", …}.
PackedScheme read_quark_weight(const JsonObject& owner, bool reordered) {
  if (!owner.has("weight")) return {};  // left as it was
  if (owner.at("weight").is_array())
    fail(ErrorCode::kUnsupported, "[packed] {}: weights quantized in two stages are not read here",
         owner.where());
  const JsonObject weight = owner.child("weight");
  const std::string dtype = weight.get_string("dtype");
  if (dtype == "fp8_e4m3" || dtype == "fp8_e5m2") return {.method = Method::kF8, .bits = 8};
  PackedScheme scheme{.method = Method::kQuark, .reordered = reordered};
  if (dtype == "int4" || dtype == "uint4") {
    scheme.bits = 4;
  } else if (dtype == "int8" || dtype == "uint8") {
    scheme.bits = 8;
  } else {
    fail(ErrorCode::kUnsupported,
         "[packed] {}: dtype: expected \"int4\", \"uint4\", \"int8\", \"uint8\" or \"fp8_e4m3\", "
         "got \"{}\"",
         weight.where(), printable(dtype));
  }
  scheme.is_signed = dtype[0] == 'i';
  return scheme;
}

}  // namespace

SeparateSettings read_separate_settings(const fs::path& folder) {
  for (const auto& [name, method] :
       {std::pair{"quantize_config.json", "gptq"}, {"quant_config.json", "awq"}}) {
    const fs::path file = folder / name;
    std::error_code ignored;
    if (!fs::exists(file, ignored)) continue;
    Json settings = read_json_file(file);
    // Tools of other formats use these names for settings of their own.
    if (!settings.is_object() || (!settings.contains("bits") && !settings.contains("w_bit")))
      continue;
    settings = with_todays_names(std::move(settings));
    if (!settings.contains("quant_method") || settings["quant_method"].is_null())
      settings["quant_method"] = method;
    return {file, std::move(settings)};
  }
  return {};
}

PackedSettings::PackedSettings(const JsonObject& config) {
  if (!config.has("quantization_config")) return;
  const JsonObject stored = config.child("quantization_config");
  const Json settings = with_todays_names(stored.json());
  read(JsonObject(settings, stored.where()));
}

PackedSettings::PackedSettings(const JsonObject& config, const SeparateSettings& separate,
                               Observer& observer)
    : PackedSettings(config) {
  if (separate.file.empty()) return;
  const JsonObject settings(separate.settings, separate.file.string());
  if (!config.has("quantization_config")) {
    read(settings);
    return;
  }
  const Json own = with_todays_names(config.child("quantization_config").json());
  for (const char* key : {"quant_method", "bits", "group_size", "sym", "desc_act", "zero_point",
                          "version", "checkpoint_format"}) {
    if (!settings.has(key) || !own.contains(key) || own.at(key).is_null()) continue;
    const auto text = [](const Json& value) {
      return in_lower_case(value.is_string() ? value.get<std::string>() : value.dump());
    };
    const std::string here = text(own.at(key));
    const std::string there = text(settings.at(key));
    if (here != there)
      observer.warn(
          fmt::format("[packed] {}: {}: is {}, but {} in quantization_config in "
                      "config.json, which is used",
                      separate.file.string(), key, printable(there), printable(here)));
  }
}

void PackedSettings::read(const JsonObject& settings) {
  const std::string method = settings.get_string_or("quant_method", "");
  if (method == "awq") {
    all_ = read_awq(settings);
  } else if (method == "gptq") {
    all_ = read_gptq(settings);
  } else if (method == "fp8" || method == "fbgemm_fp8") {
    all_ = read_fp8(settings);
  } else if (method == "compressed-tensors") {
    all_ = read_compressed_tensors(settings);
  } else if (method == "modelopt") {
    all_ = read_modelopt(settings);
  } else if (method == "quark") {
    const JsonObject where_packed = settings.has("export") ? settings.child("export") : settings;
    const bool reordered = where_packed.get_string_or("pack_method", "reorder") != "order";
    all_ = read_quark_weight(settings.child("global_quant_config"), reordered);
    if (!settings.has("layer_quant_config")) return;
    const JsonObject layers = settings.child("layer_quant_config");
    for (const auto& [pattern, value] : layers.json().items()) {
      if (!value.is_null())
        overrides_.push_back({pattern, read_quark_weight(layers.child(pattern), reordered)});
    }
  } else {
    fail(ErrorCode::kUnsupported,
         "[packed] {}: quant_method: expected \"awq\", \"gptq\", \"quark\", \"fp8\", "
         "\"fbgemm_fp8\", \"compressed-tensors\" or \"modelopt\", got \"{}\"",
         settings.where(), printable(method));
  }
}

PackedScheme PackedSettings::scheme(const std::string& module) const {
  for (const Override& entry : overrides_)
    if (::fnmatch(entry.pattern.c_str(), module.c_str(), 0) == 0) return entry.scheme;
  return all_;
}

}  // namespace tandem
