// Which tokens of a GGUF end an answer, and what is written for llama.cpp.
#include "checkpoint/gguf/gguf_end_tokens.h"

#include <gtest/gtest.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf/gguf.h"
#include "checkpoint/gguf/gguf_export.h"
#include "support.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::ScratchFolder;
using Ids = std::vector<std::int64_t>;

// Metadata of these tokens, all of one type, with more keys.
std::optional<Ids> ends_of(const std::vector<std::string>& tokens, int type, Json more = {}) {
  Json metadata = {{"tokenizer.ggml.tokens", tokens},
                   {"tokenizer.ggml.token_type", std::vector<int>(tokens.size(), type)}};
  if (!more.is_null()) metadata.update(more);
  return gguf_end_tokens(JsonObject(metadata, "m.gguf"));
}

constexpr int kOrdinary = 1;
constexpr int kControlToken = 3;
constexpr int kUserToken = 4;

TEST(GgufEndTokens, EveryKeyThatLlamaCppReads) {
  const std::vector<std::string> tokens = {"a", "b", "c", "d", "e", "f", "g"};
  for (const char* key : {"eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep"})
    EXPECT_EQ(
        ends_of(tokens, kControlToken, {{std::string("tokenizer.ggml.") + key + "_token_id", 3}}),
        Ids{3})
        << key;
  EXPECT_EQ(ends_of(tokens, kControlToken,
                    {{"tokenizer.ggml.eom_token_id", 1},
                     {"tokenizer.ggml.eot_token_id", 5},
                     {"tokenizer.ggml.eos_token_id", 6}}),
            (Ids{6, 5, 1}));
  EXPECT_EQ(ends_of(tokens, kControlToken), std::nullopt);
}

// Files are found that call such tokens ordinary; llama.cpp overrides the type.
TEST(GgufEndTokens, SpellingsOfEndTokensOfAnyType) {
  for (const char* token : {"<|eot_id|>",
                            "<|im_end|>",
                            "<|end|>",
                            "<|return|>",
                            "<|call|>",
                            "<|calls|>",
                            "<|flush|>",
                            "<end_of_turn>",
                            "<|endoftext|>",
                            "</s>",
                            "<|eom_id|>",
                            "<EOT>",
                            "_<EOT>",
                            "[EOT]",
                            "[EOS]",
                            "<|end_of_text|>",
                            "<end_of_utterance>",
                            "<eos>",
                            "<turn|>",
                            "<|tool_response>",
                            "<|fim_pad|>",
                            "<|repo_name|>",
                            "<|file_sep|>",
                            "[e~[",
                            "<\uff5cend\u2581of\u2581sentence\uff5c>"}) {
    EXPECT_EQ(ends_of({"a", token}, kControlToken), Ids{1}) << token;
    EXPECT_EQ(ends_of({"a", token}, kUserToken), Ids{1}) << token;
    EXPECT_EQ(ends_of({"a", token}, kOrdinary), Ids{1}) << token;
  }
  EXPECT_EQ(ends_of({"<|im_start|>", "<s>", "<|im_end|> "}, kControlToken), std::nullopt);
  const Json untyped = {{"tokenizer.ggml.tokens", {"a", "<|im_end|>"}}};
  EXPECT_EQ(gguf_end_tokens(JsonObject(untyped, "m.gguf")), Ids{1});
}

TEST(GgufEndTokens, MessagesOfOneAnswerDoNotEndIt) {
  EXPECT_EQ(ends_of({"<|end|>", "<|return|>", "<|call|>"}, kControlToken), (Ids{1, 2}));
  EXPECT_EQ(ends_of({"<|end|>", "<|flush|>", "<|calls|>"}, kControlToken), (Ids{1, 2}));
  EXPECT_EQ(ends_of({"<|end|>", "<|return|>"}, kControlToken), (Ids{0, 1}));
  EXPECT_EQ(ends_of({"</s>", "<eos>", "<|tool_response>"}, kControlToken), (Ids{1, 2}));
}

TEST(GgufEndTokens, AListIsExact) {
  const std::vector<std::string> tokens = {"a", "<|im_end|>", "c"};
  EXPECT_EQ(ends_of(tokens, kControlToken,
                    {{"tokenizer.ggml.eos_token_ids", {0, 2}}, {"tokenizer.ggml.eos_token_id", 1}}),
            (Ids{0, 2}));
  EXPECT_EQ(ends_of(tokens, kControlToken, {{"tokenizer.ggml.eos_token_ids", Json::array()}}),
            Ids{});
}

