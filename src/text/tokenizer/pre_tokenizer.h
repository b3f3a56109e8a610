// The second stage: splits normalized text into the pieces ("words") that the model tokenizes one
// by one.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/tokenizer/unicode.h"

namespace tandem {

struct PieceList {
  std::string text;
  // Spans of the text, in order, none empty.
  std::vector<TextSpan> pieces;
  // Whether the text begins at the start of the input.
  bool at_start = false;
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(PieceList& list) const = 0;
};

// Creates the component at "pre_tokenizer" of tokenizer.json. Throws kFormat, or kUnsupported for
// an unknown type.
std::unique_ptr<PreTokenizer> make_pre_tokenizer(const JsonObject& config);

}  // namespace tandem
