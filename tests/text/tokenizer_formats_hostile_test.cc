// Damaged and hostile files in formats other than tokenizer.json: one error that names the file, no
// crash and no large allocation.
#include <gtest/gtest.h>

#include <random>

#include "text/tokenizer_fixture.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::ScratchFolder;
using testing::write_quickly;

std::string model_bytes(const std::string& name) {
  return read_text_file(testing::fixture("text/fixtures/sentencepiece/" + name));
}

// Three tokens and what merges them, as mllm stores them.
std::string mllm_bytes() {
  const auto number = [](std::uint32_t value) {
    std::string bytes;
    for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(value >> shift));
    return bytes;
  };
  std::string bytes = number(23333) + number(4);
  std::uint32_t id = 0;
  for (const std::string token : {"a", "b", "ab", "<|x|>"}) {
    bytes += number(id++) + number(static_cast<std::uint32_t>(token.size())) + token + number(0);
  }
  return bytes;
}

constexpr std::string_view kTiktoken = "YQ== 0\nYg== 1\nYWI= 2\n";

// Opens what may be damaged; whatever happens must be an Error that names the file, or work.
void try_file(const fs::path& file, const std::string& bytes) {
  write_quickly(file, bytes);
  try {
    const Tokenizer tokenizer = Tokenizer::open(file);
    const auto ids = tokenizer.encode("It's a <sep>test, abab \xE2\x91\xA0x caf\xC3\xA9\n <s>\xFF");
    tokenizer.decode(ids);
    testing::decode_streaming(tokenizer, ids, true);
  } catch (const Error& error) {
    EXPECT_NE(std::string_view(error.what()).find(file.string()), std::string_view::npos)
        << error.what();
    EXPECT_NE(error.code(), ErrorCode::kInternal);
  }
}

void mutate(std::string& bytes, std::mt19937& random) {
  const std::size_t at = random() % bytes.size();
  switch (random() % 5) {
    case 0:
      bytes[at] = static_cast<char>(random());
      break;
    case 1:
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
      break;
    case 2:
      bytes.erase(at, 1 + random() % 8);
      break;
    case 3:
      bytes.insert(at, bytes.substr(random() % bytes.size(), random() % 24));
      break;
    default:
      bytes[at] = static_cast<char>(0xFF);
      break;
  }
  if (bytes.empty()) bytes = " ";
}

// Separate merges belong to a plain vocabulary only.
TEST(TokenizerFormats, RefuseMergesWhereAFileHasItsOwn) {
  const ScratchFolder scratch;
  const fs::path merges = scratch / "merges.txt";
  write_quickly(merges, "#version: 0.2\na b\n");
  write_quickly(scratch / "x.tiktoken", std::string(kTiktoken));
  write_quickly(scratch / "m.model", model_bytes("unigram_nmt_nfkc.model"));
  for (const char* name : {"x.tiktoken", "m.model"})
    EXPECT_EQ(error_of([&] { Tokenizer::open(scratch / name, silent(), merges); }),
              "[tokenizer] " + (scratch / name).string() + ": holds its merges: expected " +
                  merges.string() + " with a vocab.json or *vocab.mllm");
}

TEST(TokenizerFormats, SmallOnesWork) {
  const ScratchFolder scratch;
  write_quickly(scratch / "merges.txt", "#version: 0.2\na b\n\n");
  write_quickly(scratch / "vocab.mllm", mllm_bytes());
  EXPECT_EQ(Tokenizer::open(scratch.path()).encode("abb<|x|>"), (std::vector<TokenId>{2, 1, 3}));
  write_quickly(scratch / "x.tiktoken", std::string(kTiktoken));
  EXPECT_EQ(Tokenizer::open(scratch.path()).encode("abb"), (std::vector<TokenId>{2, 1}));
  write_quickly(scratch / "vocab.json", R"({"a": 0, "b": 1, "ab": 5, "<|x|>": 7})");
  EXPECT_EQ(Tokenizer::open(scratch.path()).encode("abb<|x|>"), (std::vector<TokenId>{5, 1, 7}));
  // By content, not by name.
  write_quickly(scratch / "tokenizer.model", std::string(kTiktoken));
  EXPECT_EQ(Tokenizer::open(scratch.path()).encode("abb"), (std::vector<TokenId>{2, 1}));
  write_quickly(scratch / "tokenizer.model", model_bytes("bpe.model"));
  EXPECT_EQ(Tokenizer::open(scratch.path()).vocabulary_size(), 700);
}

