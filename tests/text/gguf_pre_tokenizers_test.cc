// Every value of "tokenizer.ggml.pre": text is cut as the Hugging Face library cuts it.
#include "text/tokenizer/gguf_pre_tokenizers.h"

#include <gtest/gtest.h>

#include <set>

#include "base/observer.h"
#include "checkpoint/gguf/gguf_writer.h"
#include "text/tokenizer/pattern.h"
#include "text/tokenizer/split.h"
#include "text/tokenizer_fixture.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::ScratchFolder;

// The lengths of the pieces, in characters.
std::vector<int> cut(const GgufPreTokenizer& way, const std::string& text) {
  std::vector<TextSpan> pieces = {{0, text.size()}};
  for (const std::string_view expression : way.expressions) {
    const Pattern pattern = Pattern::regex(expression, "test");
    PatternSearch search(pattern);
    std::vector<TextSpan> smaller;
    for (const TextSpan& piece : pieces) {
      std::vector<TextSpan> matches;
      search.find_all(piece.of(text), matches);
      append_split(piece.size(), matches, SplitBehavior::kIsolated, false, piece.begin, smaller);
    }
    pieces = std::move(smaller);
  }
  std::vector<int> lengths;
  for (const TextSpan& piece : pieces) {
    int length = 0;
    for (const char c : piece.of(text)) length += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    lengths.push_back(length);
  }
  return lengths;
}

TEST(GgufPreTokenizers, CutTextAsTheReferenceDoes) {
  const Json fixture = testing::text_fixture("gguf_pre_tokenizers.json");
  std::set<std::string_view> seen;
  for (const Json& way : fixture.at("ways")) {
    for (const Json& name : way.at("names")) {
      SCOPED_TRACE(name.dump());
      const GgufPreTokenizer* known = find_gguf_pre_tokenizer(name.get<std::string>());
      ASSERT_NE(known, nullptr);
      seen.insert(known->names.begin(), known->names.end());
      for (std::size_t i = 0; i < fixture.at("texts").size(); ++i)
        EXPECT_EQ(cut(*known, fixture["texts"][i].get<std::string>()),
                  way["pieces"][i].get<std::vector<int>>())
            << fixture["texts"][i].dump();
    }
  }
  for (const GgufPreTokenizer& known : gguf_pre_tokenizers())
    for (const std::string_view name : known.names) EXPECT_TRUE(seen.contains(name)) << name;
  EXPECT_GE(seen.size(), 80u);
}

class Warnings : public Observer {
 public:
  void warn(std::string_view message) override { all.emplace_back(message); }
  std::vector<std::string> all;
};

class GgufWithoutWay : public ::testing::Test {
 protected:
  // The file of ways with the key, or its value, under another name of the same length.
  fs::path changed(std::string_view from, std::string_view to) {
    std::string file = read_text_file(testing::fixture("text/fixtures/sentencepiece/ways.gguf"));
    const std::size_t at = file.find(from);
    EXPECT_NE(at, std::string::npos);
    file.replace(at, from.size(), to);
    testing::write_quickly(scratch_ / "m.gguf", file);
    return scratch_ / "m.gguf";
  }

  ScratchFolder scratch_;
  Warnings warnings_;
};

TEST_F(GgufWithoutWay, IsReadTheDefaultWayWithOneWarning) {
  const std::string text = "It's 12345 'Sa $1,a//\r\n\n  B_a  ";
  const Tokenizer expected =
      Tokenizer::open(testing::fixture("text/fixtures/sentencepiece/ways.gguf"), warnings_);
  EXPECT_TRUE(warnings_.all.empty());
  const Tokenizer without =
      Tokenizer::open(changed("tokenizer.ggml.pre", "tokenizer.ggml.pro"), warnings_);
  EXPECT_EQ(without.encode(text), expected.encode(text));
  ASSERT_EQ(warnings_.all.size(), 1u);
  EXPECT_NE(warnings_.all[0].find("m.gguf: tokenizer.ggml.pre: is missing"), std::string::npos)
      << warnings_.all[0];
}

TEST_F(GgufWithoutWay, UnknownWaysAreRefused) {
  const std::string message =
      error_of([&] { Tokenizer::open(changed("default", "defoult"), warnings_); });
  EXPECT_NE(message.find("\"defoult\" is not a way to cut text"), std::string::npos) << message;
  EXPECT_EQ(find_gguf_pre_tokenizer(""), nullptr);
  EXPECT_EQ(find_gguf_pre_tokenizer("Qwen2"), nullptr);
}

// Not in the alphabet of bytes: a space is "▁", and what the vocabulary lacks becomes byte tokens.
TEST(GgufPreTokenizers, SomeSpellTokensInUtf8) {
  const ScratchFolder scratch;
  GgufMetadata metadata;
  metadata.add_string("tokenizer.ggml.model", "gpt2");
  metadata.add_string("tokenizer.ggml.pre", "gemma4");
  metadata.add_strings("tokenizer.ggml.tokens", {"<unk>", "<0x0A>", "<0xC3>", "<0xA9>", "\u2581",
                                                 "a", "\u2581a", "\u65e5", "a\u65e5"});
  metadata.add_ints("tokenizer.ggml.token_type", {2, 6, 6, 6, 1, 1, 1, 1, 1});
  metadata.add_strings("tokenizer.ggml.merges", {"\u2581 a", "a \u65e5"});
  GgufWriter(scratch / "m.gguf", metadata, {}).finish();
  const Tokenizer tokenizer = Tokenizer::open(scratch / "m.gguf");
  const std::string text = "a a\n\u65e5a\u65e5\u00e9 ";
  const std::vector<TokenId> ids = {5, 6, 1, 7, 8, 2, 3, 4};
  EXPECT_EQ(tokenizer.encode(text), ids);
  EXPECT_EQ(tokenizer.decode(ids), text);
}

}  // namespace
}  // namespace tandem
