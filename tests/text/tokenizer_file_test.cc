// Damaged and hostile tokenizer.json: one error that names the file and the key, no crash and no
// large allocation.
#include <gtest/gtest.h>

#include <random>

#include "text/tokenizer_fixture.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::ScratchFolder;

// A small tokenizer that uses every kind of component.
Json valid_tokenizer() {
  return Json::parse(R"({
    "version": "1.0",
    "added_tokens": [{"id": 7, "content": "<s>", "special": true, "normalized": false, "lstrip": false},
                     {"id": 8, "content": "<n>", "special": false, "normalized": true}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [7], "tokens": ["<s>"]}}},
    "decoder": {"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "_"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "fuse_unk": false, "ignore_merges": false,
      "vocab": {"<unk>": 0, "a": 1, "b": 2, "ab": 3, "<0x41>": 4, "Ġ": 5, "_": 6},
      "merges": ["a b"]}
  })");
}

std::string open_error(const fs::path& file, const Json& tokenizer) {
  return error_of([&] { testing::open_tokenizer(tokenizer, file); });
}

struct Damage {
  std::string pointer;  // JSON pointer to what is replaced
  std::string value;    // JSON
  std::string key;      // must appear in the message
};

const std::vector<Damage>& damages() {
  static const std::vector<Damage> all = {
      {"/added_tokens", "7", "added_tokens"},
      {"/added_tokens/0", "\"<s>\"", "added_tokens[0]"},
      {"/added_tokens/0/id", "-1", "id"},
      {"/added_tokens/0/id", "4294967296", "id"},
      {"/added_tokens/0/id", "18446744073709551615", "id"},
      {"/added_tokens/0/id", "4294967296", "id"},
      {"/added_tokens/0/id", "1.5", "id"},
      {"/added_tokens/0/id", "\"9\"", "id"},
      {"/added_tokens/0/content", "[]", "content"},
      {"/added_tokens/0/lstrip", "\"yes\"", "lstrip"},
      {"/normalizer", "[]", "normalizer"},
      {"/normalizer/type", "\"NFX\"", "normalizer.type"},
      {"/normalizer/type", "5", "normalizer.type"},
      {"/normalizer/normalizers", "{}", "normalizer.normalizers"},
      {"/normalizer/normalizers/0/type", "\"Precompiled\"", "normalizers[0]"},
      {"/pre_tokenizer/type", "\"UnicodeScripts\"", "pre_tokenizer.type"},
      {"/pre_tokenizer/pretokenizers/0/behavior", "\"Sideways\"", "behavior"},
      {"/pre_tokenizer/pretokenizers/0/pattern", "\"a\"", "pattern"},
      {"/pre_tokenizer/pretokenizers/0/pattern", "{\"Glob\": \"*\"}", "pattern"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "\"(\"", "pattern"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "3", "Regex"},
      {"/pre_tokenizer/pretokenizers/0/invert", "0", "invert"},
      {"/pre_tokenizer/pretokenizers/1/add_prefix_space", "\"no\"", "add_prefix_space"},
      {"/post_processor/type", "\"Decorate\"", "post_processor.type"},
      {"/post_processor/single", "[]", "single"},
      {"/post_processor/single", "\"$A\"", "single"},
      {"/post_processor/single/1/Sequence/id", "\"B\"", "single[1]"},
      {"/post_processor/single/1", "{\"SpecialToken\": {\"id\": \"nope\"}}", "nope"},
      {"/post_processor/special_tokens/<s>/ids", "[99]", "ids"},
      {"/post_processor/special_tokens/<s>/ids", "[-9]", "ids"},
      {"/post_processor/special_tokens/<s>/ids", "7", "ids"},
      {"/decoder/type", "\"CTC\"", "decoder.type"},
      {"/decoder/decoders/0/content", "1", "content"},
      {"/decoder/decoders/3/content", "\"  \"", "content"},
      {"/decoder/decoders/3/start", "-1", "start"},
      {"/decoder/decoders/3/stop", "1e30", "stop"},
      {"/model", "null", "model"},
      {"/model", "[]", "model"},
      {"/model/type", "\"Neural\"", "model.type"},
      {"/model/dropout", "0.1", "model.dropout"},
      {"/model/unk_token", "0", "model.unk_token"},
      {"/model/fuse_unk", "1", "model.fuse_unk"},
      {"/model/vocab", "[]", "model.vocab"},
      {"/model/vocab", "null", "model.vocab"},
      {"/model/vocab/a", "-1", "model.vocab[\"a\"]"},
      {"/model/vocab/a", "99999999999", "model.vocab[\"a\"]"},
      {"/model/vocab/a", "\"1\"", "model.vocab[\"a\"]"},
      {"/model/vocab/a", "2", "model.vocab"},
      {"/model/merges", "{}", "model.merges"},
      {"/model/merges/0", "\"ab\"", "model.merges[0]"},
      {"/model/merges/0", "\"a b c\"", "model.merges[0]"},
      {"/model/merges/0", "[\"a\"]", "model.merges[0]"},
      {"/model/merges/0", "[\"a\", 1]", "model.merges[0]"},
      {"/model/merges/0", "\"a z\"", "model.merges[0]"},
      {"/model/merges/0", "\"b a\"", "model.merges[0]"},
      {"/model/continuing_subword_prefix", "\"###\"", "model.merges[0]"},
  };
  return all;
}