TEST(GgufEndTokens, RefusesWhatIsNoId) {
  EXPECT_NE(error_of([] {
              ends_of({"a"}, kControlToken, {{"tokenizer.ggml.eos_token_ids", {"a"}}});
            }).find("tokenizer.ggml.eos_token_ids"),
            std::string::npos);
  EXPECT_NE(error_of([] {
              ends_of({"a"}, kControlToken, {{"tokenizer.ggml.eot_token_id", "a"}});
            }).find("tokenizer.ggml.eot_token_id"),
            std::string::npos);
  // A vocabulary that is none is left to its own reader.
  const Json odd = {{"tokenizer.ggml.tokens", 7}, {"tokenizer.ggml.token_type", 8}};
  EXPECT_EQ(gguf_end_tokens(JsonObject(odd, "m.gguf")), std::nullopt);
  const Json shorter = {{"tokenizer.ggml.tokens", {"<eos>", "</s>"}},
                        {"tokenizer.ggml.token_type", {3}}};
  EXPECT_EQ(gguf_end_tokens(JsonObject(shorter, "m.gguf")), (Ids{0, 1}));
  // -1 is no token, in any width.
  for (const Json& none : {Json(-1), Json(UINT64_MAX)})
    EXPECT_EQ(ends_of({"a"}, kOrdinary,
                      {{"tokenizer.ggml.eos_token_id", none}, {"tokenizer.ggml.eot_token_id", 0}}),
              (Ids{-1, 0}));
}

class Warnings : public Observer {
 public:
  void warn(std::string_view message) override { all.emplace_back(message); }
  std::vector<std::string> all;
};

class GgufEndTokensWritten : public ::testing::Test {
 protected:
  // The demo with these end tokens, as GGUF; its metadata.
  Json write(const Json& generation) {
    const fs::path folder = scratch_ / "demo";
    fs::copy(testing::demo_dir(), folder,
             fs::copy_options::recursive | fs::copy_options::overwrite_existing);
    write_text_file(folder / "generation_config.json", generation.dump());
    warnings_.all.clear();
    write_gguf(file(), Checkpoint::open(folder), GgmlType::kQ8_0, warnings_);
    return GgufFile::open(file()).metadata;
  }
  fs::path file() const { return scratch_ / "demo.gguf"; }

  ScratchFolder scratch_;
  Warnings warnings_;
};

TEST_F(GgufEndTokensWritten, AllAndForLlamaCppInItsKeys) {
  const Json two = write({{"eos_token_id", {4095, 4093}}});
  EXPECT_EQ(two["tokenizer.ggml.eos_token_ids"], Json({4095, 4093}));
  EXPECT_EQ(two["tokenizer.ggml.eos_token_id"], 4095);
  EXPECT_FALSE(two.contains("tokenizer.ggml.eot_token_id"));  // known by its spelling

  const Json three = write({{"eos_token_id", {17, 4095, 23}}});
  EXPECT_EQ(three["tokenizer.ggml.eos_token_ids"], Json({17, 4095, 23}));
  EXPECT_EQ(three["tokenizer.ggml.eos_token_id"], 4095);
  EXPECT_EQ(three["tokenizer.ggml.eot_token_id"], 17);
  EXPECT_EQ(three["tokenizer.ggml.eom_token_id"], 23);
  EXPECT_TRUE(warnings_.all.empty());
  EXPECT_EQ(Checkpoint::open(file()).config()["eos_token_id"], Json({17, 4095, 23}));

  // Chat templates read tokenizer_config.json's, which need not end an answer.
  const Json other = write({{"eos_token_id", 17}});
  EXPECT_EQ(other["tokenizer.ggml.eos_token_id"], 4095);
  EXPECT_EQ(Checkpoint::open(file()).config()["eos_token_id"], 17);
  EXPECT_EQ(write(Json::object())["tokenizer.ggml.eos_token_ids"], Json({4095}));
}

TEST_F(GgufEndTokensWritten, SaysWhatLlamaCppWillNotRead) {
  write({{"eos_token_id", {17, 18, 19}}});
  ASSERT_EQ(warnings_.all.size(), 1u);
  EXPECT_NE(warnings_.all[0].find("llama.cpp will not end an answer at token 19"),
            std::string::npos)
      << warnings_.all[0];
  EXPECT_EQ(Checkpoint::open(file()).config()["eos_token_id"], Json({17, 18, 19}));
}

}  // namespace
}  // namespace tandem
