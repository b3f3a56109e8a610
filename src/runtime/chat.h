// A conversation in turns over one KV cache: each turn reads only what is not yet in the cache.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/complete.h"

namespace tandem {

struct ChatTurn : Completion {
  // The part of prompt_tokens (which counts the whole conversation up to this answer) that was read
  // in this turn; the rest was already in the cache, or dropped from it.
  std::int64_t read_tokens = 0;
};

// Throws kFormat, naming the entry, unless this is a list of {"role", "content", …}. `where` is
// where it comes from, such as a file.
void require_messages(const OrderedJson& messages, std::string_view where);

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
  // Answers the last user turn anew, in place of the answer to it if there is one; the same
  // otherwise. Throws kInvalidArgument also if there is no user turn.
  ChatTurn regenerate(std::int64_t max_tokens,
                      const std::function<bool(std::string_view)>& on_text = {});
  // Removes the last user turn and all that came after it. False if there is none.
  bool undo();
  // Starts over after the system message.
  void clear();
  // Goes on from these. Throws what require_messages() throws.
  void set_messages(OrderedJson messages);

  const OrderedJson& messages() const noexcept { return messages_; }
  // Length of the conversation so far, as the model reads it; 0 after set_messages() until the next
  // answer.
  std::int64_t tokens() const { return static_cast<std::int64_t>(generator_.sequence().size()); }
  // How many of these the context has dropped, with an eviction.
  std::int64_t dropped_tokens() const { return generator_.dropped_tokens(); }
  // How many there may be, or of an endless conversation those that are not dropped.
  std::int64_t most_tokens() const noexcept {
    const std::optional<Eviction>& eviction = options().eviction;
    return eviction ? eviction->context : options().max_length;
  }
  const SearchOptions& options() const noexcept { return generator_.options(); }

 private:
  // The answer to `messages`, which both become the conversation.
  ChatTurn answer(OrderedJson messages, std::int64_t max_tokens,
                  const std::function<bool(std::string_view)>& on_text);

  LocalModel& model_;
  Generator generator_;
  std::string system_;
  ChatOptions options_;
  OrderedJson messages_;
  // tokens() after the answer to each user turn, as far as it is known: 0 after set_messages().
  std::vector<std::int64_t> lengths_;
};

}  // namespace tandem