TEST(TokenizerFile, TheValidOneOpens) {
  const ScratchFolder scratch;
  const Tokenizer tokenizer =
      testing::open_tokenizer(valid_tokenizer(), scratch / "tokenizer.json");
  EXPECT_EQ(tokenizer.encode("ab A<s>ba<n>z"), (std::vector<TokenId>{7, 3, 5, 4, 7, 2, 1, 8, 0}));
  EXPECT_EQ(tokenizer.vocabulary_size(), 9);
  EXPECT_NE(error_of([&] { tokenizer.id_to_token(9); }).find("[0, 9)"), std::string::npos);
  EXPECT_NE(error_of([&] { tokenizer.id_to_token(-1); }).find("[0, 9)"), std::string::npos);
}

TEST(TokenizerFile, EveryDamageIsNamed) {
  const ScratchFolder scratch;
  const fs::path file = scratch / "tokenizer.json";
  for (const Damage& damage : damages()) {
    SCOPED_TRACE(damage.pointer + " = " + damage.value);
    Json tokenizer = valid_tokenizer();
    tokenizer[Json::json_pointer(damage.pointer)] = Json::parse(damage.value);
    const std::string message = open_error(file, tokenizer);
    EXPECT_NE(message.find(file.string()), std::string::npos) << message;
    EXPECT_NE(message.find(damage.key), std::string::npos) << message;
  }
}

TEST(TokenizerFile, UnknownComponentsAreUnsupported) {
  const ScratchFolder scratch;
  for (const char* stage : {"normalizer", "pre_tokenizer", "post_processor", "decoder", "model"}) {
    Json tokenizer = valid_tokenizer();
    tokenizer[stage]["type"] = "Imaginary";
    try {
      testing::open_tokenizer(tokenizer, scratch / "tokenizer.json");
      FAIL() << stage;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
      EXPECT_NE(std::string(error.what()).find("Imaginary"), std::string::npos) << error.what();
    }
  }
}

TEST(TokenizerFile, MissingFilesAndKeys) {
  const ScratchFolder scratch;
  EXPECT_NE(error_of([&] { Tokenizer::open(scratch.path()); }).find("tokenizer.json"),
            std::string::npos);
  for (const char* pointer :
       {"/model", "/model/vocab", "/model/merges", "/model/type", "/normalizer/type"}) {
    Json tokenizer = valid_tokenizer();
    const Json::json_pointer place(pointer);
    tokenizer[place.parent_pointer()].erase(place.back());
    if (std::string_view(pointer) == "/model/type") {
      EXPECT_NO_THROW(
          testing::open_tokenizer(tokenizer, scratch / "tokenizer.json"));  // only BPE has merges
    } else {
      EXPECT_NE(open_error(scratch / "tokenizer.json", tokenizer).find(place.back()),
                std::string::npos);
    }
  }
}

TEST(TokenizerFile, DeepNestingIsRefused) {
  const ScratchFolder scratch;
  std::string text = R"({"model":{"type":"BPE","vocab":{},"merges":[]},"normalizer":)";
  std::string tail;
  for (int i = 0; i < 100'000; ++i) {
    text += R"({"type":"Sequence","normalizers":[)";
    tail += "]}";
  }
  testing::write_quickly(scratch / "tokenizer.json", text + R"({"type":"NFC"})" + tail + "}");
  EXPECT_NE(error_of([&] { Tokenizer::open(scratch.path()); }).find("tokenizer.json"),
            std::string::npos);
}

TEST(TokenizerFile, AHighIdCostsNothing) {
  const ScratchFolder scratch;
  Json tokenizer = valid_tokenizer();
  tokenizer["model"]["vocab"]["b"] = 16'777'215;
  const Tokenizer opened = testing::open_tokenizer(tokenizer, scratch / "tokenizer.json");
  EXPECT_EQ(opened.vocabulary_size(), 16'777'216);
  EXPECT_EQ(opened.id_to_token(16'777'215), "b");
  EXPECT_EQ(opened.encode("b", {.add_special_tokens = false}), std::vector<TokenId>{16'777'215});
}

