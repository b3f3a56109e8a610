// The third stage: turns one piece of text into tokens.
#pragma once

#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/tokenizer/tokenizer.h"
#include "text/tokenizer/vocabulary.h"

namespace tandem {

// Working memory of one encode() call, so that models are immutable and can be shared by threads.
class PieceEncoder {
 public:
  virtual ~PieceEncoder() = default;
  // Appends the tokens of `piece` (valid UTF-8, not empty).
  virtual void encode(std::string_view piece, std::vector<TokenId>& ids) = 0;
};

class TokenModel {
 public:
  virtual ~TokenModel() = default;
  virtual std::unique_ptr<PieceEncoder> start() const = 0;
  virtual const Vocabulary& vocabulary() const noexcept = 0;
};

// Creates the component at "model" of tokenizer.json. Throws kFormat, or kUnsupported for an
// unknown type.
std::unique_ptr<TokenModel> make_token_model(const JsonObject& config);

}  // namespace tandem
