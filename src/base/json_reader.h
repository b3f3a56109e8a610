// A JSON file of settings, read key by key, with errors that name file, line and key.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>

#include "base/json.h"

namespace tandem {

// Paths name values as json_lines() does: "rules[2].match"; the root's is empty.
class JsonReader {
 public:
  // `area` begins messages, `root` is what the whole is called there: "recipe". Throws kFormat for
  // text that is no JSON.
  JsonReader(std::string_view text, std::string where, std::string area, std::string root);

  const Json& root() const noexcept { return json_; }
  static std::string join(const std::string& path, std::string_view key);

  // Throws kFormat: "[area] FILE:LINE: PATH: what".
  [[noreturn]] void reject(const std::string& path, const std::string& what) const;

  void require_object(const Json& json, const std::string& path) const;
  void require_keys(const Json& json, const std::string& path,
                    std::initializer_list<std::string_view> known) const;

  // Of an object at `path`. The first three throw for a key that is missing, those with a fallback
  // return it then.
  const Json& object(const Json& json, const std::string& path, std::string_view key) const;
  std::string text(const Json& json, const std::string& path, std::string_view key) const;
  std::int64_t integer(const Json& json, const std::string& path, std::string_view key,
                       std::int64_t min, std::int64_t max) const;
  bool flag(const Json& json, const std::string& path, std::string_view key) const;
  std::string text_or(const Json& json, const std::string& path, std::string_view key,
                      const std::string& fallback) const;
  std::int64_t integer_or(const Json& json, const std::string& path, std::string_view key,
                          std::int64_t fallback, std::int64_t min, std::int64_t max) const;
  bool flag_or(const Json& json, const std::string& path, std::string_view key,
               bool fallback) const;

 private:
  const Json& find(const Json& json, const std::string& path, std::string_view key) const;

  std::string where_;
  std::string area_;
  std::string root_;
  Json json_;
  std::map<std::string, int> lines_;
};

}  // namespace tandem