TEST(TokenizerFormats, UnknownContentIsNamed) {
  const ScratchFolder scratch;
  for (const std::string bytes : {"", "\n", "what is this", "\x89PNG\r\n", "YQ==\n", "aGk 1x\n"}) {
    write_quickly(scratch / "tokenizer.model", bytes);
    EXPECT_NE(error_of([&] { Tokenizer::open(scratch.path()); }).find("tokenizer.model"),
              std::string::npos);
  }
  EXPECT_NE(error_of([&] { Tokenizer::open(scratch / "missing"); }).find("missing"),
            std::string::npos);
}

TEST(TokenizerFormats, MergesThatAreMissingAreNamed) {
  const ScratchFolder scratch;
  write_quickly(scratch / "vocab.json", R"({"a": 0})");
  EXPECT_NE(error_of([&] { Tokenizer::open(scratch.path()); }).find("merges.txt"),
            std::string::npos);
  write_quickly(scratch / "merges.txt", "a \xFF\n");
  EXPECT_NE(error_of([&] { Tokenizer::open(scratch.path()); }).find("UTF-8"), std::string::npos);
  write_quickly(scratch / "merges.txt", "a z\n");
  EXPECT_NE(error_of([&] { Tokenizer::open(scratch.path()); }).find("merges[0]"),
            std::string::npos);
}

TEST(TokenizerFormats, EveryDamageToTiktokenIsNamed) {
  const ScratchFolder scratch;
  const fs::path file = scratch / "tokenizer.model";
  for (const auto& [lines, place] : std::vector<std::pair<std::string, std::string>>{
           {"YQ== 0\nYQ== 1\n", ":2"},
           {"YQ== 0\nYg== 0\n", ":2"},
           {"YQ== 0\nYg==\n", ":2"},
           {"YQ== 0\nY!== 1\n", ":2"},
           {"YQ== 0\n 1\n", ":2"},
           {"YQ== 0\nYg== -1\n", ":2"},
           {"YQ== 0\nYg== 99999999\n", ":2"},
           {"YQ== 0\nYg== 16000000\n", ":2"},
           {"YQ== 0\nYg== 18446744073709551616\n", ":2"},
           {"YQ== 0\n" + std::string(1400, 'A') + " 1\n", "token_ranks[1]"}}) {
    write_quickly(file, lines);
    const std::string message = error_of([&] { Tokenizer::open(file); });
    EXPECT_NE(message.find(file.string()), std::string::npos) << message;
    EXPECT_NE(message.find(place), std::string::npos) << message;
  }
}

TEST(TokenizerFormats, EveryDamageToMllmsVocabularyIsNamed) {
  const ScratchFolder scratch;
  const fs::path file = scratch / "vocab.mllm";
  write_quickly(scratch / "merges.txt", "a b\n");
  const std::string valid = mllm_bytes();
  for (std::size_t size = 4; size < valid.size(); ++size) {
    write_quickly(file, valid.substr(0, size));
    EXPECT_NE(error_of([&] { Tokenizer::open(file); }).find("vocab.mllm"), std::string::npos);
  }
  for (const std::size_t place : {7u, 11u, 15u}) {  // the count, an id, a length
    std::string damaged = valid;
    damaged[place] = '\x7F';
    write_quickly(file, damaged);
    EXPECT_NE(error_of([&] { Tokenizer::open(file); }).find("vocab.mllm"), std::string::npos);
  }
}

TEST(TokenizerFormats, TruncatedSentencePieceModels) {
  const ScratchFolder scratch;
  const std::string valid = model_bytes("unigram_suffix.model");
  for (std::size_t size = 0; size < valid.size(); size += 7) {
    try_file(scratch / "tokenizer.model", valid.substr(0, size));
  }
}

