// The keys of config.json common to all families, each with bounds.
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "models/families.h"
#include "models/rope.h"

namespace tandem {
namespace {

// Bounds are several times what any published model has, and small enough that the product of a
// matrix's two sizes cannot overflow.
constexpr std::int64_t kMaxHidden = std::int64_t{1} << 20;
constexpr std::int64_t kMaxIntermediate = std::int64_t{1} << 24;
constexpr std::int64_t kMaxLayers = 4096;
constexpr std::int64_t kMaxHeads = std::int64_t{1} << 16;
constexpr std::int64_t kMaxHeadDim = std::int64_t{1} << 16;
constexpr std::int64_t kMaxVocabulary = std::int64_t{1} << 24;
constexpr std::int64_t kMaxContext = kLongestSequence;

void read_heads(const JsonObject& config, const FamilyDefaults& defaults, ModelInfo& info) {
  info.heads = config.get_int("num_attention_heads", 1, kMaxHeads);
  info.kv_heads = config.get_int_or("num_key_value_heads", defaults.kv_heads.value_or(info.heads),
                                    1, kMaxHeads);
  if (info.heads % info.kv_heads != 0)
    fail(ErrorCode::kFormat,
         "[models] {}: num_key_value_heads: expected a divisor of num_attention_heads = {}, got {}",
         config.where(), info.heads, info.kv_heads);
  const bool head_dim_known = config.has("head_dim") || defaults.head_dim;
  if (!head_dim_known && info.hidden_size % info.heads != 0)
    fail(ErrorCode::kFormat,
         "[models] {}: head_dim: expected it to be given, as hidden_size = {} is not a multiple of "
         "num_attention_heads = {}",
         config.where(), info.hidden_size, info.heads);
  info.head_dim = config.get_int_or(
      "head_dim", defaults.head_dim.value_or(info.hidden_size / info.heads), 1, kMaxHeadDim);
  if (info.head_dim % 2 != 0)
    fail(ErrorCode::kFormat,
         "[models] {}: head_dim: expected an even number (rotary embedding turns pairs), got {}",
         config.where(), info.head_dim);
}

// A token id; some configurations write -1 for "none".
std::optional<std::int64_t> read_token(const JsonObject& config, std::string_view key,
                                       std::int64_t vocabulary) {
  const std::int64_t id = config.get_int(key, -1, vocabulary - 1);
  return id < 0 ? std::nullopt : std::optional(id);
}

std::vector<std::int64_t> read_end_tokens(const JsonObject& config, std::int64_t vocabulary) {
  std::vector<std::int64_t> ids = config.get_ints("eos_token_id");
  for (const std::int64_t id : ids)
    if (id < -1 || id >= vocabulary)
      fail(ErrorCode::kFormat, "[models] {}: eos_token_id: expected ids in [0, {}], got {}",
           config.where(), vocabulary - 1, id);
  std::erase(ids, -1);
  return ids;
}

// Reads bos, eos and pad from `config`; an absent key leaves the previous value.
void read_special_tokens(const JsonObject& config, ModelInfo& info) {
  if (config.has("bos_token_id")) info.bos = read_token(config, "bos_token_id", info.vocabulary);
  if (config.has("eos_token_id")) info.eos = read_end_tokens(config, info.vocabulary);
  if (config.has("pad_token_id")) info.pad = read_token(config, "pad_token_id", info.vocabulary);
}

}  // namespace

std::int64_t read_max_positions(const JsonObject& config, const FamilyDefaults& defaults) {
  return config.get_int_or("max_position_embeddings", defaults.context_length, 1, kMaxContext);
}

ModelInfo read_renamed_info(const JsonObject& config, const Family& family) {
  const FamilyDefaults& defaults = family.defaults;
  ModelInfo info;
  info.model_type = family.model_type;
  info.hidden_size = config.get_int("hidden_size", 1, kMaxHidden);
  info.intermediate_size = config.get_int("intermediate_size", 1, kMaxIntermediate);
  info.layers = config.get_int("num_hidden_layers", 1, kMaxLayers);
  info.vocabulary = config.get_int("vocab_size", 1, kMaxVocabulary);
  const std::int64_t positions = read_max_positions(config, defaults);
  const RopeParameters rope = read_rope_parameters(config, positions, defaults.rope_theta);
  info.context_length = scaled_context(rope, positions);
  info.open_context = rope.scaling == RopeParameters::Scaling::kDynamic;
  info.tied_head = config.get_bool_or("tie_word_embeddings", defaults.tied_head);
  read_heads(config, defaults, info);

  // A null key means "none"; only an absent key inherits the family's token.
  const auto inherits = [&](const char* key, const std::optional<std::int64_t>& id) {
    return !config.json().contains(key) && id && *id < info.vocabulary;
  };
  if (inherits("bos_token_id", defaults.bos)) info.bos = defaults.bos;
  if (inherits("eos_token_id", defaults.eos)) info.eos = {*defaults.eos};
  read_special_tokens(config, info);
  return info;
}

ModelInfo read_model_info(const JsonObject& own_config, const Json* generation_config) {
  const Family family = find_family(own_config);
  const Json keys = rename_keys(family, own_config);
  const JsonObject config(keys, own_config.where());
  ModelInfo info = read_renamed_info(config, family);
  if (generation_config != nullptr) {
    const auto place = fs::path(config.where()).replace_filename("generation_config.json");
    read_special_tokens(JsonObject(*generation_config, place.string()), info);
  }
  return info;
}

}  // namespace tandem
