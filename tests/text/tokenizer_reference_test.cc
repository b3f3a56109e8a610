// Tokens and texts against the results of the Hugging Face library.
#include <gtest/gtest.h>

#include <optional>

#include "text/tokenizer_fixture.h"

namespace tandem {
namespace {

using testing::decode_streaming;
using testing::hash_of;
using testing::ids_of;
using testing::text_fixture;

constexpr EncodeOptions kPlain{.add_special_tokens = false};

// The text cut behind every `count` lines.
std::vector<std::string_view> chunks_of(std::string_view text, int count) {
  std::vector<std::string_view> chunks;
  while (true) {
    std::size_t end = 0;
    for (int line = 0; line < count && end != std::string_view::npos; ++line) {
      end = text.find('\n', end);
      if (end != std::string_view::npos) ++end;
    }
    chunks.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return chunks;
    text.remove_prefix(end);
  }
}

void expect_text(const Tokenizer& tokenizer, const Json& expected, int chunk_lines,
                 const std::string& text) {
  ASSERT_EQ(text.size(), expected.at("bytes").get<std::size_t>());
  const auto ids = tokenizer.encode(text);
  EXPECT_EQ(ids.size(), expected.at("ids").get<std::size_t>());
  EXPECT_EQ(std::vector<TokenId>(ids.begin(), ids.begin() + 64), ids_of(expected.at("first")));
  EXPECT_EQ(hash_of(ids), expected.at("hash").get<std::string>());
  EXPECT_EQ(tokenizer.decode(ids), text);
  EXPECT_EQ(decode_streaming(tokenizer, ids, false), text);
  const auto chunks = chunks_of(text, chunk_lines);
  ASSERT_EQ(chunks.size(), expected.at("chunks").size());
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const auto part = tokenizer.encode(chunks[i]);
    EXPECT_EQ(part.size(), expected.at("chunks")[i][0].get<std::size_t>()) << "chunk " << i;
    EXPECT_EQ(hash_of(part), expected.at("chunks")[i][1].get<std::string>()) << "chunk " << i;
  }
}

void expect_texts(const std::string& place, const fs::path& folder) {
  const Tokenizer tokenizer = Tokenizer::open(testing::demo_dir());
  const Json fixture = text_fixture("tokenizer_texts.json");
  int count = 0;
  for (const Json& expected : fixture.at("texts")) {
    if (expected.at("place").get<std::string>() != place) continue;
    const auto name = expected.at("file").get<std::string>();
    SCOPED_TRACE(name);
    expect_text(tokenizer, expected, fixture.at("chunk_lines"), read_text_file(folder / name));
    ++count;
  }
  EXPECT_GE(count, 2);
}

TEST(TokenizerReference, TheDemosOwnTexts) { expect_texts("demo", testing::demo_dir()); }

TEST(TokenizerReference, WikitextAndStories) {
  TANDEM_REQUIRE_SHARED("text/wikitext-2-test.txt");
  expect_texts("shared", testing::shared_data() / "text");
}

TEST(TokenizerReference, RandomStringsAndRandomTokens) {
  const Tokenizer tokenizer = Tokenizer::open(testing::demo_dir() / "tokenizer.json");
  const Json fixture = text_fixture("tokenizer_random.json");
  ASSERT_GE(fixture.at("cases").size(), 300u);
  for (const Json& expected : fixture.at("cases")) {
    const auto ids = ids_of(expected.at("ids"));
    SCOPED_TRACE(expected.at("ids").dump());
    if (expected.contains("text")) {
      EXPECT_EQ(tokenizer.encode(expected.at("text").get<std::string>(), kPlain), ids);
    }
    EXPECT_EQ(tokenizer.decode(ids), expected.at("decoded").get<std::string>());
    EXPECT_EQ(decode_streaming(tokenizer, ids, false), expected.at("decoded").get<std::string>());
    if (expected.contains("skipped")) {
      EXPECT_EQ(tokenizer.decode(ids, true), expected.at("skipped").get<std::string>());
      EXPECT_EQ(decode_streaming(tokenizer, ids, true), expected.at("skipped").get<std::string>());
    }
  }
}

void expect_case(const Tokenizer& tokenizer, const Json& expected) {
  const auto text = expected.at("text").get<std::string>();
  SCOPED_TRACE(expected.at("text").dump());
  const auto ids = ids_of(expected.at("ids"));
  EXPECT_EQ(tokenizer.encode(text, kPlain), ids);
  EXPECT_EQ(tokenizer.encode(text), ids_of(expected.value("with_special", Json(ids))));
  EXPECT_EQ(tokenizer.encode(text, {.add_special_tokens = false, .parse_special_tokens = false}),
            ids_of(expected.value("unparsed", Json(ids))));
}

void expect_decode(const Tokenizer& tokenizer, const Json& expected) {
  SCOPED_TRACE(expected.at("ids").dump());
  const auto ids = ids_of(expected.at("ids"));
  const auto text = expected.at("text").get<std::string>();
  const auto skipped = expected.value("skipped", text);
  EXPECT_EQ(tokenizer.decode(ids), text);
  EXPECT_EQ(tokenizer.decode(ids, true), skipped);
  EXPECT_EQ(decode_streaming(tokenizer, ids, false), text);
  EXPECT_EQ(decode_streaming(tokenizer, ids, true), skipped);
}

// A file of small tokenizers; where their vocabularies repeat, "vocab" is an index.
void expect_small_tokenizers(const std::string& file, std::size_t at_least) {
  const testing::ScratchFolder scratch;
  const Json fixture = text_fixture(file);
  ASSERT_GE(fixture.at("tokenizers").size(), at_least);
  for (const Json& expected : fixture.at("tokenizers")) {
    SCOPED_TRACE(expected.at("name").get<std::string>());
    Json config = expected.at("tokenizer");
    Json& vocab = config.at("model").at("vocab");
    vocab = Json(fixture.at("vocabularies").at(vocab.get<std::size_t>()));
    const Tokenizer tokenizer = testing::open_tokenizer(config, scratch / "tokenizer.json");
    for (const Json& one : expected.at("cases")) expect_case(tokenizer, one);
    for (const Json& one : expected.at("decodes")) expect_decode(tokenizer, one);
  }
}

TEST(TokenizerReference, EveryOptionOfSmallTokenizers) {
  expect_small_tokenizers("tokenizer_options.json", 80);
}

TEST(TokenizerReference, EveryComponentInSmallTokenizers) {
  expect_small_tokenizers("tokenizer_components.json", 40);
}

}  // namespace
}  // namespace tandem
