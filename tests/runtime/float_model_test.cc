// Float checkpoints against PyTorch's and transformers' results, with every table of kernels.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "checkpoint/safetensors.h"
#include "runtime/demo_package.h"
#include "runtime/evaluate.h"
#include "runtime/generator.h"

namespace tandem {
namespace {

using testing::all_logits;
using testing::demo_dir;
using testing::demo_ids;
using testing::open_demo;

std::vector<std::string> table_names() {
  std::vector<std::string> names;
  for (const Kernels* kernels : available_kernels(detect_cpu_features()))
    names.emplace_back(kernels->name);
  return names;
}

Json reference() { return read_json_file(demo_dir() / "reference.json"); }

double worst_difference(std::span<const float> got, std::span<const float> want) {
  if (got.size() != want.size()) return INFINITY;
  double worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(got[i]) - want[i]);
    if (!(difference <= worst)) worst = difference;
  }
  return worst;
}

TEST(DemoModel, GivesTheLogitsOfPyTorchWithEveryTable) {
  const auto ids = reference()["prompt_ids"].get<std::vector<TokenId>>();
  const auto tensors = SafetensorsFile::open(demo_dir() / "reference_logits.safetensors").tensors;

  const std::vector<float> want = tensors.at("logits").to_floats();
  for (const std::string& name : table_names()) {
    const auto model = open_demo(Mode::kFloat, {.kernels = name});
    EXPECT_EQ(model->engine.kernels().name, name);
    EXPECT_LT(worst_difference(all_logits(*model, ids), want), 1e-3) << name;
  }
}

TEST(DemoModel, ContinuesAsPyTorchDoes) {
  const Json expected = reference();
  const auto model = open_demo(Mode::kFloat);
  const auto want = expected["greedy_ids"].get<std::vector<TokenId>>();
  Generator generator(model->engine, {});
  generator.append(expected["prompt_ids"].get<std::vector<TokenId>>());
  std::vector<TokenId> got;
  while (!generator.done() && got.size() < want.size()) got.push_back(generator.next());
  EXPECT_EQ(got, want);
  EXPECT_EQ(model->text.tokenizer().decode(got, true), expected["greedy_text"].get<std::string>());
  EXPECT_EQ(model->text.tokenizer().encode(expected["prompt"].get<std::string>()),
            expected["prompt_ids"].get<std::vector<TokenId>>());
}

TEST(DemoModel, AnswersAsPyTorchDoes) {
  const Json expected = reference();
  const auto model = open_demo(Mode::kFloat);
  for (const char* name : {"seed", "chat"}) {
    Generator generator(model->engine, {});
    generator.append(
        model->text.encode_chat(expected[std::string(name) + "_prompt"].get<std::string>()));
    const std::size_t prompt = generator.sequence().size();
    while (!generator.done()) generator.next();
    const std::string answer =
        model->text.tokenizer().decode(generator.sequence().subspan(prompt), true);
    const std::string want = expected[std::string(name) + "_answer"].get<std::string>();
    EXPECT_EQ(answer, want.substr(0, want.find("<|im_end|>"))) << name;
  }
}

TEST(DemoModel, HasThePerplexityOfPyTorch) {
  const Json expected = reference()["ppl_stories"];
  const auto model = open_demo(Mode::kFloat);
  const TextScore score = score_text(*model, nullptr, demo_ids(*model, "eval_stories.txt"), 512);
  EXPECT_EQ(score.windows, 92);
  EXPECT_EQ(score.tokens, expected[1].get<std::int64_t>());
  EXPECT_NEAR(score.perplexity / expected[0].get<double>(), 1, 1e-3);
  EXPECT_EQ(score.kl, 0);
}

TEST(DemoModel, HasThePerplexityOfPyTorchOnRealStories) {
  TANDEM_REQUIRE_SHARED("../demo/checkpoint/eval_tinystories.txt");
  const Json expected = reference()["ppl_tinystories"];
  const auto model = open_demo(Mode::kFloat);
  const auto ids = model->text.tokenizer().encode(
      read_text_file(testing::shared_data() / "../demo/checkpoint/eval_tinystories.txt"));
  const TextScore score = score_text(*model, nullptr, ids, 512);
  EXPECT_EQ(score.tokens, expected[1].get<std::int64_t>());
  EXPECT_NEAR(score.perplexity / expected[0].get<double>(), 1, 1e-3);
}

TEST(DemoModel, AnswersAsManyQuestionsAsPyTorch) {
  const auto model = open_demo(Mode::kFloat);
  const auto questions = read_questions(demo_dir() / "eval_questions.json");
  ASSERT_EQ(questions.size(), 200U);
  const QuestionScore score = ask_questions(*model, questions);
  EXPECT_EQ(score.total, 200);
  EXPECT_NEAR(static_cast<double>(score.right) / 200, reference()["questions_right"].get<double>(),
              0.01);
}

