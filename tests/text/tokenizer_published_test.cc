// Published tokenizers, in the files they are published in, against the Hugging Face library: whole
// texts and 2,000 random strings.
#include <gtest/gtest.h>

#include "text/tokenizer_fixture.h"

namespace tandem {
namespace {

using testing::hash32_of;
using testing::hash_of;

constexpr EncodeOptions kPlain{.add_special_tokens = false};
constexpr std::size_t kHashDigits = 8;

Json entry_of(const Json& fixture, const std::string& name) {
  for (const Json& entry : fixture.at("tokenizers"))
    if (entry.at("name").get<std::string>() == name) return entry;
  return {};
}

void expect_strings(const Tokenizer& tokenizer, const std::string& name) {
  const Json fixture = testing::text_fixture("tokenizer_strings.json");
  const Json& strings = fixture.at("strings");
  const Json entry = entry_of(fixture, name);
  const auto hashes = entry.at("hashes").get<std::string>();
  ASSERT_EQ(strings.size(), 2000u);
  ASSERT_EQ(hashes.size(), strings.size() * kHashDigits);
  std::size_t lossless = 0;
  for (std::size_t i = 0; i < strings.size(); ++i) {
    const auto text = strings[i].get<std::string>();
    const auto ids = tokenizer.encode(text, kPlain);
    EXPECT_EQ(hash32_of(ids), hashes.substr(i * kHashDigits, kHashDigits)) << strings[i].dump();
    if (tokenizer.decode(ids) == text) ++lossless;
  }
  // Where the reference gives the text back, so does this; the demo's composes characters (NFC).
  EXPECT_EQ(lossless, entry.at("lossless").get<std::size_t>());
  EXPECT_TRUE(name == "demo" || lossless == strings.size());
}

void expect_texts(const Tokenizer& tokenizer, const std::string& name) {
  const Json entry = entry_of(testing::text_fixture("tokenizer_strings.json"), name);
  ASSERT_EQ(entry.at("texts").size(), 3u);
  for (const Json& expected : entry.at("texts")) {
    const auto file = expected.at("file").get<std::string>();
    SCOPED_TRACE(file);
    const std::string text = read_text_file(testing::shared_data() / "text" / file);
    const auto ids = tokenizer.encode(text, kPlain);
    EXPECT_EQ(ids.size(), expected.at("ids").get<std::size_t>());
    EXPECT_EQ(hash_of(ids), expected.at("hash").get<std::string>());
    // Phi-3 puts a space behind the control token <unk>, which Wikitext is full of.
    EXPECT_TRUE(name == "phi-3" || tokenizer.decode(ids) == text);
  }
}

TEST(TokenizerPublished, TheDemo) {
  const Tokenizer tokenizer = Tokenizer::open(testing::demo_dir());
  expect_strings(tokenizer, "demo");
  TANDEM_REQUIRE_SHARED("text/wikitext-2-test.txt");
  expect_texts(tokenizer, "demo");
}

TEST(TokenizerPublished, Gpt2) {
  TANDEM_REQUIRE_SHARED("tokenizers/gpt-2/tokenizer.json");
  const Tokenizer tokenizer = Tokenizer::open(testing::shared_data() / "tokenizers/gpt-2");
  expect_strings(tokenizer, "gpt-2");
  expect_texts(tokenizer, "gpt-2");
}

TEST(TokenizerPublished, Phi3FromBothOfItsFiles) {
  TANDEM_REQUIRE_SHARED("tokenizers/phi-3/tokenizer.json");
  for (const char* file : {"tokenizers/phi-3/tokenizer.json", "tokenizers/phi-3/vocab.gguf"}) {
    SCOPED_TRACE(file);
    const Tokenizer tokenizer = Tokenizer::open(testing::shared_data() / file);
    expect_strings(tokenizer, "phi-3");
    expect_texts(tokenizer, "phi-3");
  }
}

TEST(TokenizerPublished, Llama3) {
  TANDEM_REQUIRE_SHARED("tokenizers/llama-3/tokenizer.model");
  const Tokenizer tokenizer = Tokenizer::open(testing::shared_data() / "tokenizers/llama-3");
  expect_strings(tokenizer, "llama-3");
  expect_texts(tokenizer, "llama-3");
}

// The same vocabulary as GPT-2 publishes it: two files.
TEST(TokenizerPublished, Gpt2FromVocabularyAndMerges) {
  TANDEM_REQUIRE_SHARED("tokenizers/gpt-2/tokenizer.json");
  const testing::ScratchFolder scratch;
  const Json json = read_json_file(testing::shared_data() / "tokenizers/gpt-2/tokenizer.json");
  testing::write_quickly(scratch / "vocab.json", json.at("model").at("vocab").dump());
  std::string merges = "#version: 0.2\n";
  for (const Json& merge : json.at("model").at("merges")) {
    merges += (merge.is_string() ? merge.get<std::string>()
                                 : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
    merges += '\n';
  }
  testing::write_quickly(scratch / "merges.txt", merges);
  const Tokenizer from_folder = Tokenizer::open(scratch.path());
  const Tokenizer from_file = Tokenizer::open(scratch / "vocab.json");
  const Tokenizer reference = Tokenizer::open(testing::shared_data() / "tokenizers/gpt-2");
  EXPECT_TRUE(from_file.is_special(50256));
  const Json fixture = testing::text_fixture("tokenizer_strings.json");
  for (const Json& json_text : fixture.at("strings")) {
    const auto text = json_text.get<std::string>();
    if (text.find("  ") != std::string::npos) continue;  // tokens that were added later
    EXPECT_EQ(from_folder.encode(text), reference.encode(text)) << text;
  }
  EXPECT_EQ(from_file.encode("Hello<|endoftext|>"), (std::vector<TokenId>{15496, 50256}));
}

}  // namespace
}  // namespace tandem
