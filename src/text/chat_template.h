// Renders a chat as the text that a model was trained on: the Jinja template that its checkpoint
// carries.
#pragma once

#include <cstddef>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "text/text_span.h"

namespace tandem {

struct RenderOptions {
  std::optional<std::tm> now;  // what strftime_now sees; the clock's local time if empty
};

// A rendered chat with the parts of it that came from the context's lists and objects (messages,
// tools, documents): what stands there is someone's text, not the template's, and should not be
// read as control tokens. The spans are ascending and apart.
struct RenderedChat {
  std::string text;
  std::vector<TextSpan> from_chat;
};

class ChatTemplate {
 public:
  // Compiles template text; `name` appears in errors ("NAME:3:17: expected …"). Throws kFormat.
  static ChatTemplate compile(std::string_view source, std::string name);
  // The template of a model folder: chat_template.jinja, or "chat_template" in
  // tokenizer_config.json (a text, or a list of {name, template}, of which "default" is taken).
  // Throws kNotFound if the folder has none.
  static ChatTemplate open(const fs::path& folder);
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  // `context` holds messages, add_generation_prompt, tools, bos_token, eos_token and whatever else
  // the template reads; order of keys is kept. Throws kInvalidArgument with the template's own
  // words from raise_exception(…).
  std::string render(const OrderedJson& context, const RenderOptions& options = {}) const;
  RenderedChat render_marked(const OrderedJson& context, const RenderOptions& options = {}) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace tandem
