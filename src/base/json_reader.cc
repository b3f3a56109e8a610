// Access to a JSON value with its place in the text.
#include "base/json_reader.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/json_lines.h"
#include "base/printable.h"

namespace tandem {

JsonReader::JsonReader(std::string_view text, std::string where, std::string area, std::string root)
    : where_(std::move(where)),
      area_(std::move(area)),
      root_(std::move(root)),
      json_(parse_json(text, where_)),
      lines_(json_lines(text)) {}

std::string JsonReader::join(const std::string& path, std::string_view key) {
  return path.empty() ? std::string(key) : fmt::format("{}.{}", path, key);
}

void JsonReader::reject(const std::string& path, const std::string& what) const {
  const auto line = lines_.find(path);
  fail(ErrorCode::kFormat, "[{}] {}:{}: {}: {}", area_, where_,
       line == lines_.end() ? 1 : line->second, path.empty() ? root_ : printable(path), what);
}

void JsonReader::require_object(const Json& json, const std::string& path) const {
  if (!json.is_object()) reject(path, "expected an object");
}

void JsonReader::require_keys(const Json& json, const std::string& path,
                              std::initializer_list<std::string_view> known) const {
  for (const auto& [key, value] : json.items())
    if (std::ranges::find(known, key) == known.end())
      reject(join(path, key),
             fmt::format("unknown key, expected one of {}", fmt::join(known, ", ")));
}

const Json& JsonReader::find(const Json& json, const std::string& path,
                             std::string_view key) const {
  const auto found = json.find(key);
  if (found == json.end()) reject(path, fmt::format("expected a key \"{}\"", key));
  return *found;
}

const Json& JsonReader::object(const Json& json, const std::string& path,
                               std::string_view key) const {
  const Json& found = find(json, path, key);
  require_object(found, join(path, key));
  return found;
}

std::string JsonReader::text(const Json& json, const std::string& path,
                             std::string_view key) const {
  const Json& found = find(json, path, key);
  if (!found.is_string() || found.get<std::string>().empty())
    reject(join(path, key), "expected a text");
  return found.get<std::string>();
}

std::int64_t JsonReader::integer(const Json& json, const std::string& path, std::string_view key,
                                 std::int64_t min, std::int64_t max) const {
  const Json& found = find(json, path, key);
  const bool fits = found.is_number_integer() && found.get<double>() >= static_cast<double>(min) &&
                    found.get<double>() <= static_cast<double>(max);
  if (!fits)
    reject(join(path, key), fmt::format("expected an integer in [{}, {}], got {}", min, max,
                                        printable(found.dump())));
  return found.get<std::int64_t>();
}

bool JsonReader::flag(const Json& json, const std::string& path, std::string_view key) const {
  const Json& found = find(json, path, key);
  if (!found.is_boolean())
    reject(join(path, key), fmt::format("expected true or false, got {}", printable(found.dump())));
  return found.get<bool>();
}

std::string JsonReader::text_or(const Json& json, const std::string& path, std::string_view key,
                                const std::string& fallback) const {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return fallback;
  if (!found->is_string()) reject(join(path, key), "expected a text");
  return found->get<std::string>();
}

std::int64_t JsonReader::integer_or(const Json& json, const std::string& path, std::string_view key,
                                    std::int64_t fallback, std::int64_t min,
                                    std::int64_t max) const {
  return json.contains(key) ? integer(json, path, key, min, max) : fallback;
}

bool JsonReader::flag_or(const Json& json, const std::string& path, std::string_view key,
                         bool fallback) const {
  return json.contains(key) ? flag(json, path, key) : fallback;
}

}  // namespace tandem
