// Reads the settings that transformers constructs tokenizers with.
#include "text/tokenizer/tokenizer_config.h"

#include <system_error>

#include "text/tokenizer/tokenizer_json.h"
#include "text/tokenizer/tokenizer_parts.h"

namespace tandem {
namespace {

std::optional<Json> read_if_present(const fs::path& file) {
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return std::nullopt;
  return read_json_file(file);
}

std::optional<bool> get_optional_bool(const JsonObject& object, std::string_view key) {
  if (!object.has(key)) return std::nullopt;
  return object.get_bool(key);
}

// "<s>", or {"content": "<s>", …}.
std::optional<std::string> get_token(const JsonObject& object, std::string_view key) {
  if (!object.has(key)) return std::nullopt;
  if (object.at(key).is_object()) return object.child(key).get_string("content");
  return object.get_string(key);
}

TokenId parse_id(const std::string& text, const std::string& place) {
  constexpr std::size_t kMostDigits = 8;
  const bool is_number = !text.empty() && text.size() <= kMostDigits &&
                         text.find_first_not_of("0123456789") == std::string::npos;
  return expect_token_id(is_number ? Json(std::stoll(text)) : Json(text), place);
}

}  // namespace

TokenizerConfig TokenizerConfig::beside(const fs::path& file) {
  TokenizerConfig config;
  const fs::path folder = file.parent_path();
  if (const auto json = read_if_present(folder / "config.json")) {
    const JsonObject object(*json, (folder / "config.json").string());
    config.model_type = object.get_string_or("model_type", "");
  }
  if (const auto json = read_if_present(folder / "added_tokens.json")) {
    const JsonObject object(*json, (folder / "added_tokens.json").string());
    for (const auto& [content, value] : json->items()) {
      const TokenId id = expect_token_id(value, key_place(object, content));
      config.added_tokens[id] = added_token(id, content, false);
    }
  }
  const fs::path path = folder / "tokenizer_config.json";
  const auto json = read_if_present(path);
  if (!json) return config;
  const JsonObject object(*json, path.string());
  config.found = true;
  config.tokenizer_class = object.get_string_or("tokenizer_class", "");
  config.add_bos_token = get_optional_bool(object, "add_bos_token");
  config.add_eos_token = get_optional_bool(object, "add_eos_token");
  config.add_prefix_space = get_optional_bool(object, "add_prefix_space");
  config.legacy = get_optional_bool(object, "legacy");
  config.bos_token = get_token(object, "bos_token");
  config.eos_token = get_token(object, "eos_token");
  if (object.has("added_tokens_decoder")) {
    const JsonObject tokens = object.child("added_tokens_decoder");
    for (const auto& [key, value] : tokens.json().items()) {
      const TokenId id = parse_id(key, key_place(tokens, key));
      Json token = tokens.child(key).json();
      token["id"] = id;
      config.added_tokens[id] = std::move(token);
    }
  }
  return config;
}

}  // namespace tandem
