// What a sequence drops when its context is full, so that it can go on.
#pragma once

#include <cstdint>

namespace tandem {

// The oldest tokens behind the first few are dropped, several at once. The first few stay because
// attention rests on them whatever they say, and a model that misses them writes nonsense (Xiao et
// al. 2023, "Efficient Streaming Language Models with Attention Sinks").
struct Eviction {
  // Tokens that are held at most, those of a prefix not counted.
  std::int64_t context = 0;
  // First tokens that stay.
  std::int64_t sinks = 4;
  // Tokens that are dropped at once.
  std::int64_t count = 0;

  // How many of the first `length` tokens of a sequence are dropped by the time all of them are
  // read: room is made when the next token needs it.
  std::int64_t dropped(std::int64_t length) const noexcept {
    return length <= context ? 0 : (length - context + count - 1) / count * count;
  }
};

}  // namespace tandem
