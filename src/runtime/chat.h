// A conversation in turns over one KV cache: each turn reads only what is not yet in the cache.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "runtime/complete.h"

namespace tandem {

struct ChatTurn : Completion {
  // The part of prompt_tokens (which counts the whole conversation up to this answer) that was read
  // in this turn; the rest was already in the cache.
  std::int64_t read_tokens = 0;
};

class Chat {
 public:
  // Search options as for Generator; `system` is a system message before the first turn, unless
  // empty.
  Chat(LocalModel& model, SearchOptions search, std::string system = {}, ChatOptions options = {});

  // One user turn and the answer to it, of at most `max_tokens` tokens; `on_text` as for
  // complete(). An answer that is stopped stays in the conversation as far as it got. Throws
  // kInvalidArgument if the conversation no longer fits in the context; the conversation is then
  // unchanged.
  ChatTurn say(std::string_view text, std::int64_t max_tokens,
               const std::function<bool(std::string_view)>& on_text = {});
  // Starts over after the system message.
  void clear();

  const OrderedJson& messages() const noexcept { return messages_; }
  // Length of the conversation so far.
  std::int64_t tokens() const { return static_cast<std::int64_t>(generator_.sequence().size()); }

 private:
  LocalModel& model_;
  Generator generator_;
  std::string system_;
  ChatOptions options_;
  OrderedJson messages_;
};

}  // namespace tandem
