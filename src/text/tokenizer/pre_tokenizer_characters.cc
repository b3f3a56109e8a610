// Each character of the class is a match of its own; split.h handles the matches.
#include "text/tokenizer/pre_tokenizer_characters.h"

#include <functional>
#include <utility>
#include <vector>

#include "text/tokenizer/split.h"
#include "text/tokenizer/tokenizer_json.h"
#include "text/tokenizer/unicode.h"

namespace tandem {
namespace {

using CharacterClass = std::function<bool(char32_t)>;

class CharacterPreTokenizer : public PreTokenizer {
 public:
  CharacterPreTokenizer(CharacterClass matches, SplitBehavior behavior)
      : matches_(std::move(matches)), behavior_(behavior) {}

  void apply(PieceList& list) const override {
    std::vector<TextSpan> found;
    std::vector<TextSpan> pieces;
    for (const TextSpan& piece : list.pieces) {
      found.clear();
      const std::string_view text = piece.of(list.text);
      for (std::size_t at = 0; at < text.size();) {
        const std::size_t begin = at;
        if (matches_(next_character(text, at))) found.push_back({begin, at});
      }
      append_split(piece.size(), found, behavior_, false, piece.begin, pieces);
    }
    list.pieces = std::move(pieces);
  }

 private:
  CharacterClass matches_;
  SplitBehavior behavior_;
};

// Runs of word characters and runs of characters that are neither word characters nor white space:
// \w+|[^\w\s]+.
class WhitespacePreTokenizer : public PreTokenizer {
 public:
  void apply(PieceList& list) const override {
    std::vector<TextSpan> pieces;
    for (const TextSpan& piece : list.pieces) {
      Class previous = Class::kSpace;
      for (std::size_t at = piece.begin; at < piece.end;) {
        const std::size_t begin = at;
        const Class kind = class_of(next_character(list.text, at));
        if (kind != Class::kSpace) {
          if (kind == previous) {
            pieces.back().end = at;
          } else {
            pieces.push_back({begin, at});
          }
        }
        previous = kind;
      }
    }
    list.pieces = std::move(pieces);
  }

 private:
  enum class Class { kSpace, kWord, kOther };
  static Class class_of(char32_t code) {
    if (is_word_character(code)) return Class::kWord;
    return is_white_space(code) ? Class::kSpace : Class::kOther;
  }
};

class BertPreTokenizer : public PreTokenizer {
 public:
  void apply(PieceList& list) const override {
    spaces_.apply(list);
    punctuation_.apply(list);
  }

 private:
  CharacterPreTokenizer spaces_{is_white_space, SplitBehavior::kRemoved};
  CharacterPreTokenizer punctuation_{is_punctuation, SplitBehavior::kIsolated};
};

}  // namespace

std::unique_ptr<PreTokenizer> make_character_pre_tokenizer(const JsonObject& config,
                                                           std::string_view type) {
  if (type == "Digits") {
    const bool single = config.get_bool_or("individual_digits", false);
    return std::make_unique<CharacterPreTokenizer>(
        is_numeric, single ? SplitBehavior::kIsolated : SplitBehavior::kContiguous);
  }
  if (type == "Punctuation") {
    return std::make_unique<CharacterPreTokenizer>(
        is_punctuation,
        config.has("behavior") ? get_split_behavior(config, "behavior") : SplitBehavior::kIsolated);
  }
  if (type == "CharDelimiterSplit") {
    const char32_t delimiter = get_character(config, "delimiter");
    return std::make_unique<CharacterPreTokenizer>(
        [delimiter](char32_t code) { return code == delimiter; }, SplitBehavior::kRemoved);
  }
  if (type == "WhitespaceSplit") {
    return std::make_unique<CharacterPreTokenizer>(is_white_space, SplitBehavior::kRemoved);
  }
  if (type == "Whitespace") return std::make_unique<WhitespacePreTokenizer>();
  if (type == "BertPreTokenizer") return std::make_unique<BertPreTokenizer>();
  return nullptr;
}

}  // namespace tandem
