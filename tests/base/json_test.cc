// Valid, invalid and hostile JSON; and typed access to keys.
#include "base/json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>

#include "base/long_integer.h"
#include "support.h"

namespace tandem {
namespace {

using testing::error_of;

std::string parse_error(const std::string& text) {
  return error_of([&] { parse_json(text, "x.json"); });
}

TEST(ParseOrderedJson, KeepsTheOrderOfKeys) {
  const OrderedJson json = parse_ordered_json(R"({"b": 1, "a": {"z": [], "c": null}})", "x.json");
  EXPECT_EQ(json.dump(), R"({"b":1,"a":{"z":[],"c":null}})");
  for (const char* bad : {R"({"a": 1, "a": 2})", "[1,]", "", "[1] 2"})
    EXPECT_NE(error_of([&] { parse_ordered_json(bad, "x.json"); }).find("x.json"),
              std::string::npos);
  std::string many = "[{";
  for (std::size_t i = 0; i <= kMaxOrderedKeys; ++i) many += fmt::format("\"{}\":0,", i);
  many.back() = '}';
  EXPECT_NE(error_of([&] {
              parse_ordered_json(many + "]", "x.json");
            }).find("an object of 4097 keys, expected at most 4096"),
            std::string::npos);
}

TEST(ParseJson, ReadsEveryKindOfValue) {
  const Json json = parse_json(
      R"({"a":[1,-2,3.5,true,false,null,"x\u00e9\n"],"b":{"c":{}},"d":[[]],"e":18446744073709551615})",
      "x.json");
  EXPECT_EQ(json["a"].size(), 7u);
  EXPECT_EQ(json["a"][1], -2);
  EXPECT_EQ(json["a"][2], 3.5);
  EXPECT_EQ(json["a"][6], "x\u00e9\n");
  EXPECT_TRUE(json["b"]["c"].is_object());
  EXPECT_TRUE(json["d"][0].is_array());
  EXPECT_EQ(json["e"], std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(json, Json::parse(json.dump()));
  EXPECT_EQ(parse_json("3", "x.json"), 3);
}

TEST(ParseJson, NamesFileLineAndColumn) {
  EXPECT_EQ(parse_error("{\n  \"a\": 1,\n  \"a\": 2\n}"),
            "[json] x.json: line 3, column 5: key \"a\" appears twice in one object");
  EXPECT_NE(parse_error("{\n  \"a\": tru\n}").find("x.json: line 2, column 11: "),
            std::string::npos)
      << parse_error("{\n  \"a\": tru\n}");
  EXPECT_NE(parse_error("[1,2]x").find("line 1, column 6: "), std::string::npos);
  EXPECT_NE(parse_error("").find("line 1, column 1: "), std::string::npos);
}

TEST(ParseJson, RefusesWhatIsMalformed) {
  for (const char* text :
       {"",           " ",     "{",   "[",     "{\"a\"", "{\"a\":}", "[1,]",
        "{\"a\":1,}", "nul",   "01",  "1e999", "nan",    "\"\\x\"",  "\"\\ud800\"",
        "{} {}",      "[1] 2", "'a'", "{1:2}", "\"a",    "// c\n1"}) {
    EXPECT_FALSE(parse_error(text).empty()) << text;
  }
  EXPECT_FALSE(parse_error(std::string("\"a\0b\"", 5)).empty());
}

// What Python's json writes for numbers that JSON does not have.
TEST(ParseJson, ReadsPythonsNumbers) {
  const std::string text =
      R"({"a":NaN, "b":[Infinity,-Infinity,1.5 , NaN],"c":"NaN, \"Infinity","d":0.0,"e":-Infinity})";
  const Json json = parse_json(text, "x.json");
  EXPECT_TRUE(std::isnan(json["a"].get<double>()));
  EXPECT_EQ(json["b"][0], std::numeric_limits<double>::infinity());
  EXPECT_EQ(json["b"][1], -std::numeric_limits<double>::infinity());
  EXPECT_EQ(json["b"][2], 1.5);
  EXPECT_TRUE(std::isnan(json["b"][3].get<double>()));
  EXPECT_EQ(json["c"], "NaN, \"Infinity");
  EXPECT_EQ(json["d"], 0.0);
  EXPECT_EQ(json["e"], -std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(parse_json("NaN", "x.json").get<double>()));
  const OrderedJson ordered = parse_ordered_json(text, "x.json");
  EXPECT_TRUE(std::isnan(ordered["a"].get<double>()));
  EXPECT_EQ(ordered["b"][1], -std::numeric_limits<double>::infinity());
  // The library writes them as null.
  EXPECT_EQ(ordered.dump(),
            R"({"a":null,"b":[null,null,1.5,null],"c":"NaN, \"Infinity","d":0.0,"e":null})");

