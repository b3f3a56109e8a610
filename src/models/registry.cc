// The supported model types, and how each becomes a graph.
#include <array>
#include <string>
#include <vector>

#include "base/error.h"
#include "models/families.h"
#include "models/renamed_weights.h"

namespace tandem {
namespace {

std::array<Family, 8> families() {
  return {chatglm_family(), gemma2_family(), llama_family(), mistral_family(),
          phi3_family(),    qwen2_family(),  qwen3_family(), smollm3_family()};
}

}  // namespace

std::vector<std::string> supported_model_types() {
  std::vector<std::string> names;
  for (const Family& family : families()) names.emplace_back(family.model_type);
  return names;
}

Family find_family(const JsonObject& config) {
  const std::string wanted = config.get_string("model_type");
  std::string known;
  for (const Family& family : families()) {
    if (family.model_type == wanted) return family;
    known += fmt::format("{}\"{}\"", known.empty() ? "" : ", ", family.model_type);
  }
  // A hostile name may have any length.
  fail(ErrorCode::kUnsupported, "[models] {}: model_type: expected one of {}, got \"{}\"",
       config.where(), known, wanted.substr(0, 64));
}

Json rename_keys(const Family& family, const JsonObject& config) {
  return family.rename_keys != nullptr ? family.rename_keys(config) : config.json();
}

Graph build_graph(const JsonObject& config, const WeightSource& weights) {
  const Family family = find_family(config);
  const Json keys = rename_keys(family, config);
  const JsonObject renamed(keys, config.where());
  DecoderConfig decoder = read_decoder_config(renamed, family);
  family.configure(renamed, decoder);
  if (family.locate_modules == nullptr) return build_decoder(decoder, weights);
  return build_decoder(decoder, RenamedWeights(weights, family.locate_modules(decoder.info)));
}

ModulePlaces module_places(const JsonObject& config) {
  const Family family = find_family(config);
  if (family.locate_modules == nullptr) return [](const std::string&) { return std::nullopt; };
  const Json keys = rename_keys(family, config);
  return family.locate_modules(read_renamed_info({keys, config.where()}, family));
}

}  // namespace tandem
