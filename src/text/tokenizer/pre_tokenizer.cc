// One class per pre-tokenizer of tokenizer.json, and the table of their names.
#include "text/tokenizer/pre_tokenizer.h"

#include <optional>
#include <utility>

#include "text/tokenizer/byte_level.h"
#include "text/tokenizer/metaspace.h"
#include "text/tokenizer/pattern.h"
#include "text/tokenizer/pre_tokenizer_characters.h"
#include "text/tokenizer/split.h"
#include "text/tokenizer/tokenizer_json.h"

namespace tandem {
namespace {

// Splits every piece at the matches of `pattern`.
void split_pieces(const Pattern& pattern, SplitBehavior behavior, bool invert, PieceList& list) {
  PatternSearch search(pattern);
  std::vector<TextSpan> matches;
  std::vector<TextSpan> pieces;
  pieces.reserve(list.pieces.size());
  for (const TextSpan& piece : list.pieces) {
    matches.clear();
    search.find_all(piece.of(list.text), matches);
    append_split(piece.size(), matches, behavior, invert, piece.begin, pieces);
  }
  list.pieces = std::move(pieces);
}

// Rewrites every piece: `append(piece, out)` appends its new text.
template <typename Append>
void rewrite_pieces(PieceList& list, Append append) {
  std::string text;
  text.reserve(list.text.size() + list.text.size() / 4 + 8);
  const bool at_start = list.at_start && !list.pieces.empty() && list.pieces[0].begin == 0;
  for (TextSpan& piece : list.pieces) {
    const std::size_t begin = text.size();
    append(piece.of(list.text), text);
    piece = {begin, text.size()};
  }
  list.at_start = at_start;
  list.text = std::move(text);
}

class SplitPreTokenizer : public PreTokenizer {
 public:
  explicit SplitPreTokenizer(const JsonObject& config)
      : pattern_(Pattern::from_json(config, "pattern")),
        behavior_(get_split_behavior(config, "behavior")),
        invert_(config.get_bool_or("invert", false)) {}

  void apply(PieceList& list) const override { split_pieces(pattern_, behavior_, invert_, list); }

 private:
  Pattern pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

class ByteLevelPreTokenizer : public PreTokenizer {
 public:
  explicit ByteLevelPreTokenizer(const JsonObject& config)
      : add_prefix_space_(config.get_bool_or("add_prefix_space", true)) {
    if (config.get_bool_or("use_regex", true)) {
      words_ = Pattern::regex(kGpt2Expression, key_place(config, "use_regex"));
    }
  }

  void apply(PieceList& list) const override {
    if (add_prefix_space_) {
      rewrite_pieces(list, [](std::string_view piece, std::string& out) {
        if (!piece.starts_with(' ')) out.push_back(' ');
        out.append(piece);
      });
    }
    if (words_) split_pieces(*words_, SplitBehavior::kIsolated, false, list);
    rewrite_pieces(list, append_byte_level);
  }

 private:
  bool add_prefix_space_;
  std::optional<Pattern> words_;
};

class MetaspacePreTokenizer : public PreTokenizer {
 public:
  explicit MetaspacePreTokenizer(const JsonObject& config)
      : MetaspacePreTokenizer(Metaspace::from_json(config)) {}

  void apply(PieceList& list) const override {
    rewrite_pieces(list, [&](std::string_view piece, std::string& out) {
      const bool prepends = prepend_ == Metaspace::Prepend::kAlways ||
                            (prepend_ == Metaspace::Prepend::kFirst && list.at_start &&
                             piece.data() == list.text.data());
      if (prepends && !piece.starts_with(' ') && !piece.starts_with(replacement_)) {
        out.append(replacement_);
      }
      for (const char c : piece) {
        if (c == ' ') {
          out.append(replacement_);
        } else {
          out.push_back(c);
        }
      }
    });
    if (words_) split_pieces(*words_, SplitBehavior::kMergedWithNext, false, list);
  }

 private:
  explicit MetaspacePreTokenizer(const Metaspace& settings) : prepend_(settings.prepend) {
    append_utf8(settings.replacement, replacement_);
    if (settings.split) words_ = Pattern::literal(replacement_);
  }

  std::string replacement_;
  Metaspace::Prepend prepend_;
  std::optional<Pattern> words_;
};

class SequencePreTokenizer : public PreTokenizer {
 public:
  explicit SequencePreTokenizer(const JsonObject& config) {
    for (const JsonObject& part : get_objects(config, "pretokenizers")) {
      parts_.push_back(make_pre_tokenizer(part));
    }
  }

  void apply(PieceList& list) const override {
    for (const auto& part : parts_) part->apply(list);
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> parts_;
};

}  // namespace

std::unique_ptr<PreTokenizer> make_pre_tokenizer(const JsonObject& config) {
  const std::string type = component_type(config);
  if (type == "Split") return std::make_unique<SplitPreTokenizer>(config);
  if (type == "ByteLevel") return std::make_unique<ByteLevelPreTokenizer>(config);
  if (type == "Metaspace") return std::make_unique<MetaspacePreTokenizer>(config);
  if (type == "Sequence") return std::make_unique<SequencePreTokenizer>(config);
  if (auto by_class = make_character_pre_tokenizer(config, type)) return by_class;
  fail_unknown_component(config, "pre-tokenizer");
}

}  // namespace tandem
