// Renders a chat as the text that a model was trained on, with the Jinja template that comes with
// its checkpoint.
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

// The work limit of a rendering: 1 for each step of the evaluator and for each 16 bytes produced or
// searched. A chat of a million tokens takes about one million; this limit is reached within
// seconds.
inline constexpr std::int64_t kMaxTemplateWork = std::int64_t{32} << 20;

struct RenderOptions {
  // The time for strftime_now; empty: the clock's local time.
  std::optional<std::tm> now;
  std::int64_t max_work = kMaxTemplateWork;
};

// A rendered chat with the parts of it that came from the context's lists and objects (messages,
// tools, documents): that text was not written by the template's author and should not be parsed
// for control tokens. The spans are ascending and disjoint.
struct RenderedChat {
  std::string text;
  std::vector<TextSpan> from_chat;
};

// "bos_token", "eos_token" etc. as templates see them, from a folder's tokenizer_config.json or
// special_tokens_map.json (a string, or an object with "content"), or from a GGUF. The path of any
// other file means its folder; without such files there are no tokens. Throws kFormat.
OrderedJson read_special_tokens(const fs::path& name);

class ChatTemplate {
 public:
  // Compiles template text; `name` is used in errors ("NAME:3:17: expected …"). Throws kFormat.
  static ChatTemplate compile(std::string_view source, std::string name);
  // Opens a template file (.jinja), a tokenizer_config.json or chat_template.json with a
  // "chat_template" (a string, or a list of {name, template}), a GGUF with
  // "tokenizer.chat_template", or a model folder with any of them. Of several templates "default"
  // is used, or "tool_use" if there are tools, as in transformers. Throws kNotFound if there is
  // none.
  static ChatTemplate open(const fs::path& name);
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  // `context` holds messages, add_generation_prompt, tools, bos_token, eos_token and any other
  // variables that the template reads; the order of keys is kept. Throws kInvalidArgument with the
  // message of the template's raise_exception(…).
  std::string render(const OrderedJson& context, const RenderOptions& options = {}) const;
  RenderedChat render_marked(const OrderedJson& context, const RenderOptions& options = {}) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace tandem
