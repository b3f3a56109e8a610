// The model families, one file each; registry.cc lists them. A family declares how it differs from
// Llama: in configuration keys, in its decoder, in tensor names.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "models/decoder_blocks.h"
#include "models/model.h"

namespace tandem {

// What transformers assumes for keys that config.json omits.
struct FamilyDefaults {
  std::int64_t context_length = 0;
  std::optional<std::int64_t> bos;
  std::optional<std::int64_t> eos;
  // nullopt: as many as heads.
  std::optional<std::int64_t> kv_heads;
  // nullopt: hidden_size / heads.
  std::optional<std::int64_t> head_dim;
  double epsilon = 1e-6;
  double rope_theta = 10000;
  bool tied_head = false;
};

struct Family {
  std::string_view model_type;
  FamilyDefaults defaults;

  // Changes what read_decoder_config() has filled in for Llama.
  void (*configure)(const JsonObject& config, DecoderConfig& decoder) = nullptr;
  // Translates the configuration to Llama's keys, for a family with different keys.
  Json (*rename_keys)(const JsonObject& config) = nullptr;
  // Where it has Llama's modules, for a family whose tensors have other names or are fused.
  ModulePlaces (*locate_modules)(const ModelInfo& info) = nullptr;
};

Family chatglm_family();
Family gemma2_family();
Family llama_family();
Family mistral_family();
Family phi3_family();
Family qwen2_family();
Family qwen3_family();
Family smollm3_family();

// The family of `model_type`; throws kUnsupported listing the supported types for any other.
Family find_family(const JsonObject& config);

// config.json translated to Llama's keys.
Json rename_keys(const Family& family, const JsonObject& config);

// Reads the model's properties, token ids included, from a configuration with Llama's keys. As
// read_model_info(), for `observer`.
ModelInfo read_renamed_info(const JsonObject& config, const Family& family,
                            Observer& observer = silent());

// max_position_embeddings, or the family's default.
std::int64_t read_max_positions(const JsonObject& config, const FamilyDefaults& defaults);

}  // namespace tandem
