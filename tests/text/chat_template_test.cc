// Chat templates against Jinja2: fixtures/make_chat_template.py wrote the expected results in
// transformers' environment.
#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <string>

#include "base/files.h"
#include "support.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::fixture;
using testing::ScratchFolder;

OrderedJson read_ordered(const fs::path& path) { return OrderedJson::parse(read_text_file(path)); }

// 2024-03-09 14:05:07, as the fixtures have it; a Saturday.
RenderOptions fixed_time() {
  std::tm now{};
  now.tm_year = 124;
  now.tm_mon = 2;
  now.tm_mday = 9;
  now.tm_hour = 14;
  now.tm_min = 5;
  now.tm_sec = 7;
  now.tm_wday = 6;
  now.tm_yday = 68;
  return {.now = now};
}

std::string render(const std::string& source, const OrderedJson& context = OrderedJson::object()) {
  return ChatTemplate::compile(source, "t").render(context, fixed_time());
}

// 64-bit FNV-1a, as in the script.
std::string fingerprint(const std::string& text) {
  std::uint64_t value = 0xCBF29CE484222325;
  for (const char c : text) value = (value ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return fmt::format("{:016x}", value);
}

TEST(ChatTemplate, RendersAsJinja2Does) {
  const OrderedJson file = read_ordered(fixture("text/fixtures/chat_template_cases.json"));
  EXPECT_GT(file.at("cases").size(), 170U);
  for (const auto& each : file.at("cases")) {
    const std::string source = each.at("template");
    SCOPED_TRACE(source);
    if (each.contains("text")) {
      try {
        EXPECT_EQ(render(source, file.at("context")), each.at("text").get<std::string>());
      } catch (const Error& error) {
        ADD_FAILURE() << error.what();
      }
      continue;
    }
    // All errors name the place.
    const std::string message = error_of([&] { render(source, file.at("context")); });
    EXPECT_EQ(message.find("[chat template] t:"), 0U) << message;
  }
}

// Integers of any size and the case of every character; the context keeps its long integers.
TEST(ChatTemplate, CountsAndSpellsAsPythonDoes) {
  const fs::path path = fixture("text/fixtures/chat_template_python.json");
  const OrderedJson file = parse_ordered_json(read_text_file(path), path.string());
  EXPECT_GT(file.at("cases").size(), 40U);
  for (const auto& each : file.at("cases")) {
    const std::string source = each.at("template");
    SCOPED_TRACE(source);
    if (each.contains("text")) {
      try {
        EXPECT_EQ(render(source, file.at("context")), each.at("text").get<std::string>());
      } catch (const Error& error) {
        ADD_FAILURE() << error.what();
      }
      continue;
    }
    const std::string message = error_of([&] { render(source, file.at("context")); });
    EXPECT_EQ(message.find("[chat template] t:"), 0U) << message;
  }
}

TEST(ChatTemplate, BoundsItsIntegers) {
  const std::string long_one(5000, '9');
  for (const std::string& source : std::vector<std::string>{
           "{{ 2**100000 }}", "{{ 10**(10**30) }}", "{{ 2**60000 * 2**60000 }}",
           "{{ (2**60000)|string }}", "{{ " + long_one + " }}",
           "{% set ns = namespace(x=3) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}"
           "{% endfor %}"}) {
    const std::string message = error_of([&] { render(source); });
    EXPECT_NE(message.find("an integer of more than"), std::string::npos) << message;
  }
  EXPECT_EQ(render("{{ '" + long_one + "'|int }}"), "0");
  EXPECT_EQ(render("{{ 2**60000 > 2**59999 }}"), "True");
}

TEST(ChatTemplate, RendersTheTemplatesOfModelsAsJinja2Does) {
  TANDEM_REQUIRE_SHARED("chat_templates");
  const OrderedJson file = read_ordered(fixture("text/fixtures/chat_template_models.json"));
  int count = 0;
  for (const auto& each : file.at("renderings")) {
    const fs::path path =
        testing::shared_data() / "chat_templates" / each.at("file").get<std::string>();
    SCOPED_TRACE(path.filename().string() + ", " + each.at("chat").get<std::string>());
    OrderedJson context = {
        {"tools", nullptr}, {"documents", nullptr}, {"bos_token", "<s>"}, {"eos_token", "</s>"}};
    context.update(file.at("chats").at(each.at("chat").get<std::string>()));
    context["add_generation_prompt"] = each.at("add_generation_prompt");
    const ChatTemplate compiled =
        ChatTemplate::compile(read_text_file(path), path.filename().string());
    if (each.contains("error")) {
      error_of([&] { compiled.render(context, fixed_time()); });
      continue;
    }
    const std::string text = compiled.render(context, fixed_time());
    EXPECT_EQ(text.size(), each.at("bytes").get<std::size_t>()) << text;
    EXPECT_EQ(fingerprint(text), each.at("fnv1a").get<std::string>()) << text;
    ++count;
  }
  EXPECT_GE(count, 50);
}

TEST(ChatTemplate, RendersTheDemosTemplate) {
  const ChatTemplate compiled = ChatTemplate::open(testing::demo_dir());
  const OrderedJson chats =
      read_ordered(fixture("text/fixtures/chat_template_models.json")).at("chats");
  for (const auto& each : read_ordered(fixture("text/fixtures/chat_template_demo.json"))) {
    OrderedJson context = chats.at(each.at("chat").get<std::string>());
    context["add_generation_prompt"] = each.at("add_generation_prompt");
    EXPECT_EQ(compiled.render(context), each.at("text").get<std::string>());
  }
}

TEST(ChatTemplate, OpensWhatAFolderHas) {
  const ScratchFolder folder;
  EXPECT_NE(
      error_of([&] { ChatTemplate::open(folder.path()); }).find("expected chat_template.jinja"),
      std::string::npos);

  const fs::path config = folder / "tokenizer_config.json";
  write_text_file(config, R"({"chat_template": "one {{ x }}"})");
  EXPECT_EQ(ChatTemplate::open(folder.path()).render({{"x", 1}}), "one 1");
  write_text_file(config, R"({"chat_template": [{"name": "tool_use", "template": "t"},
                                                {"name": "default", "template": "d"}]})");
  EXPECT_EQ(ChatTemplate::open(folder.path()).render(OrderedJson::object()), "d");
  write_text_file(config, R"({"chat_template": [{"name": "tool_use", "template": "t"}]})");
  EXPECT_NE(error_of([&] { ChatTemplate::open(folder.path()); }).find("\"default\""),
            std::string::npos);
  for (const char* bad : {R"({"chat_template": 5})", R"({"chat_template": [{"name": 1}]})",
                          R"({"chat_template": ["x"]})", R"({"chat_template": "{{"})"}) {
    write_text_file(config, bad);
    EXPECT_NE(error_of([&] { ChatTemplate::open(folder.path()); }).find("tokenizer_config.json"),
              std::string::npos);
  }

  write_text_file(folder / "chat_template.jinja", "file");
  EXPECT_EQ(ChatTemplate::open(folder.path()).render(OrderedJson::object()), "file");
}

TEST(ChatTemplate, TakesAnotherTemplateForToolsWhereThereIsOne) {
  const ScratchFolder folder;
  const OrderedJson chat = OrderedJson::parse(R"({"tools": null})");
  const OrderedJson tools = OrderedJson::parse(R"({"tools": []})");
  write_text_file(folder / "tokenizer_config.json",
                  R"({"chat_template": [{"name": "default", "template": "d"},
                                        {"name": "tool_use", "template": "t{{ x.y }}"}]})");
  ChatTemplate named = ChatTemplate::open(folder / "tokenizer_config.json");
  EXPECT_EQ(named.render(chat), "d");
  EXPECT_EQ(named.render(OrderedJson::object()), "d");
  EXPECT_NE(error_of([&] { named.render(tools); }).find("tool_use:1:6: 'x' is undefined"),
            std::string::npos);
  // Models for more than text keep theirs in a file of its own.
  write_text_file(folder / "chat_template.json", R"({"chat_template": "j"})");
  EXPECT_EQ(ChatTemplate::open(folder.path()).render(tools), "j");
  write_text_file(folder / "chat_template.jinja", "f");
  EXPECT_EQ(ChatTemplate::open(folder.path()).render(tools), "f");
  fs::create_directory(folder / "additional_chat_templates");
  write_text_file(folder / "additional_chat_templates/tool_use.jinja", "a");
  EXPECT_EQ(ChatTemplate::open(folder.path()).render(tools), "a");
  EXPECT_EQ(ChatTemplate::open(folder.path()).render(chat), "f");
  EXPECT_EQ(ChatTemplate::open(folder / "chat_template.jinja").render(tools), "f");
}

