// tandem template: Jinja2's reference renderings again, through the program; where templates are
// found; and what is rejected.
#include <gtest/gtest.h>

#include "base/files.h"
#include "cli/program.h"

namespace tandem {
namespace {

using testing::demo;
using testing::expect_refusal;
using testing::fixture;
using testing::Outcome;
using testing::run_program;
using testing::ScratchFolder;
using testing::write_bytes;

OrderedJson stored(const std::string& name) {
  return OrderedJson::parse(read_text_file(fixture("text/fixtures/" + name)));
}

// 64-bit FNV-1a, as in the script that made the fixtures.
std::string fingerprint(const std::string& text) {
  std::uint64_t value = 0xCBF29CE484222325;
  for (const char c : text) value = (value ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return fmt::format("{:016x}", value);
}

TEST(TemplateCommand, RendersTheTemplatesOfModelsAsJinja2Does) {
  TANDEM_REQUIRE_SHARED("chat_templates");
  const ScratchFolder folder;
  const OrderedJson file = stored("chat_template_models.json");
  for (const auto& [name, chat] : file.at("chats").items()) {
    write_bytes(folder / (name + ".json"), chat.dump());
    if (chat.contains("tools")) write_bytes(folder / (name + "-tools.json"), chat["tools"].dump());
  }
  write_bytes(folder / "context.json", R"({"bos_token": "<s>", "eos_token": "</s>"})");
  std::size_t count = 0;
  for (const auto& each : file.at("renderings")) {
    const std::string name = each.at("chat");
    std::vector<std::string> words = {
        "template",   (testing::shared_data() / "chat_templates" / each.at("file")).string(),
        "--messages", (folder / (name + ".json")).string(),
        "--context",  (folder / "context.json").string(),
        "--now",      "2024-03-09T14:05:07"};
    if (file["chats"][name].contains("tools")) {
      words.emplace_back("--tools");
      words.push_back((folder / (name + "-tools.json")).string());
    }
    if (!each.at("add_generation_prompt").get<bool>()) words.emplace_back("--no-generation-prompt");
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(fingerprint(outcome.out), each.at("fnv1a").get<std::string>())
        << ::testing::PrintToString(words) << '\n'
        << outcome.out;
    ++count;
  }
  EXPECT_EQ(count, 56U);
}

TEST(TemplateCommand, RendersTheDemosTemplateFromWhereverItIsNamed) {
  const OrderedJson chats = stored("chat_template_models.json").at("chats");
  for (const auto& each : stored("chat_template_demo.json")) {
    const std::string messages = chats.at(each.at("chat").get<std::string>())["messages"].dump();
    for (const std::string& file : {demo(), demo() + "/tokenizer_config.json"}) {
      std::vector<std::string> words = {"template", file, "--messages", "-"};
      if (!each.at("add_generation_prompt").get<bool>())
        words.emplace_back("--no-generation-prompt");
      const Outcome outcome = run_program(words, messages);
      EXPECT_EQ(outcome.status, 0) << outcome.err;
      EXPECT_EQ(outcome.out, each.at("text").get<std::string>());
      EXPECT_EQ(outcome.err, "");
    }
  }
}

TEST(TemplateCommand, ShowsTemplatesWhatTheyAskFor) {
  const ScratchFolder folder;
  const std::string file = (folder / "t.jinja").string();
  write_bytes(file,
              "{{ bos_token }}|{{ enable_thinking }}|{{ strftime_now('%A %j') }}|{{ tools }}|"
              "{{ documents }}|{{ messages | tojson }}");
  write_bytes(folder / "tokenizer_config.json", R"({"bos_token": {"content": "<s>"}})");
  write_bytes(folder / "context.json", R"({"enable_thinking": false})");
  const std::string messages = R"([{"z": 1, "a": "é"}])";
  const auto text = [&](std::vector<std::string> more) {
    std::vector<std::string> words = {"template", file, "--messages", "-"};
    words.insert(words.end(), more.begin(), more.end());
    const Outcome outcome = run_program(words, messages);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return outcome.out;
  };
  EXPECT_EQ(text({"--context", (folder / "context.json").string(), "--now", "2026-11-20T12:00:00"}),
            "<s>|False|Friday 324|None|None|[{\"z\": 1, \"a\": \"é\"}]");
  write_bytes(folder / "tools.json", R"({"tools": [1]})");
  write_bytes(folder / "context.json", R"({"bos_token": "B", "documents": 2})");
  EXPECT_EQ(text({"--context", (folder / "context.json").string(), "--now", "2024-02-29T00:00:00",
                  "--tools", (folder / "tools.json").string()}),
            "B||Thursday 060|[1]|2|[{\"z\": 1, \"a\": \"é\"}]");
  // A folder may have a template of its own for chats with tools.
  write_bytes(folder / "chat_template.jinja", "plain");
  fs::create_directory(folder / "additional_chat_templates");
  write_bytes(folder / "additional_chat_templates/tool_use.jinja", "with tools");
  const std::string tools = (folder / "tools.json").string();
  EXPECT_EQ(run_program({"template", folder.path().string(), "--messages", "-"}, "[]").out,
            "plain");
  EXPECT_EQ(
      run_program({"template", folder.path().string(), "--messages", "-", "--tools", tools}, "[]")
          .out,
      "with tools");
}

TEST(TemplateCommand, KeepsEveryDigitOfAMessage) {
  TANDEM_REQUIRE_SHARED("reports/template_integer_over_63_bits");
  const fs::path folder = testing::shared_data() / "reports/template_integer_over_63_bits";
  const Outcome outcome = run_program(
      {"template", (folder / "t.jinja").string(), "--messages", (folder / "m.json").string()});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "12345678901234567890 12345678901234567890");
}

// Python's json reads these, and Jinja shows them as Python does.
TEST(TemplateCommand, KnowsNumbersThatJsonDoesNotHave) {
  const ScratchFolder folder;
  write_bytes(folder / "t.jinja", "{{ messages[0].x }} {{ messages|tojson }} {{ y }}");
  write_bytes(folder / "c.json", R"({"y": -Infinity})");
  const Outcome outcome = run_program({"template", (folder / "t.jinja").string(), "--messages", "-",
                                       "--context", (folder / "c.json").string()},
                                      R"([{"x": NaN, "z": [Infinity, -Infinity, 0.0]}])");
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.out, R"(nan [{"x": NaN, "z": [Infinity, -Infinity, 0.0]}] -inf)");
}

TEST(TemplateCommand, RefusesWhatItCannotRender) {
  const ScratchFolder folder;
  const auto write = [&](const std::string& name, const std::string& text) {
    write_bytes(folder / name, text);
    return (folder / name).string();
  };
  const std::string good = write("good.jinja", "{{ messages[0].content }}");
  const auto refused = [&](const std::string& file, const std::string& messages,
                           const std::vector<std::string>& parts,
                           const std::vector<std::string>& more = {}) {
    std::vector<std::string> words = {"template", file, "--messages", "-"};
    words.insert(words.end(), more.begin(), more.end());
    expect_refusal(words, parts, messages);
  };
  refused(write("bad.jinja", "a\n{{ b c }}"), "[]", {"bad.jinja:2:6"});
  refused(write("raise.jinja", "\n {{ raise_exception('No!') }}"), "[]", {"raise.jinja:2:20: No!"});
  refused(write("undefined.jinja", "{{ x.y }}"), "[]", {"undefined.jinja:1:5", "'x' is undefined"});
  refused(good, "{}", {"expected a list", "messages"});
  refused(good, "3", {"expected a list"});
  refused(good, "[{\"role\": \"user\",}]", {"standard input", "line 1"});
  refused(good, "", {"standard input"});
  refused(good, std::string(200, '[') + std::string(200, ']'), {"nested deeper"});
  refused(good, "[]", {"tools.json", "\"tools\""}, {"--tools", write("tools.json", "{}")});
  refused(good, "[]", {"context.json", "expected an object"},
          {"--context", write("context.json", "[]")});
  refused(good, "[]", {"only one of"}, {"--tools", "-"});
  for (const char* time : {"noon", "2026-13-01T00:00:00", "2026-02-30T00:00:00",
                           "2026-11-20T12:00:00Z", "2026-11-20", "2026-11-20T25:00:00", "x"})
    refused(good, "[]", {"--now", time}, {"--now", time});
  refused((folder / "none").string(), "[]", {"none"});
  refused(folder.path().string(), "[]", {"expected chat_template.jinja"});
  refused(write("tokenizer_config.json", "{}"), "[]", {"tokenizer_config.json"});
  expect_refusal({"template", good, "--messages", (folder / "none.json").string()}, {"none.json"});
}

}  // namespace
}  // namespace tandem
