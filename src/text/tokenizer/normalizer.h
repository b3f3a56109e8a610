// The first stage: rewrites the characters of a text before it is split into pieces.
#pragma once

#include <memory>
#include <string>

#include "base/json.h"

namespace tandem {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // Rewrites valid UTF-8 as valid UTF-8.
  virtual void apply(std::string& text) const = 0;
};

// Creates the component at "normalizer" of tokenizer.json. Throws kFormat, or kUnsupported for an
// unknown type.
std::unique_ptr<Normalizer> make_normalizer(const JsonObject& config);

}  // namespace tandem
