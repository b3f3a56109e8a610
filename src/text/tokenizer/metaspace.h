// What the pre-tokenizer and the decoder "Metaspace" agree on: spaces are written as a visible
// character, U+2581 usually, and one more may stand before the text.
#pragma once

#include "base/json.h"

namespace tandem {

struct Metaspace {
  enum class Prepend { kAlways, kFirst, kNever };
  char32_t replacement;
  Prepend prepend;  // before every piece, before that which begins the text, nowhere
  bool split;       // pieces begin at the replacement

  // Reads the new spelling ("prepend_scheme") and the old one ("add_prefix_space"). Throws kFormat.
  static Metaspace from_json(const JsonObject& config);
};

}  // namespace tandem
