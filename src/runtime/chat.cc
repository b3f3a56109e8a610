// Renders the whole conversation for each turn and reuses the common prefix in the cache.
#include "runtime/chat.h"

#include <algorithm>

#include "base/error.h"

namespace tandem {

namespace {

bool is_user_turn(const OrderedJson& message) { return message["role"] == "user"; }

std::size_t user_turns(const OrderedJson& messages) {
  return static_cast<std::size_t>(std::ranges::count_if(messages, is_user_turn));
}

// Its index, or the number of messages.
std::size_t last_user_turn(const OrderedJson& messages) {
  for (std::size_t at = messages.size(); at-- > 0;)
    if (is_user_turn(messages[at])) return at;
  return messages.size();
}

void truncate(OrderedJson& messages, std::size_t count) {
  messages.erase(messages.begin() + static_cast<std::ptrdiff_t>(count), messages.end());
}

}  // namespace

void require_messages(const OrderedJson& messages, std::string_view where) {
  if (!messages.is_array())
    fail(ErrorCode::kFormat, "[chat] {}: expected a list of messages, got {}", where,
         messages.type_name());
  for (std::size_t at = 0; at < messages.size(); ++at) {
    const OrderedJson& message = messages[at];
    if (!message.is_object() || !message.value("role", OrderedJson()).is_string())
      fail(ErrorCode::kFormat, "[chat] {}: message {}: expected an object with the string \"role\"",
           where, at);
  }
}

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
  lengths_.clear();
  generator_.rewind(0);
}

ChatTurn Chat::say(std::string_view text, std::int64_t max_tokens,
                   const std::function<bool(std::string_view)>& on_text) {
  OrderedJson messages = messages_;
  messages.push_back({{"role", "user"}, {"content", text}});
  return answer(std::move(messages), max_tokens, on_text);
}

ChatTurn Chat::regenerate(std::int64_t max_tokens,
                          const std::function<bool(std::string_view)>& on_text) {
  OrderedJson messages = messages_;
  const std::size_t last = last_user_turn(messages);
  if (last == messages.size())
    fail(ErrorCode::kInvalidArgument, "[chat] there is no turn to answer yet");
  truncate(messages, last + 1);
  return answer(std::move(messages), max_tokens, on_text);
}

bool Chat::undo() {
  const std::size_t last = last_user_turn(messages_);
  if (last == messages_.size()) return false;
  truncate(messages_, last);
  lengths_.resize(user_turns(messages_));
  generator_.rewind(lengths_.empty() ? 0 : std::min(lengths_.back(), tokens()));
  return true;
}

void Chat::set_messages(OrderedJson messages) {
  require_messages(messages, "messages");
  messages_ = std::move(messages);
  lengths_.clear();
  generator_.rewind(0);
}

ChatTurn Chat::answer(OrderedJson messages, std::int64_t max_tokens,
                      const std::function<bool(std::string_view)>& on_text) {
  const std::vector<TokenId> ids = model_.text.encode_messages(messages, options_);
  const std::int64_t max_length = generator_.options().max_length;
  if (static_cast<std::int64_t>(ids.size()) >= max_length) {
    fail(
        ErrorCode::kInvalidArgument,
        "[chat] the conversation has grown to {} tokens, which leaves no room for an answer in {}: "
        "expected it to be cleared, or turns to be taken back",
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
  turn.read_tokens = static_cast<std::int64_t>(ids.size()) - generator_.read_tokens();
  static_cast<Completion&>(turn) =
      complete(generator_, model_.text.tokenizer(),
               std::span(ids).subspan(static_cast<std::size_t>(kept)), max_tokens, on_text);
  turn.prompt_tokens = static_cast<std::int64_t>(ids.size());
  messages_ = std::move(messages);
  lengths_.resize(user_turns(messages_));
  lengths_.back() = tokens();
  messages_.push_back({{"role", "assistant"}, {"content", turn.text}});
  return turn;
}

}  // namespace tandem
