// Last stage, the way back: tokens arrive one by one and text comes out as early as it is certain.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/json.h"

namespace tandem {

// Takes a stream of tokens, each in any number of parts. Every part is valid UTF-8 by itself.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void text(std::string_view part) = 0;  // more of the current token
  virtual void end_token() = 0;
  virtual void finish() = 0;  // no more tokens
};

// A component; immutable, its state for one stream is what start() returns.
class Decoder {
 public:
  virtual ~Decoder() = default;
  // A sink that decodes into `next`, which must outlive it. It may refer to this decoder.
  virtual std::unique_ptr<TokenSink> start(TokenSink& next) const = 0;
};

// The component at "decoder" of tokenizer.json. Throws kFormat, or kUnsupported for an unknown
// type.
std::unique_ptr<Decoder> make_decoder(const JsonObject& config);

// What a tokenizer without a decoder does: tokens with a space between them.
std::unique_ptr<Decoder> make_joining_decoder();

}  // namespace tandem
