// Renders a chat as the text that a model was trained on: the Jinja template that its checkpoint
// carries.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "text/tokenizer/text_span.h"

namespace tandem {

// What a rendering may do before it is an error: 1 for each step of the evaluator and each 16 bytes
// that it makes or searches. A chat of a million tokens takes about one million; this limit is
// reached within seconds.
inline constexpr std::int64_t kMaxTemplateWork = std::int64_t{32} << 20;

struct RenderOptions {
  std::optional<std::tm> now;  // what strftime_now sees; the clock's local time if empty
  std::int64_t max_work = kMaxTemplateWork;
};

// A rendered chat with the parts of it that came from the context's lists and objects (messages,
// tools, documents): what stands there is someone's text, not the template's, and should not be
// read as control tokens. The spans are ascending and apart.
struct RenderedChat {
  std::string text;
  std::vector<TextSpan> from_chat;
};

// "bos_token", "eos_token" and the like of a folder's tokenizer_config.json or
// special_tokens_map.json (a text, or an object with "content"), or of a GGUF, as templates see
// them. A path of another file means its folder; no such files, no tokens. Throws kFormat.
OrderedJson read_special_tokens(const fs::path& path);

class ChatTemplate {
 public:
  // Compiles template text; `name` appears in errors ("NAME:3:17: expected …"). Throws kFormat.
  static ChatTemplate compile(std::string_view source, std::string name);
  // A template file (.jinja); a tokenizer_config.json or chat_template.json with a
  // "chat_template" (a text, or a list of {name, template}); a GGUF with "tokenizer.chat_template";
  // or a model folder with any of them. Of
  // several templates "default" is the one, and "tool_use" takes its place where tools are given,
  // as transformers does. Throws kNotFound if there is none.
  static ChatTemplate open(const fs::path& path);
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
