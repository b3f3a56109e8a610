// The last stage, in the other direction: tokens arrive one by one, and text is output as early as
// it is certain.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/json.h"

namespace tandem {

// Receives a stream of tokens, each in any number of parts. Every part is valid UTF-8 on its own.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  // More of the current token.
  virtual void text(std::string_view part) = 0;
  virtual void end_token() = 0;
  // No more tokens.
  virtual void finish() = 0;
};

// A decoder component; immutable, with its per-stream state in the result of start().
class Decoder {
 public:
  virtual ~Decoder() = default;
  // A sink that decodes into `next`, which must outlive it. May refer to this decoder.
  virtual std::unique_ptr<TokenSink> start(TokenSink& next) const = 0;
};

// Creates the component at "decoder" of tokenizer.json. Throws kFormat, or kUnsupported for an
// unknown type.
std::unique_ptr<Decoder> make_decoder(const JsonObject& config);

// The behaviour of a tokenizer without a decoder: tokens separated by spaces.
std::unique_ptr<Decoder> make_joining_decoder();

}  // namespace tandem
