// Opens the tokenizer and the chat template on demand, and renders chats.
#include "runtime/text_model.h"

#include <utility>

#include "base/error.h"

namespace tandem {

TextModel::TextModel(std::shared_ptr<const LoadedModel> model, fs::path chat_template,
                     VocabularyFiles vocabulary, Observer& observer)
    : model_(std::move(model)),
      chat_template_path_(std::move(chat_template)),
      vocabulary_(std::move(vocabulary)),
      observer_(observer) {
  if (vocabulary_.vocabulary.empty()) vocabulary_.vocabulary = model_->text_path();
  if (chat_template_path_.empty()) chat_template_path_ = model_->text_path();
}

const Tokenizer& TextModel::tokenizer() {
  if (!tokenizer_) {
    tokenizer_ = Tokenizer::open(vocabulary_.vocabulary, observer_, vocabulary_.merges);
    // Makes sure that the files read now are those that were verified.
    model_->require_unchanged();
  }
  return *tokenizer_;
}

const ChatTemplate& TextModel::chat_template() {
  if (chat_template_) return *chat_template_;
  try {
    chat_template_ = ChatTemplate::open(chat_template_path_);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNotFound || chat_template_path_ != model_->text_path()) throw;
    fail(ErrorCode::kNotFound,
         "[model] {}: this model has no chat template; name one (--chat-template FILE), or send "
         "the prompt as plain text",
         model_->path().string());
  }
  return *chat_template_;
}

std::vector<TokenId> TextModel::encode_prompt(std::string_view text) {
  std::vector<TokenId> ids = tokenizer().encode(text);
  const std::optional<std::int64_t> begin = model_->info().bos;
  if (ids.empty() && begin) ids.push_back(static_cast<TokenId>(*begin));
  if (ids.empty())
    fail(ErrorCode::kInvalidArgument,
         "[model] {}: the prompt is empty, and the model has no token to begin with",
         model_->path().string());
  return ids;
}

bool TextModel::has_chat_template() {
  try {
    chat_template();
    return true;
  } catch (const Error& error) {
    return error.code() != ErrorCode::kNotFound;
  }
}

OrderedJson TextModel::chat_context() {
  OrderedJson context = read_special_tokens(model_->text_path());
  const auto fall_back = [&](const char* key, std::optional<std::int64_t> id) {
    if (id && !context.contains(key))
      context[key] = tokenizer().id_to_token(static_cast<TokenId>(*id));
  };
  fall_back("bos_token", model_->info().bos);
  if (!model_->info().eos.empty()) fall_back("eos_token", model_->info().eos.front());
  fall_back("pad_token", model_->info().pad);
  return context;
}

std::vector<TokenId> TextModel::encode_messages(const OrderedJson& messages,
                                                const ChatOptions& options) {
  if (!messages.is_array())
    fail(ErrorCode::kInvalidArgument, "[model] messages: expected a list of objects");
  OrderedJson context = chat_context();
  context["documents"] = nullptr;
  context.update(options.variables);
  context["messages"] = messages;
  context["tools"] = options.tools;
  context["add_generation_prompt"] = options.add_generation_prompt;
  const RenderedChat chat = chat_template().render_marked(context);
  EncodeOptions encode{.add_special_tokens = false};
  if (!options.parse_special_tokens) encode.plain = chat.from_chat;
  std::vector<TokenId> ids = tokenizer().encode(chat.text, encode);
  if (ids.empty())
    fail(ErrorCode::kInvalidArgument,
         "[model] {}: the chat template makes no text of these messages, expected a prompt",
         model_->path().string());
  return ids;
}

std::vector<TokenId> TextModel::encode_chat(std::string_view user, std::string_view system,
                                            const ChatOptions& options) {
  OrderedJson messages = OrderedJson::array();
  if (!system.empty()) messages.push_back({{"role", "system"}, {"content", system}});
  messages.push_back({{"role", "user"}, {"content", user}});
  return encode_messages(messages, options);
}

}  // namespace tandem
