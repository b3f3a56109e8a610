// JSON with limits against hostile input, and typed access whose errors name the file and the key.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"

namespace tandem {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

// Deepest nesting accepted from a file; real configurations stay under 20.
inline constexpr int kMaxJsonDepth = 128;

inline constexpr std::size_t kMaxOrderedKeys = 4096;

// Parses text; errors name `where` (usually a path), the line and the column. Rejects nesting
// deeper than kMaxJsonDepth, duplicate keys in an object, trailing text, and text that is not
// UTF-8. NaN, Infinity and -Infinity, which Python writes, are read as floats; JsonObject refuses
// them where a number is needed. Throws kFormat.
Json parse_json(std::string_view text, std::string_view where);
// The same, keeping keys in the order of the text and integers of any size (see long_integer.h),
// for content that is shown to people or models.
// Finding a key is linear in the number of keys, so an object may have at most kMaxOrderedKeys.
OrderedJson parse_ordered_json(std::string_view text, std::string_view where);
Json read_json_file(const fs::path& path, std::size_t max_bytes = std::size_t{256} << 20);

// A JSON object and its location in a file, for reading a configuration key by key. The JSON must
// outlive it. A key whose value is null counts as missing.
//   JsonObject c(json, path); int layers = c.get_int("num_hidden_layers", 1, 4096);
class JsonObject {
 public:
  // kFormat if it is not an object.
  JsonObject(const Json& object, std::string where);

  // Present and not null.
  bool has(std::string_view key) const;
  const Json& at(std::string_view key) const;
  // Errors from the child name "path: key.sub".
  JsonObject child(std::string_view key) const;

  // Each throws kFormat ("PATH: KEY: expected an integer in [1, 4096], got "x""), or kNotFound if
  // the key is missing. Numbers are finite.
  std::int64_t get_int(std::string_view key, std::int64_t min, std::int64_t max) const;
  double get_number(std::string_view key) const;
  bool get_bool(std::string_view key) const;
  std::string get_string(std::string_view key) const;
  // A number or an array of numbers.
  std::vector<std::int64_t> get_ints(std::string_view key) const;

  std::int64_t get_int_or(std::string_view key, std::int64_t fallback, std::int64_t min,
                          std::int64_t max) const;
  double get_number_or(std::string_view key, double fallback) const;
  bool get_bool_or(std::string_view key, bool fallback) const;
  std::string get_string_or(std::string_view key, std::string fallback) const;

  const Json& json() const noexcept { return *json_; }
  const std::string& where() const noexcept { return where_; }

 private:
  // "PATH: key" or "PATH: parent.key", for error messages.
  std::string place(std::string_view key) const;

  const Json* json_;
  std::string where_;
  // True if where_ ends with a key.
  bool nested_ = false;
};

}  // namespace tandem
