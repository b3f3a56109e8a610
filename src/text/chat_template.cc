// ChatTemplate: finding a model's template, and rendering it in the environment that transformers
// provides.
#include "text/chat_template.h"

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

#include "base/error.h"
#include "base/hub_cache.h"
#include "checkpoint/gguf/gguf.h"
#include "checkpoint/gguf/gguf_parts.h"
#include "text/jinja/evaluator.h"
#include "text/jinja/json.h"
#include "text/jinja/parser.h"

namespace tandem {
namespace {

// Far larger than any template, so that a weights file is not read to the end.
constexpr std::size_t kMaxTemplateFile = std::size_t{16} << 20;

std::tm local_time() {
  const std::time_t now = std::time(nullptr);
  std::tm result{};
  ::localtime_r(&now, &result);
  return result;
}

struct Source {
  std::string text;
  std::string name;
};
// The template, and the one for chats with tools if it is different.
struct Sources {
  Source chat;
  std::optional<Source> tools;
};

// "chat_template" of a JSON file, if present.
std::optional<Sources> read_config(const fs::path& path) {
  const Json json = read_json_file(path);
  const JsonObject object(json, path.string());
  if (!object.has("chat_template")) return std::nullopt;
  const Json& entry = object.at("chat_template");
  const std::string where = path.string() + ": chat_template";
  if (entry.is_string()) return Sources{{entry.get<std::string>(), where}, std::nullopt};
  if (!entry.is_array())
    fail(ErrorCode::kFormat, "[chat template] {}: expected a string or a list", where);
  std::map<std::string, std::string> named;
  for (const Json& each : entry) {
    const JsonObject one(each, where);
    named.emplace(one.get_string("name"), one.get_string("template"));
  }
  const auto chat = named.find("default");
  if (chat == named.end())
    fail(ErrorCode::kNotFound, "[chat template] {}: no template is named \"default\"", where);
  Sources sources{{chat->second, where}, std::nullopt};
  if (const auto tools = named.find("tool_use"); tools != named.end())
    sources.tools = Source{tools->second, where + ": tool_use"};
  return sources;
}

// "tokenizer.chat_template" of a GGUF, if present.
std::optional<Sources> read_gguf(const fs::path& path) {
  const Json metadata = gguf_metadata(path);
  const JsonObject object(metadata, path.string());
  const auto read = [&](const std::string& key) {
    return Source{object.get_string(key), path.string() + ": " + key};
  };
  const std::string chat = "tokenizer.chat_template";
  if (!object.has(chat)) return std::nullopt;
  Sources sources{read(chat), std::nullopt};
  if (object.has(chat + ".tool_use")) sources.tools = read(chat + ".tool_use");
  return sources;
}

std::vector<fs::path> gguf_files(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".gguf") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

std::optional<Sources> read_folder(const fs::path& folder) {
  const auto read = [](const fs::path& file) {
    return Source{read_text_file(file), file.string()};
  };
  if (const fs::path file = folder / "chat_template.jinja"; fs::exists(file)) {
    Sources sources{read(file), std::nullopt};
    const fs::path tools = folder / "additional_chat_templates" / "tool_use.jinja";
    if (fs::exists(tools)) sources.tools = read(tools);
    return sources;
  }
  for (const char* name : {"chat_template.json", "tokenizer_config.json"}) {
    if (!fs::exists(folder / name)) continue;
    if (auto sources = read_config(folder / name)) return sources;
  }
  for (const fs::path& file : gguf_files(folder))
    if (auto sources = read_gguf(file)) return sources;
  return std::nullopt;
}

std::optional<Sources> find_sources(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) return read_folder(path);
  if (is_gguf(path)) return read_gguf(path);
  if (path.extension() == ".json") return read_config(path);
  return Sources{{read_text_file(path, kMaxTemplateFile), path.string()}, std::nullopt};
}

// A GGUF's special tokens: their texts, looked up by id. An id outside the vocabulary names none.
OrderedJson gguf_special_tokens(const fs::path& path) {
  const Json metadata = gguf_metadata(path);
  const JsonObject object(metadata, path.string());
  OrderedJson result = OrderedJson::object();
  if (!object.has("tokenizer.ggml.tokens")) return result;
  const Json& tokens = object.at("tokenizer.ggml.tokens");
  for (const auto& [name, key] : {std::pair{"bos_token", "bos"},
                                  {"eos_token", "eos"},
                                  {"unk_token", "unknown"},
                                  {"sep_token", "seperator"},  // as the format spells it
                                  {"pad_token", "padding"}}) {
    const std::string place = fmt::format("tokenizer.ggml.{}_token_id", key);
    if (!object.has(place) || !tokens.is_array() || tokens.empty()) continue;
    constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
    const std::int64_t id = object.get_int(place, -kMost, kMost);
    if (id < 0 || id >= static_cast<std::int64_t>(tokens.size())) continue;
    const Json& token = tokens[static_cast<std::size_t>(id)];
    if (token.is_string()) result[name] = token.get<std::string>();
  }
  return result;
}

jinja::Body parse(const Source& source) { return jinja::parse(source.text, source.name); }

}  // namespace

