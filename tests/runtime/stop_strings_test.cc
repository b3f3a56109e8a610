// Stop strings in a text that comes in pieces, against a search in the whole text.
#include "runtime/stop_strings.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace tandem {
namespace {

TEST(StopStrings, EqualsASearchInTheWholeText) {
  std::mt19937 random(1);
  const auto text_of = [&](std::size_t length) {
    std::string text;
    while (text.size() < length) text += static_cast<char>('a' + random() % 2);
    return text;
  };
  for (int round = 0; round < 2000; ++round) {
    const std::string text = text_of(random() % 24);
    std::vector<std::string> stops;
    for (auto left = random() % 3; left > 0; --left) stops.push_back(text_of(1 + random() % 6));
    std::size_t end = text.size();
    bool found = false;
    for (const std::string& stop : stops) {
      const std::size_t at = text.find(stop);
      found = found || at != std::string::npos;
      end = std::min(end, at);
    }
    // By single characters, the first stop string to be complete ends the text, not the first to
    // begin.
    StopStrings pieces(stops);
    std::string shown = pieces.put(text);
    shown += pieces.finish();
    EXPECT_EQ(pieces.found(), found);
    EXPECT_EQ(shown, text.substr(0, end));
    StopStrings characters(stops);
    shown.clear();
    for (const char c : text) shown += characters.put({&c, 1});
    shown += characters.finish();
    EXPECT_EQ(characters.found(), found);
    EXPECT_TRUE(text.starts_with(shown));
    for (const std::string& stop : stops) EXPECT_EQ(shown.find(stop), std::string::npos);
    if (!found) {
      EXPECT_EQ(shown, text);
    }
  }
}

TEST(StopStrings, HoldsBackOnlyWhatMayBeginOne) {
  StopStrings stop({"", "</s>", "User:"});
  EXPECT_EQ(stop.put("a < b"), "a < b");
  EXPECT_EQ(stop.put("</"), "");
  EXPECT_EQ(stop.put("b></"), "</b>");
  EXPECT_EQ(stop.put("s"), "");
  EXPECT_EQ(stop.finish(), "</s");
  EXPECT_EQ(stop.put("x User: y"), "x ");
  EXPECT_TRUE(stop.found());
  EXPECT_EQ(stop.put("z"), "");
  EXPECT_EQ(stop.finish(), "");
  EXPECT_EQ(StopStrings({}).put("a"), "a");
}

}  // namespace
}  // namespace tandem
