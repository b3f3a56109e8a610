// The families of models, one file each; registry.cc lists them.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "models/model.h"

namespace tandem {

struct Family {
  std::string_view model_type;
  Graph (*build)(const JsonObject& config, const WeightSource& weights);

  // What transformers assumes where config.json is silent.
  std::int64_t context_length = 0;
  std::optional<std::int64_t> bos;
  std::optional<std::int64_t> eos;
};

Family llama_family();
Family qwen2_family();

// The family that `model_type` names; kUnsupported with the list of all for any other.
Family find_family(const JsonObject& config);

}  // namespace tandem
