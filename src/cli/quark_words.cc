// Quark's flags, translated to rules and a style.
#include "cli/quark_words.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/printable.h"
#include "checkpoint/checkpoint.h"
#include "cli/nearest.h"

namespace tandem::cli {
namespace {

struct Named {
  std::string_view name;
  WeightType weights;
  // As in Scheme, or kGroupSize.
  std::int64_t group;
  ActivationType activations = ActivationType::kFloat;
};

// The group is that of --group-size.
constexpr std::int64_t kGroupSize = -2;

// Up to 0.10 the scheme says what is quantized and --group-size by how much; since then it says
// both. With int8 activations each row of a weight has its own scale, and so has each token where
// scales are dynamic: never coarser than the scale for the whole tensor that Quark has there.
constexpr std::array kSchemes = {
    Named{"w_uint4_per_group_asym", WeightType::kUint4, kGroupSize},
    Named{"w_int4_per_group_sym", WeightType::kInt4, kGroupSize},
    Named{"w_uint4_per_channel_asym", WeightType::kUint4, 0},
    Named{"w_int4_per_channel_sym", WeightType::kInt4, 0},
    Named{"w_int8_per_group_sym", WeightType::kInt8, kGroupSize},
    Named{"w_int8_per_tensor_sym", WeightType::kInt8, kWholeTensor},
    Named{"w_uint8_per_group_asym", WeightType::kUint8, kGroupSize},
    Named{"w_uint8_per_channel_asym", WeightType::kUint8, 0},
    Named{"uint4_wo_32", WeightType::kUint4, 32},
    Named{"uint4_wo_64", WeightType::kUint4, 64},
    Named{"uint4_wo_128", WeightType::kUint4, 128},
    Named{"uint4_wo_per_channel", WeightType::kUint4, 0},
    Named{"int4_wo_32", WeightType::kInt4, 32},
    Named{"int4_wo_64", WeightType::kInt4, 64},
    Named{"int4_wo_128", WeightType::kInt4, 128},
    Named{"int4_wo_per_channel", WeightType::kInt4, 0},
    Named{"int8", WeightType::kInt8, 0, ActivationType::kStatic},
    Named{"w_int8_a_int8_per_tensor_sym", WeightType::kInt8, 0, ActivationType::kStatic},
    Named{"w_int8_a_int8_per_tensor_sym_dynamic", WeightType::kInt8, 0, ActivationType::kDynamic},
    Named{"w_int8_a_int8_per_token_dynamic", WeightType::kInt8, 0, ActivationType::kDynamic},
    Named{"w_int8_per_channel_a_int8_per_tensor_sym", WeightType::kInt8, 0,
          ActivationType::kStatic},
    Named{"w_int8_per_channel_a_int8_per_tensor_sym_dynamic", WeightType::kInt8, 0,
          ActivationType::kDynamic},
};

Scheme find_scheme(const std::string& flag, const std::string& name, std::int64_t group,
                   DType scales) {
  const auto* found = std::ranges::find(kSchemes, name, &Named::name);
  if (found == kSchemes.end()) {
    std::vector<std::string> names;
    for (const Named& scheme : kSchemes) names.emplace_back(scheme.name);
    fail(ErrorCode::kInvalidArgument, "[quantize] {}: expected one of {}, got '{}'{}", flag,
         fmt::join(names, ", "), printable(name), did_you_mean(name, names));
  }
  return {.weights = found->weights,
          .group = found->group == kGroupSize ? group : found->group,
          .scales = found->activations == ActivationType::kFloat ? scales : DType::kF32,
          .activations = found->activations};
}

}  // namespace

void QuarkWords::add_to(CLI::App& command) {
  constexpr const char* kGroup = "Words of AMD Quark's quantize_quark.py";
  auto* scheme = command.add_option("--quant-scheme", scheme_,
                                    "scheme of the weights, such as w_uint4_per_group_asym or "
                                    "uint4_wo_128");
  const auto add = [&](CLI::Option* option) { return option->group(kGroup)->needs(scheme); };
  scheme->group(kGroup);
  // What the scheme and its flags say.
  for (const char* ours : {"--recipe", "--export", "--gguf-type", "--lm-head"})
    scheme->excludes(command.get_option(ours));
  add(command.add_option("--data-type", data_type_, "type of the scales: that of the loaded model"))
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "float16", "bfloat16", "float32"}));
  add(command.add_option("--group-size-per-layer", group_per_layer_,
                         "pattern of modules, and their group size"))
      ->type_name("PATTERN SIZE");
  add(command.add_option("--layer-quant-scheme", scheme_per_layer_,
                         "pattern of modules, and their scheme"))
      ->type_name("PATTERN SCHEME");
  exclude_option_ =
      add(command.add_option("--exclude-layers", exclude_,
                             "patterns of modules that stay float (default: lm_head); "
                             "without any, none does"))
          ->expected(0, 1 << 16);
  add(command.add_option("--model-export", model_export_,
                         "write a checkpoint instead of a package: hf_format, quark_format or "
                         "quark_safetensors"))
      ->check(CLI::IsMember({"hf_format", "quark_format", "quark_safetensors"}));
  add(command.add_option("--custom-mode", custom_mode_, "names and settings of that checkpoint"))
      ->capture_default_str()
      ->check(CLI::IsMember({"quark", "awq"}));
  add(command.add_option("--dataset", dataset_,
                         "name of a calibration set, which --dataset-path reads from a file"));
  add(command.add_option("--dataset-path", dataset_path_,
                         "text to calibrate on (default: a built-in text)"))
      ->excludes(command.get_option("--calib"));
}

