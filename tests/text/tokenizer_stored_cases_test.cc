// Byte-level BPE of GPT-2 and BPE with byte fallback of Phi-3, against the ids that llama.cpp
// stores for its own tests.
#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "support.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem {
namespace {

constexpr std::string_view kSeparator = "\n__ggml_vocab_test__\n";

std::vector<std::string> read_cases(const fs::path& path) {
  std::string text = read_text_file(path);
  std::vector<std::string> cases;
  std::size_t at = 0;
  for (std::size_t end = text.find(kSeparator); end != std::string::npos;
       end = text.find(kSeparator, at)) {
    cases.push_back(text.substr(at, end - at));
    at = end + kSeparator.size();
  }
  if (at < text.size()) cases.push_back(text.substr(at));
  return cases;
}

std::vector<std::vector<TokenId>> read_ids(const fs::path& path) {
  std::istringstream lines(read_text_file(path));
  std::vector<std::vector<TokenId>> ids;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream numbers(line);
    ids.emplace_back();
    for (TokenId id; numbers >> id;) ids.back().push_back(id);
  }
  return ids;
}

void expect_stored_cases(const Tokenizer& tokenizer, const fs::path& folder) {
  const auto texts = read_cases(folder / "cases.inp");
  const auto expected = read_ids(folder / "cases.out");
  ASSERT_EQ(texts.size(), expected.size());
  ASSERT_GT(texts.size(), 40u);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto ids = tokenizer.encode(texts[i], {.add_special_tokens = false});
    EXPECT_EQ(ids, expected[i]) << "case " << i << ": " << texts[i];
    EXPECT_EQ(tokenizer.decode(ids), texts[i]);
  }
}

// The stored tokenizer.json is that of a model which added runs of white space to GPT-2's tokens;
// the stored ids are GPT-2's own.
fs::path write_plain_gpt2(const fs::path& from, const fs::path& to) {
  Json json = read_json_file(from);
  Json kept = Json::array();
  for (const Json& token : json.at("added_tokens"))
    if (token.at("special")) kept.push_back(token);
  json["added_tokens"] = kept;
  write_text_file(to, json.dump());
  return to;
}

TEST(TokenizerGpt2, EveryStoredCaseHasTheStoredIds) {
  TANDEM_REQUIRE_SHARED("tokenizers/gpt-2/tokenizer.json");
  const testing::ScratchFolder scratch;
  const fs::path folder = testing::shared_data() / "tokenizers/gpt-2";
  const Tokenizer tokenizer =
      Tokenizer::open(write_plain_gpt2(folder / "tokenizer.json", scratch / "tokenizer.json"));
  expect_stored_cases(tokenizer, folder);
}

TEST(TokenizerGpt2, AddedTokensOfWhiteSpaceComeFirst) {
  TANDEM_REQUIRE_SHARED("tokenizers/gpt-2/tokenizer.json");
  const Tokenizer tokenizer = Tokenizer::open(testing::shared_data() / "tokenizers/gpt-2");
  EXPECT_EQ(tokenizer.encode("   Hello"), (std::vector<TokenId>{50285, 15496}));
  EXPECT_EQ(tokenizer.decode(std::vector<TokenId>{50285, 15496}), "   Hello");
}

TEST(TokenizerGpt2, TellsItsTokens) {
  TANDEM_REQUIRE_SHARED("tokenizers/gpt-2/tokenizer.json");
  const Tokenizer tokenizer =
      Tokenizer::open(testing::shared_data() / "tokenizers/gpt-2/tokenizer.json");
  EXPECT_EQ(tokenizer.vocabulary_size(), 50295);
  EXPECT_EQ(tokenizer.token_to_id("<|endoftext|>"), 50256);
  EXPECT_EQ(tokenizer.id_to_token(50256), "<|endoftext|>");
  EXPECT_TRUE(tokenizer.is_special(50256));
  EXPECT_FALSE(tokenizer.is_special(50286));
  EXPECT_FALSE(tokenizer.is_special(-1));
  EXPECT_EQ(tokenizer.id_to_token(995), "\xC4\xA0world");
  EXPECT_EQ(tokenizer.token_to_id("no such token"), std::nullopt);
}