TEST(TokenizerFormats, HostileMessagesAreRefused) {
  const ScratchFolder scratch;
  const fs::path file = scratch / "tokenizer.model";
  const std::string valid = model_bytes("bpe.model");
  for (const std::string& tail :
       {std::string("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F", 10),          // a length beyond all
        std::string("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", 12),  // 77 bits
        std::string("\x0A\x02\x0A\x05", 4),                                   // beyond its message
        std::string("\x0B\x00", 2),                                           // a group
        std::string("\x00\x00", 2),                                           // field 0
        std::string("\x0A\x02\x0A\x00", 4),                                   // an empty piece
        std::string("\x0A\x05\x0A\x03<s>", 7),                                // there already
        std::string("\x0A\x03\x0A\x01\xFF", 5),                               // not UTF-8
        std::string("\x0A\x05\x0A\x01~\x18\x09", 7),                          // type 9
        std::string("\x0A\x08\x0A\x01~\x15\x00\x00\xC0\x7F", 10),             // not a number
        std::string("\x12\x02\x18\x04", 4),                                   // single characters
        std::string("\x1A\x06\x12\x04\xFF\xFF\xFF\xFF", 8)}) {  // a table beyond its bytes
    write_quickly(file, valid + tail);
    const std::string message = error_of([&] { Tokenizer::open(file); });
    EXPECT_NE(message.find(file.string()), std::string::npos) << message;
  }
}

TEST(TokenizerFormats, AnyBytesAsATableOfReplacements) {
  const ScratchFolder scratch;
  std::mt19937 random(5);
  const std::string valid = model_bytes("bpe_rules.model");
  const std::size_t table = valid.rfind("\x12");
  for (int i = 0; i < 2000; ++i) {
    std::string bytes = valid;
    // Most changes fall in the double array, near the end of the file.
    for (unsigned n = 1 + random() % 40; n > 0; --n) {
      bytes[bytes.size() - 1 - random() % std::min<std::size_t>(bytes.size(), 1500)] =
          static_cast<char>(random());
    }
    SCOPED_TRACE(i);
    try_file(scratch / "tokenizer.model", bytes);
  }
  EXPECT_NE(table, std::string::npos);
}

TEST(TokenizerFormats, MutatedFilesNeverCrash) {
  const ScratchFolder scratch;
  write_quickly(scratch / "merges.txt", "a b\n");
  std::mt19937 random(13);
  const std::vector<std::pair<std::string, std::string>> files = {
      {"tokenizer.model", model_bytes("bpe_symbols.model")},
      {"tokenizer.model", model_bytes("unigram_symbols.model")},
      {"tokenizer.model", std::string(kTiktoken)},
      {"vocab.mllm", mllm_bytes()},
      {"vocab.json", R"({"a": 0, "b": 1, "ab": 2})"},
      {"model.gguf", model_bytes("byte_level.gguf")},
      {"model.gguf", model_bytes("bpe.gguf")}};
  for (const auto& [name, valid] : files) {
    for (int i = 0; i < 400; ++i) {
      std::string bytes = valid;
      for (unsigned n = 1 + random() % 4; n > 0; --n) mutate(bytes, random);
      SCOPED_TRACE(name + " " + std::to_string(i));
      try_file(scratch / name, bytes);
    }
  }
}

TEST(TokenizerFormats, DamagedSettingsAreNamed) {
  const ScratchFolder scratch;
  write_quickly(scratch / "tokenizer.model", std::string(kTiktoken));
  for (const auto& [settings, key] : std::vector<std::pair<std::string, std::string>>{
           {"[]", "tokenizer_config.json"},
           {"{", "tokenizer_config.json"},
           {R"({"add_bos_token": 1})", "add_bos_token"},
           {R"({"bos_token": 1})", "bos_token"},
           {R"({"bos_token": {"content": 1}})", "bos_token.content"},
           {R"({"added_tokens_decoder": []})", "added_tokens_decoder"},
           {R"({"added_tokens_decoder": {"x": {}}})", "added_tokens_decoder.x"},
           {R"({"added_tokens_decoder": {"99999999999999999999": {}}})", "9999"},
           {R"({"added_tokens_decoder": {"-1": {"content": "a"}}})", "-1"},
           {R"({"added_tokens_decoder": {"3": 5}})", "3"},
           {R"({"added_tokens_decoder": {"3": {}}})", "content"},
           {R"({"added_tokens_decoder": {"3": {"content": 7}}})", "content"}}) {
    write_quickly(scratch / "tokenizer_config.json", settings);
    const std::string message = error_of([&] { Tokenizer::open(scratch.path()); });
    EXPECT_NE(message.find(scratch.path().string()), std::string::npos) << message;
    EXPECT_NE(message.find(key), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace tandem