// Tokens before the stored continuation.
constexpr std::size_t kPrompt = 20;

class TinyModel : public ::testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<LocalModel> open(EngineOptions options = {}) const {
    return testing::open_alone(folder(), {.engine = std::move(options)});
  }
  fs::path folder() const { return testing::fixture("models/fixtures") / GetParam(); }
};

TEST_P(TinyModel, GivesTheLogitsOfTransformersWithEveryTable) {
  const auto expected = SafetensorsFile::open(folder() / "reference.safetensors").tensors;
  for (const std::string& name : table_names()) {
    const auto model = open({.kernels = name});
    const auto logits = all_logits(*model, expected.at("ids").as<TokenId>());
    EXPECT_LT(worst_difference(logits, expected.at("logits").as<float>()), 1e-4) << name;
    if (!expected.contains("logits_short")) continue;
    const Tensor& shorter = expected.at("logits_short");
    const auto prompt =
        expected.at("ids").as<TokenId>().first(static_cast<std::size_t>(shorter.dim(0)));
    EXPECT_LT(worst_difference(all_logits(*model, prompt), shorter.as<float>()), 1e-4) << name;
  }
}

// The continuation that transformers computes without a cache: within and beyond windows and
// original contexts.
TEST_P(TinyModel, ContinuesAsTransformersDoesWithoutACache) {
  const auto expected = SafetensorsFile::open(folder() / "reference.safetensors").tensors;
  const auto prompt = expected.at("ids").as<TokenId>().first(kPrompt);
  const auto want = expected.at("greedy").as<TokenId>();
  const auto model = open();
  Generator generator(model->engine, {.eos = {-1}});
  generator.append(prompt);
  for (std::size_t i = 0; i < want.size(); ++i) ASSERT_EQ(generator.next(), want[i]) << i;

  // The same after going back, which may be to where frequencies were others.
  generator.rewind(static_cast<std::int64_t>(kPrompt) + 5);
  for (std::size_t i = 5; i < want.size(); ++i) ASSERT_EQ(generator.next(), want[i]) << i;
}

TEST_P(TinyModel, DecodesTheBitsThatItReadsWithoutACache) {
  const auto expected = SafetensorsFile::open(folder() / "reference.safetensors").tensors;
  const auto ids = expected.at("ids").as<TokenId>();
  const auto model = open();
  KvSequence sequence = model->engine.new_sequence();
  model->engine.prefill(sequence, ids.first(kPrompt));
  for (std::size_t i = kPrompt; i < ids.size(); ++i) {
    const auto logits = model->engine.decode(sequence, ids[i]);
    const std::vector<float> with_cache(logits.begin(), logits.end());
    if (i % 9 != 0 && i + 1 != ids.size()) continue;
    KvSequence fresh = model->engine.new_sequence();
    const auto without = model->engine.prefill(fresh, ids.first(i + 1));
    ASSERT_EQ(std::memcmp(with_cache.data(), without.data(), without.size_bytes()), 0) << i;
  }
}

TEST_P(TinyModel, ReadsTokenByTokenWhatItReadsAtOnce) {
  const auto expected = SafetensorsFile::open(folder() / "reference.safetensors").tensors;
  const std::span<const TokenId> ids = expected.at("ids").as<TokenId>();
  for (const std::string& name : table_names()) {
    const auto model = open({.kernels = name});
    const std::vector<float> whole = all_logits(*model, ids);
    for (const std::int64_t chunk : {1, 3, 8})
      EXPECT_EQ(all_logits(*open({.chunk = chunk, .kernels = name}), ids), whole)
          << name << " chunk " << chunk;
    // Of a sequence whose length changes the frequencies, the first tokens alone give others.
    if (expected.contains("logits_short")) continue;
    const auto vocabulary = static_cast<std::size_t>(model->info().vocabulary);
    KvSequence sequence = model->engine.new_sequence();
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const auto one = model->engine.decode(sequence, ids[i]);
      ASSERT_EQ(std::memcmp(one.data(), whole.data() + i * vocabulary, one.size_bytes()), 0)
          << name << " token " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, TinyModel,
                         ::testing::Values("llama_rope", "llama_biased", "llama_head_dim",
                                           "llama_yarn", "llama_dynamic", "qwen2_window", "qwen3",
                                           "mistral_window", "phi3_longrope", "chatglm", "smollm3",
                                           "gemma2"));

}  // namespace
}  // namespace tandem
