// The public C++ API.
#include <gtest/gtest.h>

#include <limits>

#include "runtime/demo_package.h"
#include <tandem/tandem.hpp>

namespace tandem {
namespace {

Model open_demo_model() { return Model(testing::demo_dir().string(), {.threads = 1}); }

ErrorCode code_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "expected a tandem::Error";
  return ErrorCode::kInternal;
}

TEST(Api, AnswersMessagesAsTheTemplateSpellsThem) {
  Model model = open_demo_model();
  const std::vector<Message> messages = {{"user", "What is 10 plus 1?"}};
  std::string streamed;
  const GenerateResult first = model.chat(messages, {}, [&](std::string_view text) {
    streamed += text;
    return true;
  });
  EXPECT_EQ(first.text, "10 plus 1 is 11.");
  EXPECT_EQ(streamed, first.text);
  EXPECT_TRUE(first.complete);
  EXPECT_EQ(model.generate(messages[0].content, {.chat = true}).text, first.text);

  const GenerateResult second =
      model.chat({messages[0], {"assistant", first.text}, {"user", "Spell the word cat."}});
  EXPECT_GT(second.prompt_tokens, first.prompt_tokens + first.tokens);
  EXPECT_TRUE(second.complete);
  const GenerateResult told = model.chat({{"system", "Be brief."}, messages[0]});
  EXPECT_NE(told.prompt_tokens, first.prompt_tokens);
  EXPECT_EQ(model.generate(messages[0].content, {.chat = true, .system = "Be brief."}).text,
            told.text);
}

TEST(Api, GoesOnWithoutAnEndAndWithDrafts) {
  Model model = open_demo_model();
  GenerateOptions options{.max_tokens = 700, .logit_bias = {{4095, -100}, {4093, -100}}};
  const GenerateResult full = model.generate("Once upon a time", options);
  EXPECT_EQ(full.prompt_tokens + full.tokens, 512);
  options.endless = true;
  const GenerateResult endless = model.generate("Once upon a time", options);
  EXPECT_EQ(endless.tokens, 700);
  EXPECT_TRUE(endless.text.starts_with(full.text));
  options.lookup = 8;
  EXPECT_EQ(model.generate("Once upon a time", options).text, endless.text);
}

TEST(Api, EndsWhereTheCallbackSaysSo) {
  Model model = open_demo_model();
  int calls = 0;
  const GenerateResult result = model.chat({{"user", "What is 10 plus 1?"}}, {},
                                           [&](std::string_view) { return ++calls < 2; });
  EXPECT_EQ(calls, 2);
  EXPECT_FALSE(result.complete);
}

TEST(Api, ReportsLogProbabilitiesAndTakesBiases) {
  Model model = open_demo_model();
  GenerateOptions options;
  options.max_tokens = 8;
  options.logprobs = 2;
  const GenerateResult result = model.generate("Once upon a time", options);
  ASSERT_EQ(result.logprobs.size(), 8U);
  std::string text;
  for (const ChosenToken& token : result.logprobs) {
    text += token.text;
    ASSERT_EQ(token.likeliest.size(), 2U);
    EXPECT_EQ(token.likeliest[0].id, token.id);
  }
  EXPECT_EQ(text, result.text);
  // The second likeliest comes first if the likeliest is ruled out.
  options.logit_bias[result.logprobs[0].id] = -std::numeric_limits<float>::infinity();
  const GenerateResult other = model.generate("Once upon a time", options);
  EXPECT_EQ(other.logprobs[0].id, result.logprobs[0].likeliest[1].id);
  options.logit_bias = {{-1, 1.0F}};
  EXPECT_EQ(code_of([&] { model.generate("a", options); }), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code_of([&] { model.generate("a", {.presence_penalty = 3}); }),
            ErrorCode::kInvalidArgument);
}

TEST(Api, ErrorsHaveACode) {
  EXPECT_EQ(code_of([] { Model("no/such/folder"); }), ErrorCode::kNotFound);
  EXPECT_STREQ(to_string(ErrorCode::kNotFound), "not_found");
  EXPECT_EQ(code_of([] { Model(testing::demo_dir().string(), {.mode = "hybrid"}); }),
            ErrorCode::kInvalidArgument);
  const testing::ScratchFolder folder;
  write_text_file(folder / "config.json", "{");
  write_text_file(folder / "model.safetensors", "x");
  EXPECT_EQ(code_of([&] { Model(folder.path().string()); }), ErrorCode::kFormat);
  Model model = open_demo_model();
  EXPECT_EQ(code_of([&] { model.generate(std::string(100000, 'a')); }),
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(code_of([&] { model.generate("a", {.temperature = 1, .repetition_penalty = -1}); }),
            ErrorCode::kInvalidArgument);
  // Still of use after an error.
  EXPECT_EQ(model.chat({{"user", "What is 10 plus 1?"}}).text, "10 plus 1 is 11.");
}

}  // namespace
}  // namespace tandem
