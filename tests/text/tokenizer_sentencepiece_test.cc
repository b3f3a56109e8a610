// Small trained SentencePiece models, against the ids of that library and of the Hugging Face
// library's converted models.
#include <gtest/gtest.h>

#include <functional>

#include "text/tokenizer/tokenizer_files.h"
#include "text/tokenizer_fixture.h"

namespace tandem {
namespace {

using testing::fixture;
using testing::hash32_of;
using testing::ScratchFolder;

constexpr std::size_t kHashDigits = 8;

fs::path model_file(const std::string& name) {
  return fixture("text/fixtures/sentencepiece/" + name);
}

const Json& reference() {
  static const Json json = testing::text_fixture("tokenizer_sentencepiece.json");
  return json;
}

const Json& entry_of(const std::string& name) {
  for (const Json& entry : reference().at("models"))
    if (entry.at("name").get<std::string>() == name) return entry;
  throw std::runtime_error("no model " + name);
}

void expect_hashes(const Tokenizer& tokenizer, const std::string& hashes,
                   const EncodeOptions& options) {
  const Json& texts = reference().at("texts");
  ASSERT_EQ(hashes.size(), texts.size() * kHashDigits);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(hash32_of(tokenizer.encode(texts[i].get<std::string>(), options)),
              hashes.substr(i * kHashDigits, kHashDigits))
        << i << ": " << texts[i].dump();
  }
}

TEST(TokenizerSentencePiece, EveryModelHasTheLibrarysIds) {
  ASSERT_GE(reference().at("models").size(), 8u);
  for (const Json& entry : reference().at("models")) {
    const auto name = entry.at("name").get<std::string>();
    SCOPED_TRACE(name);
    expect_hashes(Tokenizer::open(model_file(name + ".model")),
                  entry.at("hashes").get<std::string>(), {.add_special_tokens = false});
  }
}

TEST(TokenizerSentencePiece, BytesMakeItLossless) {
  const Tokenizer tokenizer = Tokenizer::open(model_file("bpe.model"));
  for (const Json& json : reference().at("texts")) {
    const auto text = json.get<std::string>();
    if (text.find("\xE2\x96\x81") != std::string::npos) continue;  // is a space to the model
    const auto ids = tokenizer.encode(text, {.add_special_tokens = false});
    EXPECT_EQ(tokenizer.decode(ids), text);
    EXPECT_EQ(testing::decode_streaming(tokenizer, ids, false), text);
  }
}

TEST(TokenizerSentencePiece, LlamasConventions) {
  const Json& entry = entry_of("bpe");
  const ScratchFolder scratch;
  fs::copy_file(model_file("bpe.model"), scratch / "tokenizer.model");
  expect_hashes(Tokenizer::open(scratch.path()), entry.at("llama").get<std::string>(),
                {.add_special_tokens = false});
  testing::write_quickly(scratch / "tokenizer_config.json",
                         R"({"tokenizer_class": "LlamaTokenizer", "legacy": false})");
  expect_hashes(Tokenizer::open(scratch.path()), entry.at("llama_not_legacy").get<std::string>(),
                {.add_special_tokens = false});
}

TEST(TokenizerSentencePiece, WhatStandsAroundATextIsInTheSettings) {
  const ScratchFolder scratch;
  fs::copy_file(model_file("bpe.model"), scratch / "tokenizer.model");
  const auto encode = [&](const char* settings) {
    testing::write_quickly(scratch / "tokenizer_config.json", settings);
    return Tokenizer::open(scratch / "tokenizer.model").encode("a");
  };
  const auto text = encode(R"({"add_bos_token": false})");
  ASSERT_EQ(text.size(), 1u);
  const TokenId a = text[0];
  EXPECT_EQ(encode("{}"), (std::vector<TokenId>{1, a}));
  EXPECT_EQ(encode(R"({"add_eos_token": true})"), (std::vector<TokenId>{1, a, 2}));
  EXPECT_EQ(encode(R"({"bos_token": {"content": "</s>"}})"), (std::vector<TokenId>{2, a}));
  EXPECT_EQ(encode(R"({"added_tokens_decoder": {"700": {"content": "<|x|>", "special": true}},
                       "eos_token": "<|x|>", "add_eos_token": true, "add_bos_token": null})"),
            (std::vector<TokenId>{1, a, 700}));
  fs::remove(scratch / "tokenizer_config.json");
  EXPECT_EQ(Tokenizer::open(scratch.path()).encode("a"), (std::vector<TokenId>{1, a}));
}

