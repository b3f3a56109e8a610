// The settings shared by the pre-tokenizer and the decoder "Metaspace": spaces are replaced by a
// visible character, usually U+2581, and an additional one may be prepended to the text.
#pragma once

#include "base/json.h"

namespace tandem {

struct Metaspace {
  enum class Prepend { kAlways, kFirst, kNever };
  char32_t replacement;
  // Before every piece, before the first piece of the text, or never.
  Prepend prepend;
  // Pieces start at the replacement character.
  bool split;

  // Reads the new key ("prepend_scheme") or the old one ("add_prefix_space"). Throws kFormat.
  static Metaspace from_json(const JsonObject& config);
};

}  // namespace tandem
