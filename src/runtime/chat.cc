// Renders the whole conversation for each turn and reuses the common prefix in the cache.
#include "runtime/chat.h"

#include <algorithm>

#include "base/error.h"

namespace tandem {

Chat::Chat(LocalModel& model, SearchOptions search, std::string system, ChatOptions options)
    : model_(model),
      generator_(model.engine, std::move(search)),
      system_(std::move(system)),
      options_(std::move(options)) {
  clear();
}

void Chat::clear() {
  messages_ = OrderedJson::array();
  if (!system_.empty()) messages_.push_back({{"role", "system"}, {"content", system_}});
  generator_.rewind(0);
}

ChatTurn Chat::say(std::string_view text, std::int64_t max_tokens,
                   const std::function<bool(std::string_view)>& on_text) {
  OrderedJson messages = messages_;
  messages.push_back({{"role", "user"}, {"content", text}});
  const std::vector<TokenId> ids = model_.text.encode_messages(messages, options_);
  const std::int64_t max_length = generator_.options().max_length;
  if (static_cast<std::int64_t>(ids.size()) >= max_length) {
    fail(ErrorCode::kInvalidArgument,
         "[chat] the conversation has grown to {} tokens, which leaves no room for an answer in {}",
         ids.size(), max_length);
  }

  // The whole conversation is rendered and encoded again, because a template may render earlier
  // turns differently once there are later ones. The common prefix need not be read again, except
  // for its last token, whose logits are needed.
  const std::span<const TokenId> known = generator_.sequence();
  const auto [same, unused] = std::mismatch(ids.begin(), ids.end() - 1, known.begin(), known.end());
  const auto kept = same - ids.begin();
  generator_.rewind(kept);
  ChatTurn turn;
  static_cast<Completion&>(turn) =
      complete(generator_, model_.text.tokenizer(),
               std::span(ids).subspan(static_cast<std::size_t>(kept)), max_tokens, on_text);
  turn.read_tokens = turn.prompt_tokens;
  turn.prompt_tokens = static_cast<std::int64_t>(ids.size());
  messages_ = std::move(messages);
  messages_.push_back({{"role", "assistant"}, {"content", turn.text}});
  return turn;
}

}  // namespace tandem
