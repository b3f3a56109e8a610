// Second stage: cuts normalized text in the pieces ("words") that the model tokenizes one by one.
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
  std::vector<TextSpan> pieces;  // of text, in order, none empty
  bool at_start = false;         // whether text begins where the input begins
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(PieceList& list) const = 0;
};

// The component at "pre_tokenizer" of tokenizer.json. Throws kFormat, or kUnsupported for an
// unknown type.
std::unique_ptr<PreTokenizer> make_pre_tokenizer(const JsonObject& config);

}  // namespace tandem