std::vector<Rule> QuarkWords::rules(std::int64_t group, const std::string& checkpoint) const {
  const DType type = scales(checkpoint);
  const auto rule = [](const std::string& match, const Scheme& scheme) {
    return Rule{.match = match, .decode = scheme, .prefill = {}, .prefill_as_decode = true};
  };
  const Scheme usual = find_scheme("--quant-scheme", scheme_, group, type);
  std::vector<Rule> rules = {rule("*", usual)};
  rules.front().keep_codes = true;
  for (const auto& [pattern, size] : group_per_layer_) {
    if (size != "32" && size != "64" && size != "128")
      fail(ErrorCode::kInvalidArgument,
           "[quantize] --group-size-per-layer: {}: expected a group size of 32, 64 or 128, got "
           "'{}'",
           printable(pattern), printable(size));
    Scheme scheme = usual;
    scheme.group = std::stoll(size);
    rules.push_back(rule(pattern, scheme));
  }
  for (const auto& [pattern, name] : scheme_per_layer_)
    rules.push_back(rule(pattern, find_scheme("--layer-quant-scheme", name, group, type)));
  if (exclude_option_->count() == 0) rules.push_back(exclude("lm_head"));
  // "[]", which the first documentation has, is a pattern that no name matches.
  for (const std::string& pattern : exclude_)
    if (pattern != "[]" && !pattern.empty()) rules.push_back(exclude(pattern));
  return rules;
}

std::optional<PackedStyle> QuarkWords::style(bool reordered) const {
  if (model_export_.empty()) return std::nullopt;
  return PackedStyle{
      custom_mode_ == "awq" ? PackedStyle::Layout::kAwq : PackedStyle::Layout::kQuark, reordered};
}

DType QuarkWords::scales(const std::string& checkpoint) const {
  std::string type = data_type_;
  if (type == "auto") {
    const Json config = Checkpoint::open(checkpoint).config();
    for (const char* key : {"dtype", "torch_dtype"})
      if (const auto found = config.find(key); found != config.end() && found->is_string())
        type = found->get<std::string>();
  }
  if (type == "bfloat16") return DType::kBF16;
  return type == "float32" ? DType::kF32 : DType::kF16;
}

}  // namespace tandem::cli