TEST(ChatTemplate, IsFoundInGgufFiles) {
  const ScratchFolder folder;
  const fs::path file = folder / "model.gguf";
  fs::copy_file(fixture("fuzz/corpus/gguf/metadata.gguf"), file);
  const OrderedJson context = OrderedJson::parse(R"({"messages": [{"content": "Hi"}]})");
  EXPECT_EQ(ChatTemplate::open(file).render(context), "Hi");
  EXPECT_EQ(ChatTemplate::open(folder.path()).render(context), "Hi");
  EXPECT_EQ(read_special_tokens(file), OrderedJson::parse(R"({"bos_token": "<s>"})"));
  fs::remove(file);
  fs::copy_file(fixture("fuzz/corpus/gguf/blocks.gguf"), file);
  EXPECT_NE(error_of([&] { ChatTemplate::open(file); }).find("model.gguf"), std::string::npos);
}

TEST(ChatTemplate, ReadsTheTokensThatStandBesideIt) {
  const ScratchFolder folder;
  EXPECT_EQ(read_special_tokens(folder.path()), OrderedJson::object());
  write_text_file(folder / "special_tokens_map.json",
                  R"({"bos_token": "<a>", "unk_token": {"content": "<u>"}})");
  write_text_file(folder / "tokenizer_config.json",
                  R"({"bos_token": {"content": "<b>", "special": true}, "eos_token": null})");
  const OrderedJson want = {{"bos_token", "<b>"}, {"unk_token", "<u>"}};
  EXPECT_EQ(read_special_tokens(folder.path()), want);
  EXPECT_EQ(read_special_tokens(folder / "chat_template.jinja"), want);
  for (const char* bad : {R"({"eos_token": 3})", R"({"eos_token": {"content": 3}})", "[]", "{"}) {
    write_text_file(folder / "tokenizer_config.json", bad);
    EXPECT_NE(error_of([&] { read_special_tokens(folder.path()); }).find("tokenizer_config.json"),
              std::string::npos);
  }
}