  const JsonObject object(json, "x.json");
  EXPECT_EQ(error_of([&] { object.get_number("a"); }),
            "[json] x.json: a: expected a finite number, got NaN");
  EXPECT_EQ(error_of([&] { object.get_number_or("e", 1); }),
            "[json] x.json: e: expected a finite number, got -Infinity");
  EXPECT_NE(error_of([&] { object.get_int("a", 0, 1); }).find("in [0, 1], got NaN"),
            std::string::npos);
  EXPECT_NE(error_of([&] { object.get_string("e"); }).find("a string, got -Infinity"),
            std::string::npos);
  for (const char* bad : {"-NaN", "+Infinity", "1NaN", "NaN1", "Infinity0", "InfinityNaN", "Nan",
                          "--Infinity", "{NaN:1}", "[NaN Infinity]", "-Infinit", "1-Infinity"})
    EXPECT_FALSE(parse_error(bad).empty()) << bad;
}

TEST(ParseJson, RefusesTextThatIsNotUtf8) {
  for (const char* text :
       {"\"\xff\"", "\"\xc3\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"", "\xff"}) {
    const std::string message = parse_error(text);
    EXPECT_FALSE(message.empty());
    for (const char c : message)
      EXPECT_TRUE(c >= 0x20 && c < 0x7f) << message;  // fit for a terminal
  }
}

TEST(ParseJson, RefusesDeepNestingWithoutRecursing) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_NO_THROW(parse_json(nested(kMaxJsonDepth), "x.json"));
  EXPECT_NE(
      parse_error(nested(kMaxJsonDepth + 1)).find("column 129: nested deeper than 128 levels"),
      std::string::npos);
  EXPECT_FALSE(parse_error(std::string(1000000, '[')).empty());
  std::string objects;
  for (int i = 0; i < 1000000; ++i) objects += "{\"a\":";
  EXPECT_NE(parse_error(objects).find("nested deeper"), std::string::npos);
}

TEST(ParseJson, RefusesDuplicateKeysAtAnyLevel) {
  EXPECT_NE(parse_error(R"([{"x":{"k":1,"k":null}}])").find("\"k\" appears twice"),
            std::string::npos);
  EXPECT_NE(parse_error(R"({"a":[],"\u0061":1})").find("appears twice"), std::string::npos);
  EXPECT_NO_THROW(parse_json(R"([{"k":1},{"k":2},{"a":{"a":{"a":1}}}])", "x.json"));
}

TEST(ParseJson, KeepsMessagesShort) {
  EXPECT_LT(parse_error("\"" + std::string(1000000, 'a')).size(), 300u);
  const std::string key(100000, 'k');
  EXPECT_LT(parse_error("{\"" + key + "\":1,\"" + key + "\":2}").size(), 300u);
}

// For each text, either both parsers accept it and agree, or ours throws a tandem::Error. The
// library alone is the reference for validity; ours rejects more (duplicates, depth), never less.
TEST(ParseJson, AgreesWithTheLibraryOnMutatedText) {
  const std::string seed =
      R"({"a":[1,-2.5e3,true,null,"x\u00e9\"y"],"b":{"c":{},"d":[[],[{}]]},"é":"\n"})";
  std::mt19937 random(1);
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string text = seed;
    for (auto edits = 1 + random() % 3; edits > 0; --edits) {
      const std::size_t at = random() % text.size();
      switch (random() % 4) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, 1 + random() % 4);
          break;
        case 2:
          text.insert(at, 1, "[]{},:\"\\0e-"[random() % 11]);
          break;
        default:
          text.resize(at);
          break;
      }
      if (text.empty()) text = " ";
    }
    const Json expected = Json::parse(text, nullptr, false);
    try {
      const Json got = parse_json(text, "x.json");
      ASSERT_FALSE(expected.is_discarded()) << text;
      ASSERT_EQ(got, expected) << text;
      ++accepted;
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::kFormat);
      const bool duplicate = std::string(error.what()).find("appears twice") != std::string::npos;
      ASSERT_TRUE(expected.is_discarded() || duplicate) << text << "\n" << error.what();
    }
  }
  EXPECT_GT(accepted, 100);
}

TEST(ReadJsonFile, NamesTheFileAndBoundsItsSize) {
  const testing::ScratchFolder folder;
  write_text_file(folder / "a.json", "{\"a\": 1}");
  EXPECT_EQ(read_json_file(folder / "a.json")["a"], 1);
  EXPECT_NE(error_of([&] { read_json_file(folder / "a.json", 7); }).find("larger than the 7 bytes"),
            std::string::npos);
  EXPECT_NE(error_of([&] { read_json_file(folder / "b.json"); }).find("b.json: cannot open"),
            std::string::npos);
  write_text_file(folder / "c.json", "{");
  EXPECT_NE(error_of([&] { read_json_file(folder / "c.json"); }).find("c.json: line 1"),
            std::string::npos);
}

