// The lines on which the keys of a JSON text stand.
#include "base/json_lines.h"

#include <gtest/gtest.h>

namespace tandem {
namespace {

using Lines = std::map<std::string, int>;

TEST(JsonLines, FindsKeysAndItems) {
  EXPECT_EQ(json_lines("{\n"
                       "  \"seed\": 3,\n"
                       "  \"rules\": [\n"
                       "    {\"match\": \"x\",\n"
                       "     \"bits\": 4},\n"
                       "    {}\n"
                       "  ],\n"
                       "  \"last\": {\"a\": null, \"b\": [1.5, [true]]}\n"
                       "}\n"),
            (Lines{{"seed", 2},
                   {"rules", 3},
                   {"rules[0]", 4},
                   {"rules[0].match", 4},
                   {"rules[0].bits", 5},
                   {"rules[1]", 6},
                   {"last", 8},
                   {"last.a", 8},
                   {"last.b", 8},
                   {"last.b[0]", 8},
                   {"last.b[1]", 8},
                   {"last.b[1][0]", 8}}));
}

TEST(JsonLines, CountsLinesInAnyForm) {
  EXPECT_EQ(json_lines("{\"a\"\n:\n1}"), (Lines{{"a", 1}}));
  EXPECT_EQ(json_lines("\r\n{\r\n\"a\": 1}"), (Lines{{"a", 3}}));
  EXPECT_EQ(json_lines("[\n1,\n\n2]"), (Lines{{"[0]", 2}, {"[1]", 4}}));
  EXPECT_EQ(json_lines("{}"), Lines{});
  EXPECT_EQ(json_lines("7"), Lines{});
  // A line's end inside a string is written as \n and is none.
  EXPECT_EQ(json_lines("{\"a\": \"x\\ny\",\n\"b\": 2}"), (Lines{{"a", 1}, {"b", 2}}));
}

}  // namespace
}  // namespace tandem