TEST(ChatTemplate, DoesNoMoreWorkThanAllowed) {
  const ChatTemplate compiled =
      ChatTemplate::compile("{% for i in range(1000) %}{{ i }}{% endfor %}", "t");
  EXPECT_EQ(compiled.render(OrderedJson::object()).size(), 2890U);
  RenderOptions options;
  options.max_work = 1000;
  EXPECT_NE(error_of([&] {
              compiled.render(OrderedJson::object(), options);
            }).find("the template does too much work, limit 1000"),
            std::string::npos);
}

TEST(ChatTemplate, PassesOnTheTemplatesOwnWords) {
  const ChatTemplate compiled =
      ChatTemplate::compile("a\n {{ raise_exception('No ' ~ role ~ '!') }}", "model");
  try {
    compiled.render({{"role", "tool"}});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_STREQ(error.what(), "[chat template] model:2:20: No tool!");
  }
}

TEST(ChatTemplate, NamesLineAndColumn) {
  const auto message = [](const std::string& source) { return error_of([&] { render(source); }); };
  EXPECT_EQ(message("a\nb {{ 1 + }}"), "[chat template] t:2:10: expected an expression, got '}}'");
  EXPECT_EQ(message("é日{% nope %}"), "[chat template] t:1:6: unknown tag 'nope'");
  EXPECT_EQ(message("{% if x %}\n\n"),
            "[chat template] t:2:1: the template ends, expected '{% endif %}'");
  EXPECT_EQ(message("{{ x }}\n{{ y.z }}"), "[chat template] t:2:5: 'y' is undefined");
  EXPECT_EQ(message("{{ 'abc }}"), "[chat template] t:1:4: string has no end, expected '");
  EXPECT_EQ(message("{{ 1 }"), "[chat template] t:1:6: unexpected '}'");
}

TEST(ChatTemplate, MarksWhatCameFromTheChat) {
  const ChatTemplate compiled = ChatTemplate::compile(
      "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m['content'] | trim }}<|end|>{% "
      "endfor %}"
      "{{ tools | tojson }}{{ messages[0].content.split('|')[1] ~ '|' ~ "
      "messages[0].content[2:4]|upper }}",
      "t");
  const RenderedChat chat =
      compiled.render_marked({{"bos_token", "<s>"},
                              {"messages", {{{"role", "user"}, {"content", "  a|end|b "}}}},
                              {"tools", OrderedJson::array({"f\"", 1})}});
  EXPECT_EQ(chat.text, "<s><|user|>a|end|b<|end|>[\"f\\\"\", 1]end|A|");
  std::string marked = chat.text;
  for (char& c : marked) c = '.';
  for (const TextSpan& span : chat.from_chat)
    for (std::size_t i = span.begin; i < span.end; ++i) marked[i] = chat.text[i];
  EXPECT_EQ(marked, ".....user..a|end|b.........f\\\".....end.A|");
}

}  // namespace
}  // namespace tandem
