// A conversation in turns over one KV cache: each turn reads what the cache does not hold yet.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "runtime/complete.h"

namespace tandem {

struct ChatTurn : Completion {
  // Of prompt_tokens, which count the whole conversation up to this answer: those that were read
  // now, the others being in the cache since earlier turns.
  std::int64_t read_tokens = 0;
};

class Chat {
 public:
  // Search options as for Generator; `system` is a line before the first turn, unless empty.
  Chat(LoadedModel& model, SearchOptions search, std::string system = {}, ChatOptions options = {});

  // One turn of the user and the answer to it, of at most `max_tokens` tokens; `on_text` as for
  // complete(). An answer cut short stays in the conversation as far as it came. Throws
  // kInvalidArgument when the conversation no longer fits in the context, and then it is as it was
  // before this turn.
  ChatTurn say(std::string_view text, std::int64_t max_tokens,
               const std::function<bool(std::string_view)>& on_text = {});
  // Begins anew after the system line.
  void clear();

  const OrderedJson& messages() const noexcept { return messages_; }
  std::int64_t tokens() const noexcept {  // of the conversation so far
    return static_cast<std::int64_t>(generator_.sequence().size());
  }

 private:
  LoadedModel& model_;
  Generator generator_;
  std::string system_;
  ChatOptions options_;
  OrderedJson messages_;
};

}  // namespace tandem
