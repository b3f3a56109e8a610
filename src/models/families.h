// The families of models, one file each; registry.cc lists them. A family says in what it differs
// from Llama: in the keys of its configuration, in its decoder, in the names of its tensors.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "models/decoder_blocks.h"
#include "models/model.h"

namespace tandem {

// What transformers assumes where config.json is silent.
struct FamilyDefaults {
  std::int64_t context_length = 0;
  std::optional<std::int64_t> bos;
  std::optional<std::int64_t> eos;
  std::optional<std::int64_t> kv_heads;  // none: as many as heads
  std::optional<std::int64_t> head_dim;  // none: hidden_size / heads
  double epsilon = 1e-6;
  double rope_theta = 10000;
  bool tied_head = false;
};

struct Family {
  std::string_view model_type;
  FamilyDefaults defaults;

  // Changes what read_decoder_config() has filled in as for Llama.
  void (*configure)(const JsonObject& config, DecoderConfig& decoder) = nullptr;
  // The configuration under Llama's keys, of a family that has keys of its own.
  Json (*rename_keys)(const JsonObject& config) = nullptr;
  // The weights under Llama's names, of a family whose tensors have others or are fused.
  // `weights` must outlive the result.
  std::unique_ptr<WeightSource> (*rename_weights)(const ModelInfo& info,
                                                  const WeightSource& weights) = nullptr;
};

Family chatglm_family();
Family gemma2_family();
Family llama_family();
Family mistral_family();
Family phi3_family();
Family qwen2_family();
Family qwen3_family();
Family smollm3_family();

// The family that `model_type` names; kUnsupported with the list of all for any other.
Family find_family(const JsonObject& config);

// config.json under Llama's keys.
Json rename_keys(const Family& family, const JsonObject& config);

// max_position_embeddings, or what the family assumes.
std::int64_t read_max_positions(const JsonObject& config, const FamilyDefaults& defaults);

}  // namespace tandem
