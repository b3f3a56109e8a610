// ChatTemplate: finding a model's template, and rendering it with what transformers offers to
// templates.
#include "text/chat_template.h"

#include <utility>

#include "base/error.h"
#include "text/jinja_evaluator.h"
#include "text/jinja_json.h"
#include "text/jinja_parser.h"

namespace tandem {
namespace {

std::tm local_time() {
  const std::time_t now = std::time(nullptr);
  std::tm result{};
  ::localtime_r(&now, &result);
  return result;
}

// "chat_template" of tokenizer_config.json: a text, or a list of named ones.
std::string template_of(const Json& entry, const std::string& where) {
  if (entry.is_string()) return entry.get<std::string>();
  if (!entry.is_array())
    fail(ErrorCode::kFormat, "[chat template] {}: chat_template: expected a string or a list",
         where);
  for (const Json& each : entry) {
    const JsonObject object(each, where + ": chat_template");
    if (object.get_string("name") == "default") return object.get_string("template");
  }
  fail(ErrorCode::kNotFound, "[chat template] {}: chat_template: no template is named \"default\"",
       where);
}

}  // namespace

struct ChatTemplate::Impl {
  std::string name;
  jinja::Body body;
};

ChatTemplate::ChatTemplate(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

ChatTemplate ChatTemplate::compile(std::string_view source, std::string name) {
  jinja::Body body = jinja::parse(source, name);
  return ChatTemplate(std::make_unique<const Impl>(Impl{std::move(name), std::move(body)}));
}

ChatTemplate ChatTemplate::open(const fs::path& folder) {
  const fs::path file = folder / "chat_template.jinja";
  if (fs::exists(file)) return compile(read_text_file(file), file.string());
  const fs::path config = folder / "tokenizer_config.json";
  if (fs::exists(config)) {
    const Json json = read_json_file(config);
    const JsonObject object(json, config.string());
    if (object.has("chat_template"))
      return compile(template_of(object.at("chat_template"), config.string()),
                     config.string() + ": chat_template");
  }
  fail(ErrorCode::kNotFound,
       "[chat template] {}: expected chat_template.jinja, or \"chat_template\" in "
       "tokenizer_config.json",
       folder.string());
}

std::string ChatTemplate::render(const OrderedJson& context, const RenderOptions& options) const {
  return render_marked(context, options).text;
}

RenderedChat ChatTemplate::render_marked(const OrderedJson& context,
                                         const RenderOptions& options) const {
  if (!context.is_object())
    fail(ErrorCode::kInvalidArgument, "[chat template] {}: expected an object as context",
         impl_->name);
  jinja::Runtime runtime(options.now ? *options.now : local_time());
  jinja::Evaluator evaluator(impl_->name, runtime);
  try {
    for (const auto& [name, value] : context.items())
      evaluator.define(name, jinja::from_json(value, value.is_structured(), runtime.budget()));
  } catch (const jinja::Failure& failure) {
    fail(ErrorCode::kInvalidArgument, "[chat template] {}: {}", impl_->name, failure.message);
  }
  const jinja::Text text = evaluator.render(impl_->body);
  return {text.bytes(), text.from_chat()};
}

}  // namespace tandem
