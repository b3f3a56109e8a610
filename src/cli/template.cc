// tandem template: renders a chat to the text that a model reads.
#include <ctime>
#include <iostream>

#include "base/error.h"
#include "cli/commands.h"
#include "text/chat_template.h"

namespace tandem::cli {
namespace {

struct TemplateFlags {
  std::string file;
  std::string messages;
  std::string tools;
  std::string context;
  std::string now;
  bool no_generation_prompt = false;
};

// Parses "2026-11-20T12:00:00"; the day of the week and of the year are filled in.
std::tm parse_time(const std::string& text) {
  std::tm time{};
  const char* end = ::strptime(text.c_str(), "%Y-%m-%dT%H:%M:%S", &time);
  std::tm normal = time;
  if (end == nullptr || *end != '\0' || ::timegm(&normal) == -1 || normal.tm_mday != time.tm_mday ||
      normal.tm_sec != time.tm_sec) {
    fail(ErrorCode::kInvalidArgument,
         "[template] --now: expected a time such as 2026-11-20T12:00:00, got \"{}\"", text);
  }
  return normal;
}

void render(const TemplateFlags& flags) {
  const bool twice = (flags.messages == "-") + (flags.tools == "-") + (flags.context == "-") > 1;
  if (twice) {
    fail(ErrorCode::kInvalidArgument,
         "[template] only one of --messages, --tools and --context can be standard input");
  }
  refuse_standard_stream(flags.file, "file", "its special tokens are found beside it");
  RenderOptions options;
  if (!flags.now.empty()) options.now = parse_time(flags.now);
  const ChatTemplate chat = ChatTemplate::open(flags.file);
  OrderedJson context = read_special_tokens(flags.file);
  context["documents"] = nullptr;
  context["tools"] = nullptr;
  context["add_generation_prompt"] = !flags.no_generation_prompt;
  context["messages"] = read_json_list("template", flags.messages, "messages");
  if (!flags.tools.empty()) context["tools"] = read_json_list("template", flags.tools, "tools");
  if (!flags.context.empty()) {
    const OrderedJson more = read_ordered_json(flags.context);
    if (!more.is_object())
      fail(ErrorCode::kFormat, "[template] {}: expected an object", flags.context);
    context.update(more);
  }
  std::cout << chat.render(context, options);
}

}  // namespace

void add_template(CLI::App& app) {
  auto* command = app.add_subcommand(
      "template", "messages to the text that a model reads, as its chat template spells it");
  auto flags = std::make_shared<TemplateFlags>();
  command
      ->add_option("file", flags->file,
                   "template (.jinja), tokenizer_config.json, model folder or GGUF")
      ->required();
  command
      ->add_option("--messages", flags->messages,
                   "JSON file: a list of messages, or an object with \"messages\"; -: standard "
                   "input")
      ->required();
  command->add_option("--tools", flags->tools, "JSON file: a list of tools");
  command->add_option("--context", flags->context,
                      "JSON file: an object of further variables, such as bos_token");
  command->add_flag("--no-generation-prompt", flags->no_generation_prompt,
                    "end after the last message, not where an answer begins");
  command->add_option("--now", flags->now,
                      "time that the template sees, such as 2026-11-20T12:00:00 (default: the "
                      "clock's)");
  command->callback([flags] { render(*flags); });
}

}  // namespace tandem::cli