TEST(TokenizerFile, AnUnknownTokenThatIsMissingFailsWhereItIsNeeded) {
  const ScratchFolder scratch;
  Json tokenizer = valid_tokenizer();
  tokenizer["model"]["unk_token"] = "<missing>";
  const Tokenizer opened = testing::open_tokenizer(tokenizer, scratch / "tokenizer.json");
  EXPECT_EQ(opened.encode("ab", {.add_special_tokens = false}), std::vector<TokenId>{3});
  EXPECT_NE(error_of([&] { opened.encode("z"); }).find("<missing>"), std::string::npos);
}

TEST(TokenizerFile, ACatastrophicExpressionFailsInBoundedTime) {
  const ScratchFolder scratch;
  Json tokenizer = valid_tokenizer();
  tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a|aa)+[xyz]";
  const Tokenizer opened = testing::open_tokenizer(tokenizer, scratch / "tokenizer.json");
  const std::string message = error_of([&] { opened.encode(std::string(10'000, 'a')); });
  EXPECT_NE(message.find("pretokenizers[0]"), std::string::npos) << message;
}

// Opens what may be damaged; whatever happens must be an Error or work.
void try_text(const std::string& text, const fs::path& file) {
  testing::write_quickly(file, text);
  try {
    const Tokenizer tokenizer = Tokenizer::open(file);
    const auto ids = tokenizer.encode(
        "It's <|im_start|>a test,\n  caf\xC3\xA9 123 \xF0\x9F\x9A\x80<|im_end|>\xFF");
    tokenizer.decode(ids);
    testing::decode_streaming(tokenizer, ids, true);
  } catch (const Error& error) {
    EXPECT_FALSE(std::string_view(error.what()).empty());
    EXPECT_NE(error.code(), ErrorCode::kInternal);
  }
}

TEST(TokenizerFile, TruncatedAnywhere) {
  const ScratchFolder scratch;
  const std::string text = valid_tokenizer().dump();
  for (std::size_t size = 0; size < text.size(); size += 3) {
    testing::write_quickly(scratch / "tokenizer.json", text.substr(0, size));
    EXPECT_NE(error_of([&] { Tokenizer::open(scratch.path()); }).find("tokenizer.json"),
              std::string::npos)
        << size;
  }
}

// Replaces, removes or repeats one value anywhere in the tree.
void mutate_tree(Json& root, std::mt19937& random) {
  Json* at = &root;
  while (at->is_structured() && !at->empty() && random() % 5 != 0) {
    auto it = at->begin();
    // Large vocabularies would take nearly all mutations; their first entries stand for the rest.
    std::advance(it, static_cast<std::ptrdiff_t>(random() % std::min<std::size_t>(at->size(), 16)));
    at = &*it;
  }
  static const std::vector<Json> kValues = {nullptr,
                                            true,
                                            -1,
                                            0,
                                            1,
                                            4095,
                                            1e300,
                                            "",
                                            "BPE",
                                            "Sequence",
                                            "(",
                                            "\\",
                                            "a b",
                                            "\u0120t",
                                            Json::array(),
                                            Json::object(),
                                            std::uint64_t{1} << 63,
                                            Json::array({"a", "b"}),
                                            std::string(300, 'a')};
  const Json copy = *at;
  switch (random() % 4) {
    case 0:
      *at = Json::array({copy, copy});
      break;
    case 1:
      *at = Json::object({{"type", "Sequence"}, {"decoders", Json::array({copy})}});
      break;
    default:
      *at = kValues[random() % kValues.size()];
      break;
  }
}

TEST(TokenizerFile, MutatedTreesNeverCrash) {
  const ScratchFolder scratch;
  std::mt19937 random(11);
  const Json valid = valid_tokenizer();
  const Json demo = read_json_file(testing::demo_dir() / "tokenizer.json");
  for (int i = 0; i < 1500; ++i) {
    Json tokenizer = i % 30 == 0 ? demo : valid;
    for (unsigned n = 1 + random() % 3; n > 0; --n) mutate_tree(tokenizer, random);
    SCOPED_TRACE(i);
    try_text(tokenizer.dump(-1, ' ', false, Json::error_handler_t::replace),
             scratch / "tokenizer.json");
  }
}

TEST(TokenizerFile, MutatedBytesNeverCrash) {
  const ScratchFolder scratch;
  std::mt19937 random(12);
  const std::string valid = valid_tokenizer().dump();
  const std::string demo = read_text_file(testing::demo_dir() / "tokenizer.json");
  for (int i = 0; i < 1500; ++i) {
    std::string text = i % 30 == 0 ? demo : valid;
    for (unsigned n = 1 + random() % 4; n > 0; --n) {
      const std::size_t at = random() % text.size();
      switch (random() % 4) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, 1 + random() % 8);
          break;
        case 2:
          text.insert(at, text.substr(random() % text.size(), random() % 24));
          break;
        default:
          text[at] = "\"{}[]:,0-\\"[random() % 10];
          break;
      }
      if (text.empty()) text = " ";
    }
    SCOPED_TRACE(i);
    try_text(text, scratch / "tokenizer.json");
  }
}

}  // namespace
}  // namespace tandem