TEST(TokenizerPhi3, EveryStoredCaseHasTheStoredIds) {
  TANDEM_REQUIRE_SHARED("tokenizers/phi-3/tokenizer.json");
  const fs::path folder = testing::shared_data() / "tokenizers/phi-3";
  const Tokenizer tokenizer = Tokenizer::open(folder);
  expect_stored_cases(tokenizer, folder);
  EXPECT_EQ(tokenizer.encode("Hello"), (std::vector<TokenId>{1, 15043}));  // behind <s>
}

TEST(TokenizerPhi3, TheVocabularyOfAGgufDoesToo) {
  TANDEM_REQUIRE_SHARED("tokenizers/phi-3/vocab.gguf");
  const fs::path folder = testing::shared_data() / "tokenizers/phi-3";
  const Tokenizer tokenizer = Tokenizer::open(folder / "vocab.gguf");
  expect_stored_cases(tokenizer, folder);
  EXPECT_EQ(tokenizer.encode("Hello"), (std::vector<TokenId>{1, 15043}));
  EXPECT_EQ(tokenizer.token_to_id("<|end|>"), 32007);
  EXPECT_TRUE(tokenizer.is_special(32007));
}

TEST(TokenizerQwen, MllmsVocabularyHasTheStoredIds) {
  TANDEM_REQUIRE_SHARED("tokenizers/qwen-mllm/qwen_vocab.mllm");
  const fs::path folder = testing::shared_data() / "tokenizers/qwen-mllm";
  const Tokenizer tokenizer = Tokenizer::open(folder);
  expect_stored_cases(tokenizer, folder);
  EXPECT_EQ(tokenizer.vocabulary_size(), 151646);
  EXPECT_EQ(tokenizer.encode("<|im_start|>hi<|im_end|>"),
            (std::vector<TokenId>{151644, 6023, 151645}));
  EXPECT_EQ(Tokenizer::open(folder / "qwen_vocab.mllm").encode("a b"), tokenizer.encode("a b"));
}

TEST(TokenizerLlama3, TiktokensFileHasTheStoredIds) {
  TANDEM_REQUIRE_SHARED("tokenizers/llama-3/tokenizer.model");
  const fs::path folder = testing::shared_data() / "tokenizers/llama-3";
  const Tokenizer tokenizer = Tokenizer::open(folder);
  expect_stored_cases(tokenizer, folder);
  EXPECT_EQ(tokenizer.vocabulary_size(), 128256);
  // As published: https://github.com/meta-llama/llama3, tokenizer.py.
  EXPECT_EQ(tokenizer.token_to_id("<|begin_of_text|>"), 128000);
  EXPECT_EQ(tokenizer.token_to_id("<|end_of_text|>"), 128001);
  EXPECT_EQ(tokenizer.token_to_id("<|reserved_special_token_3|>"), 128005);
  EXPECT_EQ(tokenizer.token_to_id("<|start_header_id|>"), 128006);
  EXPECT_EQ(tokenizer.token_to_id("<|end_header_id|>"), 128007);
  EXPECT_EQ(tokenizer.token_to_id("<|reserved_special_token_4|>"), 128008);
  EXPECT_EQ(tokenizer.token_to_id("<|eot_id|>"), 128009);
  EXPECT_EQ(tokenizer.token_to_id("<|reserved_special_token_250|>"), 128255);
  EXPECT_EQ(tokenizer.encode("hi<|eot_id|>"), (std::vector<TokenId>{128000, 6151, 128009}));
}

// The settings beside a file say more than its size does.
TEST(TokenizerLlama3, SpecialTokensOfTheSettingsComeFirst) {
  TANDEM_REQUIRE_SHARED("tokenizers/llama-3/tokenizer.model");
  const testing::ScratchFolder scratch;
  fs::copy_file(testing::shared_data() / "tokenizers/llama-3/tokenizer.model",
                scratch / "tokenizer.model");
  write_text_file(scratch / "tokenizer_config.json",
                  R"({"add_bos_token": false, "added_tokens_decoder": {
    "128000": {"content": "<|begin_of_text|>", "special": true},
    "128008": {"content": "<|eom_id|>", "special": true}}})");
  const Tokenizer tokenizer = Tokenizer::open(scratch.path());
  EXPECT_EQ(tokenizer.vocabulary_size(), 128009);
  EXPECT_EQ(tokenizer.encode("hi<|eom_id|>"), (std::vector<TokenId>{6151, 128008}));
}

}  // namespace
}  // namespace tandem
