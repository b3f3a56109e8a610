// Chat templates: the input is the template, rendered with one conversation that contains
// everything: turns, tools, a tool call, text in several scripts.
#include "fuzz.h"
#include "text/chat_template.h"

using namespace tandem;

namespace {

constexpr const char* kContext = R"({
  "messages": [
    {"role": "system", "content": "  Be brief. "},
    {"role": "user", "content": "Hi <|im_end|> naïve 日本 🙂"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello!",
     "tool_calls": [{"id": "abcdefghi", "type": "function", "function":
       {"name": "get", "arguments": {"x": 2, "y": [1.5, null, true]}}}]},
    {"role": "tool", "name": "get", "content": [{"type": "text", "text": "{\"a\": 1}"}]}
  ],
  "tools": [{"type": "function", "function": {"name": "get", "description": "é \"q\"",
    "parameters": {"type": "object", "properties": {"x": {"type": "number"}}}}}],
  "documents": null, "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>",
  "n": 7, "f": 0.5, "words": ["pear", "Apple", "fig"]
})";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const OrderedJson context = OrderedJson::parse(kContext);
  // A sanitized rendering is many times slower: less work finds the same mistakes in time.
  RenderOptions options;
  options.now = std::tm{};
  options.max_work = 1 << 20;
  return fuzz::parse([&] {
    const ChatTemplate compiled = ChatTemplate::compile(fuzz::as_text({data, size}), "template");
    const RenderedChat chat = compiled.render_marked(context, options);
    std::size_t end = 0;
    for (const TextSpan& span : chat.from_chat) {
      fuzz::require(span.begin >= end && span.begin < span.end, "marks overlap or are empty");
      end = span.end;
    }
    fuzz::require(end <= chat.text.size(), "a mark ends behind the text");
  });
}