OrderedJson read_special_tokens(const fs::path& name) {
  const fs::path path = find_model(name);
  std::error_code ignored;
  if (is_gguf(path)) return gguf_special_tokens(path);
  const fs::path folder = fs::is_directory(path, ignored) ? path : path.parent_path();
  OrderedJson tokens = OrderedJson::object();
  for (const char* file : {"special_tokens_map.json", "tokenizer_config.json"}) {
    if (!fs::exists(folder / file, ignored)) continue;
    const Json json = read_json_file(folder / file);
    const JsonObject config(json, (folder / file).string());
    for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
                            "cls_token", "mask_token"}) {
      if (!config.has(key)) continue;
      tokens[key] = config.at(key).is_object() ? config.child(key).get_string("content")
                                               : config.get_string(key);
    }
  }
  return tokens;
}

struct ChatTemplate::Impl {
  struct Compiled {
    std::string name;
    jinja::Body body;
  };
  Compiled chat;
  std::optional<Compiled> tools;

  const Compiled& choose(const OrderedJson& context) const {
    const auto given = context.find("tools");
    return tools && given != context.end() && !given->is_null() ? *tools : chat;
  }
};

ChatTemplate::ChatTemplate(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

ChatTemplate ChatTemplate::compile(std::string_view source, std::string name) {
  jinja::Body body = jinja::parse(source, name);
  return ChatTemplate(
      std::make_unique<const Impl>(Impl{{std::move(name), std::move(body)}, std::nullopt}));
}

ChatTemplate ChatTemplate::open(const fs::path& name) {
  const fs::path path = find_model(name);
  std::optional<Sources> sources = find_sources(path);
  if (!sources) {
    fail(ErrorCode::kNotFound,
         "[chat template] {}: expected chat_template.jinja, or \"chat_template\" in "
         "tokenizer_config.json",
         path.string());
  }
  Impl impl{{sources->chat.name, parse(sources->chat)}, std::nullopt};
  if (sources->tools) impl.tools = Impl::Compiled{sources->tools->name, parse(*sources->tools)};
  return ChatTemplate(std::make_unique<const Impl>(std::move(impl)));
}

std::string ChatTemplate::render(const OrderedJson& context, const RenderOptions& options) const {
  return render_marked(context, options).text;
}

RenderedChat ChatTemplate::render_marked(const OrderedJson& context,
                                         const RenderOptions& options) const {
  if (!context.is_object())
    fail(ErrorCode::kInvalidArgument, "[chat template] {}: expected an object as context",
         impl_->chat.name);
  const Impl::Compiled& compiled = impl_->choose(context);
  jinja::Runtime runtime(options.now ? *options.now : local_time(), options.max_work);
  jinja::Evaluator evaluator(compiled.name, runtime);
  try {
    for (const auto& [name, value] : context.items())
      evaluator.define(name, jinja::from_json(value, value.is_structured(), runtime.budget()));
  } catch (const jinja::Failure& failure) {
    fail(ErrorCode::kInvalidArgument, "[chat template] {}: {}", compiled.name, failure.message);
  }
  const jinja::Text text = evaluator.render(compiled.body);
  return {text.bytes(), text.from_chat()};
}

}  // namespace tandem
