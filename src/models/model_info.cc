// The keys of config.json common to all families, each with bounds.
#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>
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

// The ids at `key`, one or several, that are in the vocabulary. Any other can be neither read nor
// written by the model, so ignoring it changes nothing: -1 and 4294967295 are written for "none",
// and a table that was cut leaves the ids of its lost tokens behind.
std::vector<std::int64_t> read_token_ids(const JsonObject& config, std::string_view key,
                                         std::int64_t vocabulary, Observer& observer) {
  const Json& value = config.at(key);
  std::vector<std::int64_t> ids;
  const auto add = [&](const Json& id) {
    if (!id.is_number_integer())
      fail(ErrorCode::kFormat, "[models] {}: {}: expected a token id or an array of ids, got {}",
           config.where(), key, id.type_name());
    const bool known = id.is_number_unsigned()
                           ? id.get<std::uint64_t>() < static_cast<std::uint64_t>(vocabulary)
                           : id >= 0 && id < vocabulary;
    if (known) {
      ids.push_back(id.get<std::int64_t>());
    } else {
      observer.warn(fmt::format("[models] {}: {}: {} is outside the vocabulary of {}: ignored",
                                config.where(), key, id.dump(), vocabulary));
    }
  };
  if (value.is_array()) {
    std::ranges::for_each(value, add);
  } else {
    add(value);
  }
  return ids;
}

// Reads bos, eos and pad from `config`; a key that is absent, or has no id of the vocabulary,
// leaves the previous value.
void read_special_tokens(const JsonObject& config, ModelInfo& info, Observer& observer) {
  const auto read = [&](const char* key) {
    return config.has(key) ? read_token_ids(config, key, info.vocabulary, observer)
                           : std::vector<std::int64_t>();
  };
  if (const auto ids = read("bos_token_id"); !ids.empty()) info.bos = ids.front();
  if (auto ids = read("eos_token_id"); !ids.empty()) info.eos = std::move(ids);
  if (const auto ids = read("pad_token_id"); !ids.empty()) info.pad = ids.front();
}

}  // namespace

std::int64_t read_max_positions(const JsonObject& config, const FamilyDefaults& defaults) {
  return config.get_int_or("max_position_embeddings", defaults.context_length, 1, kMaxContext);
}

ModelInfo read_renamed_info(const JsonObject& config, const Family& family, Observer& observer) {
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
  read_special_tokens(config, info, observer);
  return info;
}

ModelInfo read_model_info(const JsonObject& own_config, const Json* generation_config,
                          Observer& observer) {
  const Family family = find_family(own_config);
  const Json keys = rename_keys(family, own_config);
  const JsonObject config(keys, own_config.where());
  ModelInfo info = read_renamed_info(config, family, observer);
  if (generation_config != nullptr) {
    const auto place = fs::path(config.where()).replace_filename("generation_config.json");
    read_special_tokens(JsonObject(*generation_config, place.string()), info, observer);
  }
  return info;
}

}  // namespace tandem
