// GPT-2's pair of files and mllm's, which store the tokens differently.
#include "text/tokenizer/merges_file.h"

#include <cstring>
#include <map>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "base/error.h"
#include "text/tokenizer/byte_level.h"
#include "text/tokenizer/foreign_tokenizers.h"
#include "text/tokenizer/tokenizer_config.h"
#include "text/tokenizer/tokenizer_json.h"
#include "text/tokenizer/tokenizer_parts.h"
#include "text/tokenizer/unicode.h"

namespace tandem {
namespace {

bool looks_special(std::string_view token) {
  return token.size() > 4 && token.starts_with("<|") && token.ends_with("|>");
}

std::uint32_t read_u32(std::string_view bytes, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = 4; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
  return value;
}

}  // namespace

fs::path find_merges(const fs::path& vocabulary, std::string_view suffix) {
  std::string name = vocabulary.filename().string();
  if (name.ends_with(suffix)) name.resize(name.size() - suffix.size());
  const fs::path merges = vocabulary.parent_path() / (name + "merges.txt");
  std::error_code ignored;
  if (fs::exists(merges, ignored)) return merges;
  if (fs::exists(vocabulary.parent_path() / "merges.txt", ignored)) {
    return vocabulary.parent_path() / "merges.txt";
  }
  fail(ErrorCode::kNotFound, "[tokenizer] {}: expected the merges beside it, in {}",
       vocabulary.string(), merges.string());
}

Json read_merges_file(const fs::path& file) {
  constexpr std::size_t kMaxBytes = std::size_t{256} << 20;
  const std::string text = read_text_file(file, kMaxBytes);
  if (!is_valid_utf8(text)) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: expected text in UTF-8", file.string());
  }
  Json merges = Json::array();
  std::string_view rest = text;
  while (!rest.empty()) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty() && !line.starts_with("#version")) merges.push_back(line);
  }
  return merges;
}

Json byte_level_tokenizer(const fs::path& file, Json vocabulary, Json merges, bool qwen) {
  const TokenizerConfig config = TokenizerConfig::beside(file);
  std::map<TokenId, Json> added;
  merge_added_tokens(config, added, vocabulary);
  const auto add = [&](const std::string& content) {
    const auto it = vocabulary.find(content);
    if (it == vocabulary.end() || find_added(added, content)) return;
    const TokenId id = expect_token_id(*it, file.string());
    added[id] = added_token(id, content, true);
  };
  if (added.empty()) {
    for (const auto& [token, id] : vocabulary.items())
      if (looks_special(token)) add(token);
  }
  for (const auto& token : {config.bos_token, config.eos_token})
    if (token) add(*token);

  Json json;
  qwen =
      qwen || config.tokenizer_class.starts_with("Qwen") || config.model_type.starts_with("qwen");
  set_byte_level(json, {qwen ? kQwen2Expression : kGpt2Expression});
  if (qwen) json["normalizer"] = {{"type", "NFC"}};
  if (config.add_prefix_space.value_or(false)) {
    json["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", true}};
  }
  json["model"] = {
      {"type", "BPE"}, {"vocab", std::move(vocabulary)}, {"merges", std::move(merges)}};
  set_added_tokens(json, added);
  std::vector<std::string> before;
  std::vector<std::string> behind;
  if (config.add_bos_token.value_or(false)) before = {config.bos_token.value_or("")};
  if (config.add_eos_token.value_or(false)) behind = {config.eos_token.value_or("")};
  set_around(json, added, before, behind);
  return json;
}

Json read_vocabulary_with_merges(const fs::path& file, Json vocabulary, const fs::path& merges) {
  const fs::path& found = merges.empty() ? find_merges(file, "vocab.json") : merges;
  return byte_level_tokenizer(file, std::move(vocabulary), read_merges_file(found), false);
}

// Little-endian: the magic number and the number of tokens, then for each token its id, length,
// bytes and score. mllm splits text into words as Qwen2 does.
Json read_mllm_vocabulary(const fs::path& file, std::string_view bytes, const fs::path& merges) {
  const std::string name = file.string();
  std::size_t at = 4;
  const auto number = [&] {
    if (bytes.size() - at < 4) {
      fail(ErrorCode::kFormat, "[tokenizer] {}: expected 4 bytes at byte {}, the file ends at {}",
           name, at, bytes.size());
    }
    at += 4;
    return read_u32(bytes, at - 4);
  };
  const std::uint32_t count = number();
  Json vocabulary = Json::object();
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t id = number();
    const std::uint32_t length = number();
    if (length > bytes.size() - at || id > kMaxTokenId) {
      fail(ErrorCode::kFormat,
           "[tokenizer] {}: token {} of {}: id {} and {} bytes at byte {}, the file ends at {}",
           name, i, count, id, length, at, bytes.size());
    }
    const std::string_view token = bytes.substr(at, length);
    at += length;
    number();  // the score, which byte-level BPE has no use for
    if (!is_valid_utf8(token) || !vocabulary.emplace(token, id).second) {
      fail(ErrorCode::kFormat,
           "[tokenizer] {}: token {} with id {}: expected UTF-8, and no token twice", name, i, id);
    }
  }
  const fs::path& found = merges.empty() ? find_merges(file, "vocab.mllm") : merges;
  return byte_level_tokenizer(file, std::move(vocabulary), read_merges_file(found), true);
}

}  // namespace tandem
