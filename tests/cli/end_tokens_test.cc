// An answer ends where the checkpoint's does, whatever the checkpoint was converted to.
#include <gtest/gtest.h>

#include <algorithm>

#include "cli/program.h"
#include "runtime/complete.h"

namespace tandem {
namespace {

using testing::demo;
using testing::run_program;

constexpr std::size_t kPrompts = 50;
constexpr std::int64_t kMost = 24;

class EndTokens : public ::testing::Test {
 protected:
  // The demo, told to end at the first full stop or question mark too: plain tokens, which no
  // reader can know by their names.
  EndTokens() {
    fs::copy(demo(), folder_ / "model");
    const Tokenizer tokenizer = Tokenizer::open(demo());
    ends_ = {4095, tokenizer.token_to_id(".").value(), 4093, tokenizer.token_to_id("?").value()};
    write_text_file(folder_ / "model/generation_config.json", Json{{"eos_token_id", ends_}}.dump());
  }

  std::string at(const char* name) const { return (folder_ / name).string(); }

  static void expect_success(const std::vector<std::string>& arguments) {
    const testing::Outcome outcome = run_program(arguments);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
  }

  void convert(const char* from, const char* to, std::vector<std::string> more = {}) const {
    std::vector<std::string> all = {"convert", "--input_model", at(from), "--output_model", at(to)};
    all.insert(all.end(), more.begin(), more.end());
    expect_success(all);
  }

  void quantize(const char* from, const char* to) const {
    expect_success({"quantize", at(from), "-o", at(to), "--calib", demo() + "/calibration.txt",
                    "--samples", "2", "--seq-len", "64"});
  }

  // The answers of a model; `ends` are those that it should know.
  std::vector<std::vector<TokenId>> answers(const char* name, SearchOptions search = {}) const {
    const auto model = LocalModel::open(at(name), {.engine = {.threads = 2}, .cache = fs::path()});
    EXPECT_EQ(model->info().eos, ends_) << name;
    const Json questions = read_json_file(fs::path(demo()) / "eval_questions.json");
    std::vector<std::vector<TokenId>> all;
    for (std::size_t i = 0; i < kPrompts; ++i) {
      const auto ids = model->text.encode_chat(questions[i]["question"].get<std::string>());
      all.push_back(complete(*model, ids, search, kMost).ids);
    }
    return all;
  }

  const testing::ScratchFolder folder_;
  std::vector<std::int64_t> ends_;
};

TEST_F(EndTokens, OfConversionsThatKeepEveryValue) {
  convert("model", "a.gguf", {"--outtype", "f32"});
  convert("model", "b", {"--dtype", "f32"});
  const std::string config = at("model/config.json");
  for (const char* version : {"1", "2"}) {
    const std::string name = std::string("v") + version;
    fs::create_directory(at(name.c_str()));
    convert("model", (name + "/m.mllm").c_str(), {"--mllm_version", version, "--dtype", "f32"});
    for (const char* file :
         {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"})
      fs::copy_file(at("model") + "/" + file, at(name.c_str()) + "/" + file);
  }
  // From a file without a configuration, which is given from elsewhere.
  fs::create_directory(at("alone"));
  fs::copy_file(at("v2/m.mllm"), at("alone/m.mllm"));
  convert("alone/m.mllm", "c", {"--config", config, "--dtype", "f32"});
  for (const char* file : {"tokenizer.json", "tokenizer_config.json"})
    fs::copy_file(at("model") + "/" + file, at("c") + "/" + file);

  const auto expected = answers("model");
  EXPECT_LT(std::ranges::count_if(expected,
                                  [](const auto& ids) { return ids.size() == std::size_t{kMost}; }),
            5);
  for (const char* name : {"a.gguf", "b", "v1", "v2", "c"})
    EXPECT_EQ(answers(name), expected) << name;
}

// Rounded weights choose other words, so the reference is the same model cut at the end tokens.
TEST_F(EndTokens, OfPackages) {
  convert("model", "a.gguf", {"--outtype", "f16"});
  quantize("model", "p");
  quantize("a.gguf", "q");
  for (const char* name : {"p", "q"}) {
    auto expected = answers(name, {.eos = {-1}});
    for (std::vector<TokenId>& ids : expected)
      ids.erase(std::ranges::find_first_of(ids, ends_), ids.end());
    EXPECT_EQ(answers(name), expected) << name;
  }
}

}  // namespace
}  // namespace tandem
