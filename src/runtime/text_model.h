// The text side of a model: its tokenizer and its chat template.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "base/observer.h"
#include "runtime/loaded_model.h"
#include "text/chat_template.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem {

struct ChatOptions {
  // A list of functions; null if there are none.
  OrderedJson tools = nullptr;
  // Other variables that the template reads.
  OrderedJson variables = OrderedJson::object();
  // Append the beginning of the answer's turn.
  bool add_generation_prompt = true;
  // Special tokens spelled out in messages and tools become those tokens. Never enable it for
  // untrusted text, which could end its turn and start a system turn.
  bool parse_special_tokens = false;
};

// Opens each part when it is first needed; belongs to one thread at a time.
class TextModel {
 public:
  // `chat_template` replaces the model's own, as for ChatTemplate::open(), and `vocabulary` its
  // tokenizer, as for Tokenizer::open(). The observer must outlive the model.
  explicit TextModel(std::shared_ptr<const LoadedModel> model, fs::path chat_template = {},
                     VocabularyFiles vocabulary = {}, Observer& observer = silent());

  const Tokenizer& tokenizer();
  // Throws kNotFound, saying what to do, if the model has none.
  const ChatTemplate& chat_template();
  // True if there is one, even if it can't be used.
  bool has_chat_template();
  // The ids of a text to be continued. An empty one begins like any text of a model whose texts
  // begin with a token. Throws kInvalidArgument if the model has no such token.
  std::vector<TokenId> encode_prompt(std::string_view text);
  // The ids of a conversation, a list of {"role", "content", …}, rendered by the chat template.
  // Throws kInvalidArgument if the rendered text is empty.
  std::vector<TokenId> encode_messages(const OrderedJson& messages,
                                       const ChatOptions& options = {});
  // The same for one user turn, with a system message before it unless that is empty.
  std::vector<TokenId> encode_chat(std::string_view user, std::string_view system = {},
                                   const ChatOptions& options = {});

 private:
  // The variables that templates can use besides messages and tools.
  OrderedJson chat_context();

  std::shared_ptr<const LoadedModel> model_;
  fs::path chat_template_path_;
  VocabularyFiles vocabulary_;
  Observer& observer_;
  std::optional<Tokenizer> tokenizer_;
  std::optional<ChatTemplate> chat_template_;
};

}  // namespace tandem
