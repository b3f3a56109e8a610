// Conversion from JSON to values and back, the latter in the format of Python's json.dumps.
#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "text/jinja/value.h"

namespace tandem::jinja {

// `from_chat` marks every string, keys included, as untrusted text from the chat.
Value from_json(const OrderedJson& json, bool from_chat, Budget& budget);

struct JsonStyle {
  // Indentation per level; empty: everything on one line.
  std::optional<std::string> indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool ascii_only = false;
  bool sort_keys = false;
};

Text to_json(const Value& value, const JsonStyle& style, Budget& budget);

}  // namespace tandem::jinja
