// The ids of added tokens in tokenizer.json, as the Hugging Face library assigns them, whatever the
// file says.
#include <gtest/gtest.h>

#include "text/tokenizer_fixture.h"

namespace tandem {
namespace {

using testing::ids_of;

TEST(TokenizerAdded, IdsAreThoseOfTheReference) {
  const testing::ScratchFolder scratch;
  const Json fixture = testing::text_fixture("tokenizer_added.json");
  const auto texts = fixture.at("texts").get<std::vector<std::string>>();
  for (const Json& entry : fixture.at("cases")) {
    const auto name = entry.at("name").get<std::string>();
    const Tokenizer tokenizer =
        testing::open_tokenizer(entry.at("tokenizer"), scratch / "tokenizer.json");
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const std::vector<TokenId> ids = ids_of(entry.at("ids").at(i));
      EXPECT_EQ(tokenizer.encode(texts[i]), ids) << name << ": " << texts[i];
      // Whether such a token decodes to its normalized text depends on the library's version.
      if (!entry.at("tokenizer").at("normalizer").is_null()) continue;
      EXPECT_EQ(tokenizer.decode(ids), entry.at("kept").at(i).get<std::string>())
          << name << ": " << texts[i];
      EXPECT_EQ(tokenizer.decode(ids, true), entry.at("skipped").at(i).get<std::string>())
          << name << ": " << texts[i];
    }
    for (const auto& [content, id] : entry.at("of").items())
      EXPECT_EQ(tokenizer.token_to_id(content), id.get<TokenId>()) << name;
    if (!entry.at("tokenizer").at("normalizer").is_null()) continue;
    for (TokenId id = 0; id < tokenizer.vocabulary_size(); ++id) {
      const auto token = entry.at("tokens").find(std::to_string(id));
      EXPECT_EQ(tokenizer.id_to_token(id),
                token == entry.at("tokens").end() ? "" : token->get<std::string>())
          << name << " " << id;
    }
  }
}

// A template adds what it lists, also where the token itself has another id.
TEST(TokenizerAdded, TemplatesKeepTheirIds) {
  const testing::ScratchFolder scratch;
  Json json = Json::parse(R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
    "added_tokens": [{"id": 9, "content": "<s>", "special": true}],
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [9], "tokens": ["<s>"]}}}})");
  const Tokenizer tokenizer = testing::open_tokenizer(json, scratch / "tokenizer.json");
  EXPECT_EQ(tokenizer.encode("a<s>"), (std::vector<TokenId>{9, 0, 1}));
  json["post_processor"]["special_tokens"]["<s>"]["ids"] = {10};
  EXPECT_NE(testing::error_of([&] {
              testing::open_tokenizer(json, scratch / "tokenizer.json");
            }).find("ids"),
            std::string::npos);
}

// Hugging Face numbers an added token that is not in the vocabulary next after the others, whatever
// id of 32 bits the file gives.
TEST(TokenizerAdded, AreNumberedNextWhateverIdIsListed) {
  const testing::ScratchFolder scratch;
  Json json = Json::parse(R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
    "added_tokens": [{"id": 7, "content": "<x>", "special": true}]})");
  for (const std::int64_t id :
       {std::int64_t{1}, std::int64_t{300}, std::int64_t{1} << 24, (std::int64_t{1} << 32) - 1}) {
    json["added_tokens"][0]["id"] = id;
    const Tokenizer tokenizer = testing::open_tokenizer(json, scratch / "tokenizer.json");
    EXPECT_EQ(tokenizer.encode("a<x>"), (std::vector<TokenId>{0, 1})) << id;
    EXPECT_EQ(tokenizer.vocabulary_size(), 2) << id;
  }
  for (const std::int64_t id : {std::int64_t{-1}, std::int64_t{1} << 32}) {
    json["added_tokens"][0]["id"] = id;
    EXPECT_NE(testing::error_of([&] {
                testing::open_tokenizer(json, scratch / "tokenizer.json");
              }).find("id"),
              std::string::npos);
  }
}

// The ids are those that transformers 5.24 gives: a new token is numbered next, one of the
// vocabulary has its id there, and of one that tokenizer.json lists that entry holds.
TEST(TokenizerAdded, AreAlsoTakenFromTokenizerConfig) {
  const testing::ScratchFolder scratch;
  fs::copy(testing::demo_dir(), scratch.path(), fs::copy_options::recursive);
  const fs::path file = scratch / "tokenizer_config.json";
  Json config = read_json_file(file);
  const auto token = [](const char* content, bool special, bool left, bool right) {
    return Json{{"content", content}, {"special", special},  {"lstrip", left},
                {"rstrip", right},    {"normalized", false}, {"single_word", false}};
  };
  config["added_tokens_decoder"] = {{"4095", token("<|im_end|>", true, true, true)},
                                    {"4096", token("<|new|>", true, false, false)},
                                    {"4100", token("<|new2|>", false, true, false)},
                                    {"682", token("thing", true, false, false)}};
  write_text_file(file, config.dump());
  const Tokenizer tokenizer = Tokenizer::open(scratch.path());
  using Ids = std::vector<TokenId>;
  EXPECT_EQ(tokenizer.encode("Once <|new|> upon <|im_end|> a"),
            (Ids{498, 32, 4096, 497, 32, 4095, 258}));
  EXPECT_EQ(tokenizer.encode("<|im_start|>user  <|new2|>x  <|im_end|>  b"),
            (Ids{4094, 344, 4097, 120, 1365, 4095, 32, 266}));
  EXPECT_EQ(tokenizer.encode("thing thing2"), (Ids{682, 32, 682, 50}));
  config["added_tokens_decoder"] = {{"4096", {{"content", 7}}}};
  write_text_file(file, config.dump());
  EXPECT_NE(testing::error_of([&] { Tokenizer::open(scratch.path()); }).find("content"),
            std::string::npos);
}

// What was made of another format keeps its ids, gaps included, and is checked.
TEST(TokenizerAdded, OtherFormatsKeepTheirIds) {
  const testing::ScratchFolder scratch;
  Json json = Json::parse(R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
    "added_tokens_keep_ids": true, "added_tokens": [{"id": 9, "content": "<s>", "special": true},
    {"id": 12, "content": "<e>", "special": true}]})");
  const auto open = [&] { return testing::open_tokenizer(json, scratch / "tokenizer.json"); };
  EXPECT_EQ(open().encode("a<e>b<s>"), (std::vector<TokenId>{0, 12, 1, 9}));
  Json& second = json["added_tokens"][1];
  for (const auto& [key, value, reason] :
       {std::tuple{"id", Json(9), "another added token has this id"},
        {"content", Json("<s>"), "another added token has this id"},
        {"id", Json(1), "belongs to \"b\" in the vocabulary"},
        {"content", Json("b"), "\"b\" has id 1 in the vocabulary, got 12"}}) {
    const Json kept = second;
    second[key] = value;
    const std::string text = testing::error_of([&] { open(); });
    EXPECT_NE(text.find(reason), std::string::npos) << text;
    second = kept;
  }
}

}  // namespace
}  // namespace tandem