TEST(TokenizerSentencePiece, ControlTokensAreFoundInTextUnlessItIsPlain) {
  const Tokenizer tokenizer = Tokenizer::open(model_file("bpe_symbols.model"));
  const TokenId control = tokenizer.token_to_id("<ctl>").value();
  const auto ids = tokenizer.encode("a<ctl>b", {.add_special_tokens = false});
  EXPECT_EQ(std::count(ids.begin(), ids.end(), control), 1);
  const auto plain =
      tokenizer.encode("a<ctl>b", {.add_special_tokens = false, .parse_special_tokens = false});
  EXPECT_EQ(std::count(plain.begin(), plain.end(), control), 0);
  EXPECT_EQ(tokenizer.decode(plain), "a<ctl>b");
}

TEST(TokenizerSentencePiece, ChatGlmNumbersItsTokensBehindThePieces) {
  const ScratchFolder scratch;
  fs::copy_file(model_file("bpe.model"), scratch / "tokenizer.model");
  testing::write_quickly(scratch / "config.json", R"({"model_type": "chatglm"})");
  const Tokenizer tokenizer = Tokenizer::open(scratch.path());
  EXPECT_EQ(tokenizer.vocabulary_size(), 709);
  EXPECT_EQ(tokenizer.token_to_id("[gMASK]"), 701);
  EXPECT_EQ(tokenizer.token_to_id("<|user|>"), 706);
  const auto ids = tokenizer.encode("<|user|>\n hi<|assistant|>");
  EXPECT_EQ((std::vector<TokenId>{ids[0], ids[1], ids[2], ids.back()}),
            (std::vector<TokenId>{701, 703, 706, 707}));
  EXPECT_EQ(tokenizer.encode("[gMASK]sop<|user|>", {.add_special_tokens = false}),
            (std::vector<TokenId>{701, 703, 706}));
  const auto word = tokenizer.encode("philosophy", {.add_special_tokens = false});
  EXPECT_EQ(std::count(word.begin(), word.end(), 703), 0);
}

