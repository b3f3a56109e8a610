// tandem tokenize and detokenize.
#include <gtest/gtest.h>

#include "cli/program.h"

namespace tandem {
namespace {

using testing::demo;
using testing::expect_refusal;
using testing::Outcome;
using testing::run_for_json;
using testing::run_program;
using testing::ScratchFolder;
using testing::write_bytes;

const std::string kText = "Once upon a time, Zoë met 12 foxes.\n  <|im_end|> and ☃!";

TEST(TokenizeCommand, TakesATokenizersFileInAnyFormat) {
  const std::string folder = testing::fixture("text/fixtures/sentencepiece").string();
  for (const char* name : {"/bpe.model", "/unigram_uncut.model", "/bpe.gguf", "/byte_level.gguf"}) {
    const std::string file = folder + name;
    const Outcome ids = run_program({"tokenize", file, "--no-special", "-p", kText});
    EXPECT_EQ(ids.status, 0) << ids.err;
    EXPECT_EQ(run_program({"detokenize", file}, ids.out).out, kText) << name;
  }
}

TEST(TokenizeCommand, RoundTripsThroughDetokenize) {
  const ScratchFolder folder;
  write_bytes(folder / "text.txt", kText);
  const std::string file = (folder / "text.txt").string();
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"tokenize", demo(), "-p", kText},
        {"tokenize", demo(), "--file", file},
        {"tokenize", demo() + "/tokenizer.json", "--file", file, "--no-special"},
        {"tokenize", demo(), "--file", file, "--plain"}}) {
    const Outcome ids = run_program(words);
    EXPECT_EQ(ids.status, 0) << ids.err;
    const Outcome text = run_program({"detokenize", demo()}, ids.out);
    EXPECT_EQ(text.status, 0) << text.err;
    EXPECT_EQ(text.out, kText);
  }
  EXPECT_EQ(run_program({"tokenize", demo()}, kText).out,
            run_program({"tokenize", demo(), "-p", kText}).out);
  EXPECT_EQ(run_program({"tokenize", demo(), "-p", ""}, "standard input").out, "\n");
}

TEST(TokenizeCommand, JsonHasIdsAndTokens) {
  const ScratchFolder folder;
  const Json json = run_for_json({"tokenize", demo(), "-p", kText});
  ASSERT_EQ(json["ids"].size(), json["tokens"].size());
  const auto at = std::find(json["tokens"].begin(), json["tokens"].end(), "<|im_end|>");
  ASSERT_NE(at, json["tokens"].end());
  EXPECT_EQ(json["ids"][static_cast<std::size_t>(at - json["tokens"].begin())], 4095);
  const Json plain = run_for_json({"tokenize", demo(), "-p", kText, "--plain"});
  EXPECT_GT(plain["ids"].size(), json["ids"].size());

  write_bytes(folder / "ids.json", json.dump());
  const std::string ids = (folder / "ids.json").string();
  EXPECT_EQ(run_for_json({"detokenize", demo(), "--file", ids})["text"], kText);
  const std::string without =
      run_program({"detokenize", demo(), "--file", ids, "--no-special"}).out;
  EXPECT_EQ(without.find("<|im_end|>"), std::string::npos);
  EXPECT_EQ(run_program({"detokenize", "--ids", "4095,4095", demo()}).out, "<|im_end|><|im_end|>");
}

TEST(DetokenizeCommand, RefusesWhatIsNoId) {
  for (const char* bad : {"[1.5]", "[\"a\"]", "[-1]", "[99999999999]", "[1e300]", "{\"ids\": 7}",
                          "[1,", "1 x 2", "12345678901234567890", "-1", "9.5"})
    expect_refusal({"detokenize", demo()}, {"standard input"}, bad);
  expect_refusal({"detokenize", demo(), "--ids", "4096"}, {"4096"});
  expect_refusal({"detokenize", demo()}, {"4096"}, "1 4096");
  EXPECT_EQ(run_program({"detokenize", demo()}, "").out, "");
  expect_refusal({"tokenize", "/nowhere", "-p", "x"}, {"/nowhere"});
  expect_refusal({"tokenize", demo(), "--file", "/nowhere"}, {"/nowhere"});
}

TEST(Run, WarnsOnceOfATextThatIsCutTheDefaultWay) {
  TANDEM_REQUIRE_SHARED("reports/gguf_without_pre_no_warning");
  const std::string file =
      (testing::shared_data() / "reports/gguf_without_pre_no_warning/model.gguf").string();
  const std::string warning = "tokenizer.ggml.pre: is missing";
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"run", file, "-p", "A", "-n", "2", "--no-cache"},
        {"tokenize", file, "-p", "A"}}) {
    const testing::Outcome outcome = run_program(arguments);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_NE(outcome.out, "");
    const std::size_t at = outcome.err.find(warning);
    EXPECT_NE(at, std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find(warning, at + 1), std::string::npos) << outcome.err;
  }
}

TEST(LogitsCommand, WritesOverNoFileOfTheModel) {
  const testing::ScratchFolder folder;
  const std::string model = (folder / "model").string();
  fs::copy(demo(), model);
  for (const char* name : {"model.safetensors", "config.json"}) {
    const std::string before = read_text_file(fs::path(model) / name);
    expect_refusal({"logits", model, "--ids", "1", "-o", model + "/" + name},
                   {name, "is a file of the model"});
    EXPECT_EQ(read_text_file(fs::path(model) / name), before);
  }
  expect_refusal({"logits", model, "--ids", "1", "-o", folder.path().string()}, {"is a folder"});
}

// A byte order mark is no part of a text, and other bytes are none.
TEST(TextFiles, AreUtf8) {
  const testing::ScratchFolder folder;
  const std::string file = (folder / "t.txt").string();
  write_bytes(file, "\xEF\xBB\xBFOnce upon");
  EXPECT_EQ(run_program({"tokenize", demo(), "-f", file}).out,
            run_program({"tokenize", demo(), "-p", "Once upon"}).out);
  EXPECT_EQ(run_program({"-q", "run", demo(), "-f", file, "-n", "4"}).out,
            run_program({"-q", "run", demo(), "-p", "Once upon", "-n", "4"}).out);
  for (const std::string& bytes : {std::string("O\0n\0", 4), std::string("caf\xE9")}) {
    write_bytes(file, bytes);
    expect_refusal({"tokenize", demo(), "-f", file}, {"t.txt", "UTF-8"});
    expect_refusal({"run", demo(), "-f", file, "-n", "1"}, {"t.txt", "UTF-8"});
  }
}

}  // namespace
}  // namespace tandem
