// JSON to values and values to JSON, the latter as Python's json.dumps writes it.
#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "text/jinja/value.h"

namespace tandem::jinja {

// `from_chat` marks every string in it, keys as well, as someone's text.
Value from_json(const OrderedJson& json, bool from_chat, Budget& budget);

struct JsonStyle {
  std::optional<std::string> indent;  // of one level; empty: all in one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool ascii_only = false;
  bool sort_keys = false;
};

Text to_json(const Value& value, const JsonStyle& style, Budget& budget);

}  // namespace tandem::jinja
