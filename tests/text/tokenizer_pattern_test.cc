// Regular expressions written for another library: the same pieces, and bounded work.
#include <gtest/gtest.h>

#include "text/tokenizer/pattern.h"
#include "text/tokenizer/split.h"
#include "text/tokenizer_fixture.h"

namespace tandem {
namespace {

using testing::error_of;

std::vector<TextSpan> matches_of(const std::string& expression, std::string_view text) {
  std::vector<TextSpan> matches;
  const Pattern pattern = Pattern::regex(expression, "test");
  PatternSearch(pattern).find_all(text, matches);
  return matches;
}

TEST(TokenizerPattern, CutsTextAsTheReferenceDoes) {
  const Json fixture = testing::text_fixture("tokenizer_patterns.json");
  ASSERT_GE(fixture.at("patterns").size(), 50u);
  for (const Json& expected : fixture.at("patterns")) {
    const auto expression = expected.at("regex").get<std::string>();
    SCOPED_TRACE(expression);
    for (const Json& one : expected.at("cases")) {
      const auto text = one.at("text").get<std::string>();
      SCOPED_TRACE(one.at("text").dump());
      std::vector<TextSpan> pieces;
      append_split(text.size(), matches_of(expression, text), SplitBehavior::kIsolated, false, 0,
                   pieces);
      std::vector<std::string> found;
      for (const TextSpan& piece : pieces) found.emplace_back(piece.of(text));
      EXPECT_EQ(found, one.at("pieces").get<std::vector<std::string>>());
    }
  }
}

TEST(TokenizerPattern, AScriptIsNotWhatItSharesWithOthers) {
  const std::string text = "\u65e5\u3002\u30ab\u30fca";
  EXPECT_EQ(matches_of("\\p{Han}+", text).size(), 1u);
  EXPECT_EQ(matches_of("\\p{Han}+", text)[0].size(), 3u);
  EXPECT_EQ(matches_of("[\\p{Katakana}]", text).size(), 1u);
  EXPECT_EQ(matches_of("\\P{Han}", text).size(), 4u);
  EXPECT_EQ(matches_of("\\p{^Han}", text).size(), 4u);
  EXPECT_EQ(matches_of("\\p{L}", text).size(), 4u);
}

TEST(TokenizerPattern, SaysWhatItCannotDo) {
  for (const char* expression :
       {"[a-z&&[^b]]", "[a[b]]", "a{1,2}+", "[\\W]", "[\\H]", "\\Qa\\E", "(*UTF)a"}) {
    SCOPED_TRACE(expression);
    const std::string message = error_of([&] { Pattern::regex(expression, "file: key"); });
    EXPECT_NE(message.find("file: key"), std::string::npos) << message;
    EXPECT_NE(message.find("not supported"), std::string::npos) << message;
  }
}

TEST(TokenizerPattern, RefusesMalformedExpressions) {
  for (const char* expression : {"(", ")", "[", "a{2,1}", "*", "\\p{NoSuchProperty}", "(?<n", "\\",
                                 "(?", "\\u12", "\\C", "(?i", "\\x{110000}"}) {
    SCOPED_TRACE(expression);
    const std::string message = error_of([&] { Pattern::regex(expression, "file: key"); });
    EXPECT_NE(message.find("file: key"), std::string::npos) << message;
    EXPECT_NE(message.find("regular expression"), std::string::npos) << message;
  }
  EXPECT_NE(
      error_of([] { Pattern::regex(std::string(1 << 20, 'a'), "file: key"); }).find("at most"),
      std::string::npos);
  EXPECT_NE(error_of([] {
              Pattern::regex(std::string(5000, '(') + std::string(5000, ')'), "file: key");
            }).find("file: key"),
            std::string::npos);
}

TEST(TokenizerPattern, EndlessBacktrackingEndsInAnError) {
  const std::string text(50'000, 'a');
  for (const char* expression :
       {"(a+)+[bc]", "(a|aa)+[bc]", "(a*)*[bc]", "(?:a?){40}a{40}[bc]", "(?=(a+)+[bc])a"}) {
    SCOPED_TRACE(expression);
    EXPECT_NE(error_of([&] { matches_of(expression, text); }).find("regular expression"),
              std::string::npos);
  }
}

TEST(TokenizerPattern, QuadraticSearchEndsInAnError) {
  // Each start reads to the end of the text, below any limit of one match: 8e9 steps in all.
  const std::string text(128'000, 'a');
  EXPECT_NE(error_of([&] { matches_of("(?:ax?)+[bc]", text); }).find("too long"),
            std::string::npos);
}

TEST(TokenizerPattern, SparseMatchesInLongTextAreFound) {
  std::string text(300'000, 'x');
  text += "\xE4\xBD\xA0";  // not ASCII, so that steps must respect characters
  text += std::string(300'000, 'y') + "n" + std::string(9, 'z');
  const auto matches = matches_of("(?<=y)n(?=z)", text);
  ASSERT_EQ(matches.size(), 1u);
  EXPECT_EQ(matches[0].begin, 600'003u);
}

TEST(TokenizerPattern, DeepRecursionStaysOffTheStack) {
  // Each repetition of a group is remembered; the first limit that is reached ends it, or it
  // succeeds.
  const std::string text(1 << 20, 'a');
  try {
    EXPECT_EQ(matches_of("(?:a|b)+", text).size(), 1u);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  }
}

TEST(TokenizerPattern, LiteralsAreNotExpressions) {
  std::string text = "a.b.c";
  replace_all(Pattern::literal("."), "--", text);
  EXPECT_EQ(text, "a--b--c");
  replace_all(Pattern::literal("zz"), "", text);
  EXPECT_EQ(text, "a--b--c");
}

}  // namespace
}  // namespace tandem
