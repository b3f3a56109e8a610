// Typed access to tokenizer.json beyond what JsonObject offers.
#include "text/tokenizer/tokenizer_json.h"

#include "base/error.h"
#include "text/tokenizer/unicode.h"

namespace tandem {

std::string key_place(const JsonObject& object, std::string_view key) {
  // JsonObject::where() is "PATH" for the whole file and "PATH: a.b" below it.
  const bool nested = object.where().find(": ") != std::string::npos;
  return fmt::format("{}{}{}", object.where(), nested ? "." : ": ", key);
}

std::string describe(const Json& json) {
  constexpr std::size_t kShown = 40;
  if (json.is_array()) return fmt::format("an array of {}", json.size());
  if (json.is_object()) return fmt::format("an object of {}", json.size());
  std::string text = json.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > kShown) text = text.substr(0, kShown) + "...";
  return text;
}

std::vector<JsonObject> get_objects(const JsonObject& object, std::string_view key) {
  const Json& array = object.at(key);
  const std::string place = key_place(object, key);
  if (!array.is_array()) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: expected an array of objects, got {}", place,
         describe(array));
  }
  std::vector<JsonObject> objects;
  objects.reserve(array.size());
  for (std::size_t i = 0; i < array.size(); ++i) {
    objects.emplace_back(array[i], fmt::format("{}[{}]", place, i));
  }
  return objects;
}

std::vector<std::string> get_strings(const JsonObject& object, std::string_view key) {
  std::vector<std::string> strings;
  if (!object.has(key)) return strings;
  const Json& array = object.at(key);
  const std::string place = key_place(object, key);
  if (!array.is_array()) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: expected an array of strings, got {}", place,
         describe(array));
  }
  for (const Json& json : array) strings.emplace_back(expect_string(json, place));
  return strings;
}

std::string_view expect_string(const Json& json, std::string_view place) {
  if (!json.is_string()) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: expected a string, got {}", place, describe(json));
  }
  return json.get_ref<const std::string&>();
}

std::optional<std::int32_t> as_token_id(const Json& json) noexcept {
  // The parser stores a number without a sign as unsigned, which may be beyond int64.
  if (const auto* id = json.get_ptr<const Json::number_unsigned_t*>()) {
    if (*id <= static_cast<std::uint64_t>(kMaxTokenId)) return static_cast<std::int32_t>(*id);
  } else if (const auto* signed_id = json.get_ptr<const Json::number_integer_t*>()) {
    if (*signed_id >= 0 && *signed_id <= kMaxTokenId) return static_cast<std::int32_t>(*signed_id);
  }
  return std::nullopt;
}

std::int32_t expect_token_id(const Json& json, std::string_view place) {
  if (const std::optional<std::int32_t> id = as_token_id(json)) return *id;
  fail(ErrorCode::kFormat, "[tokenizer] {}: expected a token id in [0, {}], got {}", place,
       kMaxTokenId, describe(json));
}

std::vector<std::int32_t> get_token_ids(const JsonObject& object, std::string_view key) {
  std::vector<std::int32_t> ids;
  if (!object.has(key)) return ids;
  const Json& array = object.at(key);
  const std::string place = key_place(object, key);
  if (!array.is_array()) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: expected an array of token ids, got {}", place,
         describe(array));
  }
  for (const Json& json : array) ids.push_back(expect_token_id(json, place));
  return ids;
}

char32_t get_character(const JsonObject& object, std::string_view key) {
  const std::string_view text = expect_string(object.at(key), key_place(object, key));
  std::size_t at = 0;
  const char32_t code = text.empty() ? 0 : next_character(text, at);
  if (text.empty() || at != text.size()) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: expected one character, got {}",
         key_place(object, key), describe(object.at(key)));
  }
  return code;
}

std::string component_type(const JsonObject& component) { return component.get_string("type"); }

void fail_unknown_component(const JsonObject& component, std::string_view stage) {
  fail(ErrorCode::kUnsupported, "[tokenizer] {}: \"{}\" is not a {} that this build knows",
       key_place(component, "type"), component_type(component), stage);
}

}  // namespace tandem
