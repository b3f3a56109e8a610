// Long and broken text, decoding in pieces, and the UTF-8 beneath both.
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "text/tokenizer/unicode.h"
#include "text/tokenizer/unicode_forms.h"
#include "text/tokenizer_fixture.h"

namespace tandem {
namespace {

using testing::decode_streaming;

constexpr EncodeOptions kPlain{.add_special_tokens = false};

TEST(TokenizerUnicode, MalformedPartsBecomeReplacementCharacters) {
  const std::string r = "\xEF\xBF\xBD";
  // The examples of table 3-8 of the Unicode standard, and the cases beside them.
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", ""},
      {"abc", "abc"},
      {"\xC3\xA9", "\xC3\xA9"},
      {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", r + r + r + r + r + r + r + r + "A"},
      {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", r + r + r + r + r + r + r + r + "A"},
      {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", r + r + r + r + r + "A" + r + r + "B"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", r + r + r + r + "A"},
      {"\xF0\x9F\x9A", r},
      {"\xE4\xBD", r},
      {"a\xFF"
       "b",
       "a" + r + "b"},
  };
  for (const auto& [bytes, text] : cases) {
    EXPECT_EQ(replace_invalid_utf8(bytes), text);
    EXPECT_EQ(is_valid_utf8(bytes), bytes == text);
  }
}

TEST(TokenizerUnicode, CutsDoNotMatter) {
  std::mt19937 random(3);
  // Bytes that make broken and whole characters likely.
  const std::string bytes = "a\x80\xBF\xC3\xA9\xE4\xBD\xA0\xF0\x9F\x9A\x80\xED\xA0\xF4\x90\xFF";
  for (int i = 0; i < 2000; ++i) {
    std::string text;
    for (unsigned n = random() % 12; n > 0; --n) text.push_back(bytes[random() % bytes.size()]);
    LossyUtf8 stream;
    std::string joined;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t size = 1 + random() % 3;
      stream.put(std::string_view(text).substr(at, size), joined);
      EXPECT_TRUE(is_valid_utf8(joined));
      at += size;
    }
    stream.finish(joined);
    EXPECT_EQ(joined, replace_invalid_utf8(text));
  }
}

TEST(TokenizerUnicode, NormalizingMarksOnlyIsNotQuadratic) {
  std::string text = "e";
  for (int i = 0; i < 200'000; ++i) text += "\xCC\x81";  // class 230
  for (int i = 0; i < 200'000; ++i) text += "\xCC\x96";  // class 220: all of them come first
  std::string expected = "\xC3\xA9";
  for (int i = 0; i < 200'000; ++i) expected += "\xCC\x96";
  for (int i = 1; i < 200'000; ++i) expected += "\xCC\x81";
  normalize_unicode(text, UnicodeForm::kNfc);
  EXPECT_TRUE(text == expected);
}

TEST(TokenizerStream, APieceIsNeverHalfACharacter) {
  const Tokenizer tokenizer = Tokenizer::open(testing::demo_dir());
  const std::string text = "caf\xC3\xA9 \xE4\xBD\xA0\xE5\xA5\xBD \xF0\x9F\x9A\x80";
  const auto ids = tokenizer.encode(text, kPlain);
  TokenStream stream(tokenizer);
  int silent = 0;
  std::string joined;
  for (const TokenId id : ids) {
    const std::string piece = stream.put(id);
    EXPECT_TRUE(is_valid_utf8(piece));
    silent += piece.empty();
    joined += piece;
  }
  EXPECT_GT(silent, 3);  // the demo's vocabulary spells these characters byte by byte
  EXPECT_EQ(joined, text);
  EXPECT_EQ(stream.finish(), "");
}

TEST(TokenizerStream, WhatIsLeftIsAReplacementCharacter) {
  const Tokenizer tokenizer = Tokenizer::open(testing::demo_dir());
  auto ids = tokenizer.encode("\xF0\x9F\x9A\x80", kPlain);
  ASSERT_GT(ids.size(), 1u);
  ids.pop_back();
  TokenStream stream(tokenizer);
  for (const TokenId id : ids) EXPECT_EQ(stream.put(id), "");
  EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD");
}

TEST(TokenizerStream, SpecialTokensAreLeftOutOrNot) {
  const Tokenizer tokenizer = Tokenizer::open(testing::demo_dir());
  const auto ids = tokenizer.encode("<|im_start|>user\nhi<|im_end|>");
  EXPECT_EQ(decode_streaming(tokenizer, ids, true), "user\nhi");
  EXPECT_EQ(decode_streaming(tokenizer, ids, false), "<|im_start|>user\nhi<|im_end|>");
  EXPECT_EQ(tokenizer.decode(ids, true), "user\nhi");
}

TEST(TokenizerStream, SpecialTokensInTextMayBePlainText) {
  const Tokenizer tokenizer = Tokenizer::open(testing::demo_dir());
  const std::string text = "say <|im_end|> now";
  const auto ids =
      tokenizer.encode(text, {.add_special_tokens = false, .parse_special_tokens = false});
  for (const TokenId id : ids) EXPECT_FALSE(tokenizer.is_special(id));
  EXPECT_EQ(tokenizer.decode(ids), text);
}

TEST(TokenizerStream, BytesThatAreNotTextEncodeAsReplacementCharacters) {
  const Tokenizer tokenizer = Tokenizer::open(testing::demo_dir());
  EXPECT_EQ(tokenizer.encode("a\xFF\xC3"), tokenizer.encode("a\xEF\xBF\xBD\xEF\xBF\xBD"));
  EXPECT_EQ(tokenizer.encode(std::string_view("a\0b", 3)).size(), 3u);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(std::string_view("a\0b", 3))),
            std::string("a\0b", 3));
}

TEST(TokenizerStream, IdsThatNoTokenHasSayNothing) {
  const Tokenizer tokenizer = Tokenizer::open(testing::demo_dir());
  const std::vector<TokenId> ids = {-1, 97, 4096, INT32_MAX, INT32_MIN, 98};
  EXPECT_EQ(tokenizer.decode(ids), tokenizer.decode(std::vector<TokenId>{97, 98}));
}

TEST(TokenizerStream, AMegabyteWithoutASpaceIsNotQuadratic) {
  const Tokenizer tokenizer = Tokenizer::open(testing::demo_dir());
  std::mt19937 random(4);
  std::string letters;
  for (int i = 0; i < 1 << 20; ++i) letters.push_back(static_cast<char>('a' + random() % 26));
  for (const std::string& text :
       {letters, std::string(1 << 20, 'a'), std::string(1 << 20, ' ') + "x",
        std::string(1 << 20, '\n'), std::string(1 << 20, '!')}) {
    EXPECT_TRUE(tokenizer.decode(tokenizer.encode(text)) == text) << text.substr(0, 4);
  }
}

TEST(TokenizerStream, ThreadsShareATokenizer) {
  const Tokenizer tokenizer = Tokenizer::open(testing::demo_dir());
  const std::string text =
      read_text_file(testing::demo_dir() / "eval_stories.txt").substr(0, 20'000);
  const auto expected = tokenizer.encode(text);
  std::vector<std::thread> threads;
  std::vector<int> good(4);
  for (int& ok : good) {
    threads.emplace_back(
        [&] { ok = tokenizer.encode(text) == expected && tokenizer.decode(expected) == text; });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, std::vector<int>(4, 1));
}

}  // namespace
}  // namespace tandem
