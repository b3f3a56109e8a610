// GGUF files shared with llama.cpp: it reads what we write, and we run what it quantizes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string>

#include "base/json.h"
#include "checkpoint/gguf/gguf_export.h"
#include "piped_output.h"
#include "runtime/generator.h"
#include "runtime/local_model.h"
#include "support.h"

namespace tandem {
namespace {

using testing::demo_dir;

constexpr const char* kSentence =
    "Lily saw 12 birds, and they'd sung   \"naïve\" songs!\n\nThe end.";

// What both are asked: a text, and a prompt to continue.
Json questions(const Tokenizer& tokenizer) {
  const std::string stories = read_text_file(demo_dir() / "eval_stories.txt").substr(0, 2000);
  std::vector<TokenId> text = tokenizer.encode(stories);
  text.resize(std::min<std::size_t>(text.size(), 256));
  return {
      {"text", text}, {"prompt", tokenizer.encode("Once upon a time")}, {"sentence", kSentence}};
}

std::unique_ptr<LocalModel> open_model(const fs::path& path) {
  return LocalModel::open(path, {.engine = {.threads = 1}, .cache = fs::path()});
}

std::vector<TokenId> greedy(LocalModel& model, const std::vector<TokenId>& prompt) {
  Generator generator(model.engine, {});
  generator.append(prompt);
  std::vector<TokenId> ids;
  while (!generator.done() && ids.size() < 32) ids.push_back(generator.next());
  return ids;
}

std::vector<TokenId> top_tokens(LocalModel& model, const std::vector<TokenId>& ids) {
  std::vector<TokenId> top;
  KvSequence sequence = model.engine.new_sequence();
  const auto width = static_cast<std::ptrdiff_t>(model.info().vocabulary);
  model.engine.prefill_all(sequence, ids, [&](std::int64_t, std::span<const float> rows) {
    for (auto row = rows.begin(); row != rows.end(); row += width)
      top.push_back(static_cast<TokenId>(std::max_element(row, row + width) - row));
  });
  return top;
}

double agreement(const std::vector<TokenId>& a, const std::vector<TokenId>& b) {
  EXPECT_EQ(a.size(), b.size());
  std::size_t same = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) same += a[i] == b[i] ? 1 : 0;
  return static_cast<double>(same) / static_cast<double>(std::max<std::size_t>(a.size(), 1));
}

class LlamaCpp : public ::testing::Test {
 protected:
  fs::path write(GgmlType type) {
    const fs::path path = scratch_ / fmt::format("demo-{}.gguf", to_string(type));
    write_gguf(path, Checkpoint::open(demo_dir()), type);
    return path;
  }

  // The peer's answers, or nothing where it is not installed.
  std::optional<Json> ask(const fs::path& file, const std::string& more = {}) {
    const char* chosen = std::getenv("TANDEM_TEST_PYTHON");
    const std::string python = chosen != nullptr ? chosen : "python3";
    const fs::path ids = scratch_ / "ids.json";
    write_text_file(ids, questions_.dump());
    const fs::path script = testing::fixture("runtime/llama_cpp_peer.py");
    const std::string command = fmt::format("{} '{}' '{}' '{}' {} 2>/dev/null", python,
                                            script.string(), file.string(), ids.string(), more);
    const testing::PipedOutput output = testing::piped_output(command);
    if (output.status != 0) return std::nullopt;
    return parse_json(output.text, command);
  }

  static Json stored() {
    return read_json_file(testing::fixture("runtime/fixtures/llama_cpp.json"));
  }

  testing::ScratchFolder scratch_;
  const Tokenizer tokenizer_ = Tokenizer::open(demo_dir());
  const Json questions_ = questions(tokenizer_);
  const std::vector<TokenId> text_ = questions_["text"];
  const std::vector<TokenId> prompt_ = questions_["prompt"];
};

TEST_F(LlamaCpp, StoredAnswersAreOurs) {
  for (const auto& [type, want] : {std::pair{GgmlType::kF16, "F16"},
                                   {GgmlType::kQ8_0, "Q8_0"},
                                   {GgmlType::kQ4_0, "Q4_0"},
                                   {GgmlType::kQ4_1, "Q4_1"},
                                   {GgmlType::kQ6_K, "Q6_K"},
                                   {GgmlType::kQ4_K, "Q4_K"}}) {
    const Json answers = stored().at(want);
    const auto model = open_model(write(type));
    EXPECT_GE(agreement(top_tokens(*model, text_), answers["top"]), 0.95) << want;
    if (type == GgmlType::kF16) {
      EXPECT_EQ(greedy(*model, prompt_), answers["greedy"]["ids"].get<std::vector<TokenId>>());
    }
    EXPECT_EQ(tokenizer_.encode(kSentence), answers["split"].get<std::vector<TokenId>>());
  }
}

TEST_F(LlamaCpp, ReadsWhatWeWrite) {
  const fs::path file = write(GgmlType::kF16);
  const auto answers = ask(file);
  if (!answers) GTEST_SKIP() << "needs llama-cpp-python in $TANDEM_TEST_PYTHON or python3";
  const auto demo = open_model(demo_dir());
  const auto greedy_ids = greedy(*demo, prompt_);
  EXPECT_EQ(greedy_ids, (*answers)["greedy"]["ids"].get<std::vector<TokenId>>());
  EXPECT_EQ(tokenizer_.decode(greedy_ids), (*answers)["greedy"]["text"].get<std::string>());
  EXPECT_EQ(tokenizer_.encode(kSentence), (*answers)["split"].get<std::vector<TokenId>>());
  const Json config = read_json_file(demo_dir() / "tokenizer_config.json");
  EXPECT_EQ((*answers)["chat"], config["chat_template"]);
}

TEST_F(LlamaCpp, QuantizedByItRunsHere) {
  const fs::path file = write(GgmlType::kF16);
  for (const char* type :
       {"q4_k_m", "q5_k_m", "q6_k", "q3_k_m", "q2_k", "q8_0", "q5_0", "q5_1", "q4_0", "q4_1"}) {
    const fs::path quantized = scratch_ / fmt::format("{}.gguf", type);
    const auto answers = ask(file, fmt::format("--quantize {} '{}'", type, quantized.string()));
    if (!answers) GTEST_SKIP() << "needs llama-cpp-python in $TANDEM_TEST_PYTHON or python3";
    const auto model = open_model(quantized);
    const double share = agreement(top_tokens(*model, text_), (*answers)["top"]);
    EXPECT_GE(share, 0.95) << type;
    RecordProperty(type, fmt::format("{:.3f}", share));
    std::printf("%-8s same top token on %.1f %% of %zu positions\n", type, share * 100,
                text_.size());
  }
}

}  // namespace
}  // namespace tandem
