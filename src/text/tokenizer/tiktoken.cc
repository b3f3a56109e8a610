// Byte-level BPE whose tokens merge in the order of their ids.
#include <charconv>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "text/tokenizer/base64.h"
#include "text/tokenizer/byte_level.h"
#include "text/tokenizer/foreign_tokenizers.h"
#include "text/tokenizer/tokenizer_config.h"
#include "text/tokenizer/tokenizer_json.h"
#include "text/tokenizer/tokenizer_parts.h"

namespace tandem {
namespace {

// Sizes that identify the vocabularies in use: the files name neither their special tokens nor how
// text is split into words.
constexpr std::size_t kLlama3Tokens = 128'000;
constexpr std::size_t kQwenTokens = 151'643;
// Vocabularies in use have no gaps between ids; a file may omit a few.
constexpr std::size_t kMaxGaps = 1 << 16;

struct Ranks {
  // {token in the byte-level alphabet: rank}.
  Json vocabulary = Json::object();
  // Indexed by rank.
  std::vector<bool> used;
};

Ranks read_ranks(std::string_view bytes, const std::string& file) {
  Ranks ranks;
  std::size_t line_number = 0;
  while (!bytes.empty()) {
    const std::size_t end = std::min(bytes.find('\n'), bytes.size());
    std::string_view line = bytes.substr(0, end);
    bytes.remove_prefix(std::min(end + 1, bytes.size()));
    ++line_number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    const std::size_t space = std::min(line.find(' '), line.size());
    const std::string_view number = line.substr(std::min(space + 1, line.size()));
    const auto token = decode_base64(line.substr(0, space));
    std::uint32_t rank = 0;
    const auto parsed = std::from_chars(number.data(), number.data() + number.size(), rank);
    if (!token || token->empty() || parsed.ec != std::errc() ||
        parsed.ptr != number.data() + number.size() || rank > kMaxTokenId) {
      fail(ErrorCode::kFormat,
           "[tokenizer] {}:{}: expected a token in base64, a space and its rank", file,
           line_number);
    }
    if (rank >= 2 * line_number + kMaxGaps) {
      fail(ErrorCode::kFormat, "[tokenizer] {}:{}: rank {} is far beyond the number of lines", file,
           line_number, rank);
    }
    std::string text;
    append_byte_level(*token, text);
    if (rank >= ranks.used.size()) ranks.used.resize(rank + 1);
    if (ranks.used[rank] || !ranks.vocabulary.emplace(std::move(text), rank).second) {
      fail(ErrorCode::kFormat, "[tokenizer] {}:{}: this token or rank {} is there already", file,
           line_number, rank);
    }
    ranks.used[rank] = true;
  }
  return ranks;
}

// Numbers `contents` starting at `first`.
void append_tokens(const std::vector<std::string>& contents, TokenId first,
                   std::map<TokenId, Json>& added) {
  for (const std::string& content : contents) {
    added[first] = added_token(first, content, true);
    ++first;
  }
}

std::vector<std::string> llama3_tokens() {
  std::vector<std::string> tokens = {"<|begin_of_text|>", "<|end_of_text|>"};
  int reserved = 0;
  const auto reserve_until = [&](std::size_t count) {
    while (tokens.size() < count) {
      tokens.push_back(fmt::format("<|reserved_special_token_{}|>", reserved++));
    }
  };
  reserve_until(6);
  tokens.insert(tokens.end(), {"<|start_header_id|>", "<|end_header_id|>"});
  reserve_until(9);
  tokens.emplace_back("<|eot_id|>");
  reserve_until(256);
  return tokens;
}

std::vector<std::string> qwen_tokens() {
  std::vector<std::string> tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  for (int i = 0; i < 205; ++i) tokens.push_back(fmt::format("<|extra_{}|>", i));
  return tokens;
}

}  // namespace

Json read_tiktoken(const fs::path& file, std::string_view bytes) {
  Ranks ranks = read_ranks(bytes, file.string());
  const TokenizerConfig config = TokenizerConfig::beside(file);
  const std::size_t count = ranks.vocabulary.size();
  const bool is_qwen = count == kQwenTokens || config.tokenizer_class.starts_with("Q");
  std::map<TokenId, Json> added;
  if (!config.added_tokens.empty()) {
    merge_added_tokens(config, added, ranks.vocabulary);
  } else if (count == kLlama3Tokens) {
    append_tokens(llama3_tokens(), static_cast<TokenId>(count), added);
  } else if (count == kQwenTokens) {
    append_tokens(qwen_tokens(), static_cast<TokenId>(count), added);
  }

  Json json;
  Json token_ranks = Json::array();
  for (std::size_t rank = 0; rank < ranks.used.size(); ++rank) {
    token_ranks.push_back(ranks.used[rank] ? Json(rank) : Json());
  }
  json["model"] = {{"type", "BPE"},
                   {"vocab", std::move(ranks.vocabulary)},
                   {"token_ranks", std::move(token_ranks)},
                   {"ignore_merges", true}};
  set_byte_level(json, {is_qwen ? kQwen2Expression : kLlama3Expression});
  if (is_qwen) json["normalizer"] = {{"type", "NFC"}};
  set_added_tokens(json, added);
  std::vector<std::string> before;
  std::vector<std::string> behind;
  if (config.add_bos_token.value_or(!is_qwen)) {
    before = {config.bos_token.value_or("<|begin_of_text|>")};
  }
  if (config.add_eos_token.value_or(false)) behind = {config.eos_token.value_or("")};
  set_around(json, added, before, behind);
  return json;
}

}  // namespace tandem