// The table of a real model, by way of the components that T5 and its kin have in tokenizer.json.
TEST(TokenizerSentencePiece, PrecompiledIsWhatHuggingFaceMakesOfIt) {
  const ScratchFolder scratch;
  const Json model = read_tokenizer(model_file("unigram_nmt_nfkc.model"));
  const std::string mark = "\xE2\x96\x81";
  Json json;
  json["model"] = {{"type", "Unigram"}, {"unk_id", 0}, {"vocab", model.at("model").at("vocab")}};
  json["normalizer"] = {
      {"type", "Sequence"},
      {"normalizers",
       {{{"type", "Precompiled"},
         {"precompiled_charsmap", model.at("normalizer").at("precompiled_charsmap")}},
        {{"type", "Strip"}, {"strip_left", false}, {"strip_right", true}},
        {{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", mark}}}}};
  json["pre_tokenizer"] = {
      {"type", "Metaspace"}, {"replacement", mark}, {"prepend_scheme", "always"}};
  json["decoder"] = json["pre_tokenizer"];
  expect_hashes(testing::open_tokenizer(json, scratch / "tokenizer.json"),
                entry_of("unigram_nmt_nfkc").at("t5").get<std::string>(),
                {.add_special_tokens = false});
}

TEST(TokenizerGguf, SentencePiecesVocabularyGivesTheSameIds) {
  const Tokenizer gguf = Tokenizer::open(model_file("bpe.gguf"));
  expect_hashes(gguf, entry_of("bpe").at("hashes").get<std::string>(),
                {.add_special_tokens = false});
  const Tokenizer model = Tokenizer::open(model_file("bpe.model"));
  auto expected = model.encode("a");
  expected.push_back(2);
  EXPECT_EQ(gguf.encode("a"), expected);  // the file asks for an end
}

TEST(TokenizerGguf, ByteLevelBpeAndItsTokenTypes) {
  const Tokenizer tokenizer = Tokenizer::open(model_file("byte_level.gguf"));
  const std::int64_t size = tokenizer.vocabulary_size();
  const auto end = static_cast<TokenId>(size - 2);
  EXPECT_EQ(tokenizer.id_to_token(end), "<|end|>");
  EXPECT_TRUE(tokenizer.is_special(end));
  EXPECT_FALSE(tokenizer.is_special(end + 1));
  const TokenId hello = tokenizer.token_to_id("hello").value();
  const TokenId spaced = tokenizer.token_to_id("\xC4\xA0hello").value();
  // "llama-bpe" begins texts, here with the token that the file names.
  EXPECT_EQ(tokenizer.encode("hello hello<tool><|end|>"),
            (std::vector<TokenId>{end, hello, spaced, end + 1, end}));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(" hello\xC3\xA9", {.add_special_tokens = false})),
            " hello\xC3\xA9");
}

// The file with another value of "tokenizer.ggml.pre", a string with 64 bits of length before it.
std::string with_way(const std::string& file, const std::string& way) {
  const std::string key = "tokenizer.ggml.pre";
  const std::size_t at = file.find(key) + key.size() + 4;
  std::string length(8, '\0');
  length[0] = static_cast<char>(way.size());
  const std::string before = file.substr(0, at);
  const auto old = static_cast<std::size_t>(static_cast<unsigned char>(file[at]));
  return before + length + way + file.substr(at + 8 + old);
}

TEST(TokenizerGguf, CutsTextInWordsAsLlamaCppDoes) {
  const ScratchFolder scratch;
  const std::string file = read_text_file(model_file("ways.gguf"));
  const Json fixture = testing::text_fixture("tokenizer_ways.json");
  ASSERT_GE(fixture.at("ways").size(), 11u);
  for (const auto& [way, json] : fixture.at("ways").items()) {
    SCOPED_TRACE(way);
    testing::write_quickly(scratch / "m.gguf", with_way(file, way));
    const Tokenizer tokenizer = Tokenizer::open(scratch / "m.gguf");
    const auto hashes = json.get<std::string>();
    std::size_t at = 0;
    for (const Json& text : fixture.at("texts")) {
      EXPECT_EQ(hash32_of(tokenizer.encode(text.get<std::string>())),
                hashes.substr(at, kHashDigits))
          << text.dump();
      at += kHashDigits;
    }
  }
  testing::write_quickly(scratch / "m.gguf", with_way(file, "no-such-way"));
  EXPECT_NE(testing::error_of([&] { Tokenizer::open(scratch / "m.gguf"); }).find("no-such-way"),
            std::string::npos);
}

TEST(TokenizerGguf, AFolderWithOneOrItsFirstShard) {
  const ScratchFolder scratch;
  fs::copy_file(model_file("bpe.gguf"), scratch / "m-00001-of-00002.gguf");
  testing::write_quickly(scratch / "m-00002-of-00002.gguf", "GGUF");
  EXPECT_EQ(Tokenizer::open(scratch.path()).token_to_id("<s>"), 1);
  fs::copy_file(model_file("bpe.gguf"), scratch / "other.gguf");
  EXPECT_NE(testing::error_of([&] { Tokenizer::open(scratch.path()); }).find("other.gguf"),
            std::string::npos);
}

}  // namespace
}  // namespace tandem
