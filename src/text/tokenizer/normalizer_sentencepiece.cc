// Replaces the table's longest match at each character (SentencePiece) or grapheme cluster by
// cluster (Hugging Face); the two differ on combining marks.
#include "text/tokenizer/normalizer_sentencepiece.h"

#include <utf8proc.h>

#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "text/tokenizer/base64.h"
#include "text/tokenizer/byte_trie.h"
#include "text/tokenizer/character_map.h"
#include "text/tokenizer/tokenizer_json.h"
#include "text/tokenizer/unicode.h"

namespace tandem {
namespace {

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581

// The maximum steps of a search per character.
constexpr std::size_t kMaxSymbolBytes = 4096;

CharacterMap read_map(const JsonObject& config) {
  constexpr std::string_view kKey = "precompiled_charsmap";
  if (!config.has(kKey)) return {};
  const std::string place = key_place(config, kKey);
  const auto bytes = decode_base64(expect_string(config.at(kKey), place));
  if (!bytes) fail(ErrorCode::kFormat, "[tokenizer] {}: expected base64", place);
  return CharacterMap(*bytes, place);
}

bool is_ascii(char c) { return static_cast<unsigned char>(c) < 0x80; }

// The end of the grapheme cluster that begins at text[at].
std::size_t cluster_end(std::string_view text, std::size_t at) {
  if (at + 1 < text.size() && is_ascii(text[at]) && is_ascii(text[at + 1]) && text[at] != '\r') {
    return at + 1;
  }
  utf8proc_int32_t state = 0;
  auto code = static_cast<utf8proc_int32_t>(next_character(text, at));
  while (at < text.size()) {
    std::size_t next = at;
    const auto following = static_cast<utf8proc_int32_t>(next_character(text, next));
    if (utf8proc_grapheme_break_stateful(code, following, &state)) break;
    code = following;
    at = next;
  }
  return at;
}

class PrecompiledNormalizer : public Normalizer {
 public:
  explicit PrecompiledNormalizer(const JsonObject& config) : map_(read_map(config)) {
    config.at("precompiled_charsmap");  // must be there
  }

  // The reference looks up whole clusters of under 6 bytes, and replaces a cluster by the first
  // match that is a prefix of it; then it looks up single characters.
  void apply(std::string& text) const override {
    constexpr std::size_t kShortCluster = 6;
    std::string out;
    out.reserve(text.size());
    const std::string_view whole = text;
    for (std::size_t at = 0; at < whole.size();) {
      const std::size_t end = cluster_end(whole, at);
      if (end - at < kShortCluster) {
        if (const auto match = map_.shortest(whole.substr(at, end - at))) {
          out.append(match->replacement);
          at = end;
          continue;
        }
      }
      while (at < end) {
        const std::size_t begin = at;
        next_character(whole, at);
        const std::string_view character = whole.substr(begin, at - begin);
        const auto match = map_.shortest(character);
        out.append(match ? match->replacement : character);
      }
    }
    text = std::move(out);
  }

 private:
  CharacterMap map_;
};

class SentencePieceNormalizer : public Normalizer {
 public:
  explicit SentencePieceNormalizer(const JsonObject& config)
      : map_(read_map(config)),
        add_dummy_prefix_(config.get_bool_or("add_dummy_prefix", true)),
        remove_extra_spaces_(config.get_bool_or("remove_extra_whitespaces", true)),
        space_as_suffix_(config.get_bool_or("treat_whitespace_as_suffix", false)),
        space_(config.get_bool_or("escape_whitespaces", true) ? kSpaceSymbol : " ") {
    std::vector<std::pair<std::string, TokenId>> symbols;
    for (const std::string& symbol : get_strings(config, "user_defined_symbols")) {
      if (symbol.size() > kMaxSymbolBytes) {
        fail(ErrorCode::kFormat, "[tokenizer] {}: expected at most {} bytes each, got {}",
             key_place(config, "user_defined_symbols"), kMaxSymbolBytes, symbol.size());
      }
      if (!symbol.empty()) symbols.emplace_back(symbol, 0);
    }
    symbols_.build(std::move(symbols));
  }

  void apply(std::string& text) const override {
    std::string_view rest = text;
    if (remove_extra_spaces_) {
      while (!rest.empty() && step(rest).text == " ") rest.remove_prefix(step(rest).length);
    }
    std::string out;
    if (!rest.empty()) {
      out.reserve(rest.size() + rest.size() / 2 + space_.size());
      append_all(rest, out);
    }
    text = std::move(out);
  }

 private:
  struct Step {
    // Length in the input.
    std::size_t length;
    std::string_view text;
  };

  Step step(std::string_view rest) const {
    if (const std::size_t length = symbols_.longest(rest).first; length > 0) {
      return {length, rest.substr(0, length)};
    }
    if (const auto match = map_.longest(rest)) {
      // The replaced sequence should end at a character boundary; a damaged table may violate that.
      if (match->length == rest.size() ||
          (static_cast<unsigned char>(rest[match->length]) & 0xC0) != 0x80) {
        return {match->length, match->replacement};
      }
    }
    std::size_t length = 0;
    next_character(rest, length);
    return {length, rest.substr(0, length)};
  }

  void append_all(std::string_view rest, std::string& out) const {
    if (add_dummy_prefix_ && !space_as_suffix_) out.append(space_);
    bool after_space = remove_extra_spaces_;
    while (!rest.empty()) {
      Step next = step(rest);
      rest.remove_prefix(next.length);
      while (after_space && next.text.starts_with(' ')) next.text.remove_prefix(1);
      if (!next.text.empty()) {
        for (const char c : next.text) {
          if (c == ' ') {
            out.append(space_);
          } else {
            out.push_back(c);
          }
        }
        after_space = next.text.ends_with(' ');
      }
      if (!remove_extra_spaces_) after_space = false;
    }
    if (remove_extra_spaces_) {
      while (out.ends_with(space_)) out.resize(out.size() - space_.size());
    }
    if (add_dummy_prefix_ && space_as_suffix_) out.append(space_);
  }

  CharacterMap map_;
  ByteTrie symbols_;
  bool add_dummy_prefix_;
  bool remove_extra_spaces_;
  bool space_as_suffix_;
  // Points to a constant.
  std::string_view space_;
};

}  // namespace

std::unique_ptr<Normalizer> make_precompiled_normalizer(const JsonObject& config) {
  return std::make_unique<PrecompiledNormalizer>(config);
}

std::unique_ptr<Normalizer> make_sentencepiece_normalizer(const JsonObject& config) {
  return std::make_unique<SentencePieceNormalizer>(config);
}

}  // namespace tandem