class JsonObjectTest : public ::testing::Test {
 protected:
  const Json json_ = parse_json(
      R"({"i":7,"u":18446744073709551615,"n":-3,"f":2.5,"b":true,"s":"x","z":null,"l":[1,2],"m":[1,"x"],
          "o":{"k":1.5,"p":{"q":[]}}})",
      "c.json");
  const JsonObject object_{json_, "c.json"};
};

TEST_F(JsonObjectTest, ReadsTypedValues) {
  EXPECT_EQ(object_.get_int("i", 0, 10), 7);
  EXPECT_EQ(object_.get_int("n", -3, -3), -3);
  EXPECT_EQ(object_.get_number("f"), 2.5);
  EXPECT_EQ(object_.get_number("i"), 7);
  EXPECT_TRUE(object_.get_bool("b"));
  EXPECT_EQ(object_.get_string("s"), "x");
  EXPECT_EQ(object_.get_ints("l"), (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(object_.get_ints("i"), (std::vector<std::int64_t>{7}));
  EXPECT_TRUE(object_.has("i"));
  EXPECT_FALSE(object_.has("z"));
  EXPECT_FALSE(object_.has("absent"));
}

TEST_F(JsonObjectTest, FallsBackOnlyWhereNothingIsGiven) {
  EXPECT_EQ(object_.get_int_or("z", 5, 0, 10), 5);
  EXPECT_EQ(object_.get_int_or("i", 5, 0, 10), 7);
  EXPECT_EQ(object_.get_number_or("absent", 0.5), 0.5);
  EXPECT_TRUE(object_.get_bool_or("absent", true));
  EXPECT_EQ(object_.get_string_or("absent", "d"), "d");
  EXPECT_FALSE(error_of([&] { object_.get_int_or("s", 5, 0, 10); }).empty());
}

TEST_F(JsonObjectTest, ErrorsNameFileKeyAndValue) {
  EXPECT_EQ(error_of([&] { object_.get_int("s", 1, 4096); }),
            "[json] c.json: s: expected an integer in [1, 4096], got \"x\"");
  EXPECT_EQ(error_of([&] { object_.get_int("f", 1, 4096); }),
            "[json] c.json: f: expected an integer in [1, 4096], got 2.5");
  EXPECT_FALSE(error_of([&] { object_.get_int("i", 8, 9); }).empty());
  EXPECT_FALSE(error_of([&] {
                 object_.get_int("u", -1, std::numeric_limits<std::int64_t>::max());
               }).empty());
  EXPECT_FALSE(error_of([&] { object_.get_ints("u"); }).empty());
  EXPECT_EQ(error_of([&] { object_.get_ints("m"); }),
            "[json] c.json: m: expected an integer or an array of integers, got \"x\"");
  EXPECT_EQ(error_of([&] { object_.get_bool("o"); }),
            "[json] c.json: o: expected true or false, got an object of 2 keys");
  EXPECT_EQ(error_of([&] { object_.get_string("l"); }),
            "[json] c.json: l: expected a string, got an array of 2 values");
  EXPECT_EQ(error_of([&] { object_.get_number("absent"); }), "[json] c.json: absent: is missing");
  EXPECT_EQ(error_of([&] { JsonObject(json_["l"], "c.json"); }),
            "[json] c.json: expected an object, got an array of 2 values");
}

TEST_F(JsonObjectTest, ChildrenNameTheirWholePath) {
  EXPECT_EQ(object_.child("o").get_number("k"), 1.5);
  EXPECT_EQ(error_of([&] { object_.child("o").child("p").get_int("q", 0, 1); }),
            "[json] c.json: o.p.q: expected an integer in [0, 1], got an array of 0 values");
  EXPECT_EQ(error_of([&] { object_.child("s"); }),
            "[json] c.json: s: expected an object, got \"x\"");
  EXPECT_EQ(error_of([&] { object_.child("z"); }), "[json] c.json: z: is missing");
}

TEST(ParseOrderedJson, KeepsIntegersOfAnySize) {
  const OrderedJson json = parse_ordered_json(
      R"({"b": [12345678901234567890123, -98765432109876543210, 18446744073709551615], "a": 1e30,
          "c": {"d": 12345678901234567890123.0}})",
      "file");
  EXPECT_EQ(long_integer_digits(json["b"][0]), "12345678901234567890123");
  EXPECT_EQ(long_integer_digits(json["b"][1]), "-98765432109876543210");
  EXPECT_EQ(json["b"][2].get<std::uint64_t>(), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(long_integer_digits(json["b"][2]), std::nullopt);
  EXPECT_EQ(json["a"], 1e30);
  EXPECT_TRUE(json["c"]["d"].is_number_float());
  EXPECT_EQ(json.begin().key(), "b");
  EXPECT_EQ(long_integer_digits(long_integer("123")), "123");
  EXPECT_EQ(long_integer_digits(OrderedJson::binary({'1'})), std::nullopt);
}

}  // namespace
}  // namespace tandem
