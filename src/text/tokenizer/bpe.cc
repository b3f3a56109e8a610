// Two implementations of the same merges: a scan for short pieces, which nearly all are, and a heap
// for long ones.
#include "text/tokenizer/bpe.h"

#include <algorithm>
#include <span>
#include <utility>

#include "base/error.h"
#include "text/tokenizer/tokenizer_json.h"
#include "text/tokenizer/unicode.h"

namespace tandem {
namespace {

// Longest piece that is merged by scanning all pairs once per merge: at most 48 * 48 integer
// comparisons, on the stack. Words are far shorter.
constexpr std::size_t kLongPiece = 48;

// Bounds on deriving merges, whose cost is quadratic in a token's length. The longest tokens in use
// have 256 bytes, and a vocabulary of 200,000 tokens has half a million pairs.
constexpr std::size_t kMaxMergedBytes = 1024;
constexpr std::size_t kMaxDerivedMerges = std::size_t{1} << 24;

// A possible merge, with the order of the heap, whose top must be the lowest rank, then the
// leftmost.
struct Candidate {
  std::int32_t rank;
  std::uint32_t at;
  TokenId token;
  bool operator<(const Candidate& other) const noexcept {
    return rank != other.rank ? rank > other.rank : at > other.at;
  }
};

struct Symbol {
  static constexpr std::uint32_t kEnd = UINT32_MAX;
  TokenId id;
  std::uint32_t previous;
  std::uint32_t next;
  bool alive;
};

const Json& expect_merges(const JsonObject& config) {
  const Json& merges = config.at("merges");
  if (!merges.is_array()) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: expected an array of merges, got {}",
         key_place(config, "merges"), describe(merges));
  }
  return merges;
}

// Splits "a b" or ["a", "b"].
std::pair<std::string_view, std::string_view> merge_halves(const Json& merge,
                                                           const std::string& place,
                                                           std::size_t i) {
  if (merge.is_string()) {
    const std::string_view text = merge.get_ref<const std::string&>();
    const std::size_t space = text.find(' ');
    if (space != std::string_view::npos && text.find(' ', space + 1) == std::string_view::npos) {
      return {text.substr(0, space), text.substr(space + 1)};
    }
  } else if (merge.is_array() && merge.size() == 2) {
    if (merge[0].is_string() && merge[1].is_string()) {
      return {merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>()};
    }
  }
  fail(ErrorCode::kFormat,
       "[tokenizer] {}[{}]: expected two tokens, \"a b\" or [\"a\", \"b\"], got {}", place, i,
       merge.is_array() ? merge.dump(-1, ' ', true).substr(0, 60) : describe(merge));
}

}  // namespace

BpeModel::BpeModel(const JsonObject& config)
    : vocabulary_(Vocabulary::from_json(config, "vocab")),
      bytes_(vocabulary_),
      place_(config.where()),
      unknown_(config.get_string_or("unk_token", "")),
      fuse_unknown_(config.get_bool_or("fuse_unk", false)),
      byte_fallback_(config.get_bool_or("byte_fallback", false)),
      ignore_merges_(config.get_bool_or("ignore_merges", false)),
      continuing_prefix_(config.get_string_or("continuing_subword_prefix", "")),
      end_suffix_(config.get_string_or("end_of_word_suffix", "")) {
  if (config.get_number_or("dropout", 0) != 0) {
    fail(ErrorCode::kUnsupported,
         "[tokenizer] {}: merges left out at random are for training, expected null or 0",
         key_place(config, "dropout"));
  }
  unknown_id_ = unknown_.empty() ? kNone : vocabulary_.find(unknown_).value_or(kNone);
  for (std::size_t code = 0; code < kDirect; ++code) {
    std::string character;
    append_utf8(static_cast<char32_t>(code), character);
    direct_[code] = vocabulary_.find(character).value_or(kNone);
  }
  const std::vector<RankedMerge> merges =
      config.has("token_ranks") ? derive_merges(config) : read_merges(config);
  merges_ = MergeTable(merges.size());
  for (const RankedMerge& one : merges) merges_.insert(one.left, one.right, one.merge);
  find_joints(merges);
  read_symbols(config);
}

std::vector<BpeModel::RankedMerge> BpeModel::read_merges(const JsonObject& config) const {
  const Json& merges = expect_merges(config);
  const std::string place = key_place(config, "merges");
  std::vector<RankedMerge> ranked;
  ranked.reserve(merges.size());
  std::string joined;
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const Json& merge = merges[i];
    // The first line of a merges.txt, which some converters copied into the list.
    if (merge.is_string() && merge.get_ref<const std::string&>().starts_with("#version")) continue;
    const auto name = [&] { return fmt::format("{}[{}]", place, i); };
    const auto [left, right] = merge_halves(merge, place, i);
    const auto id_of = [&](std::string_view token) {
      const std::optional<TokenId> id = vocabulary_.find(token);
      if (!id) {
        fail(ErrorCode::kFormat, "[tokenizer] {}: token \"{}\" is not in the vocabulary", name(),
             token);
      }
      return *id;
    };
    const TokenId left_id = id_of(left);
    const TokenId right_id = id_of(right);
    if (right.size() < continuing_prefix_.size()) {
      fail(ErrorCode::kFormat, "[tokenizer] {}: expected \"{}\" to begin with \"{}\"", name(),
           right, continuing_prefix_);
    }
    joined.assign(left).append(right.substr(continuing_prefix_.size()));
    const auto rank = static_cast<std::int32_t>(ranked.size());
    ranked.push_back({left_id, right_id, {rank, id_of(joined)}});
  }
  return ranked;
}

// Any two tokens that together spell a third one merge into it.
std::vector<BpeModel::RankedMerge> BpeModel::derive_merges(const JsonObject& config) const {
  const Json& json = config.at("token_ranks");
  const std::string place = key_place(config, "token_ranks");
  if (!json.is_array()) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: expected an array of ranks, got {}", place,
         describe(json));
  }
  std::vector<std::int32_t> ranks;
  ranks.reserve(json.size());
  for (const Json& rank : json) {
    ranks.push_back(rank.is_null() ? Merge::kNever : expect_token_id(rank, place));
  }
  const auto find = [&](std::string_view text) {
    const TokenId id = vocabulary_.find(text).value_or(kNone);
    const auto index = static_cast<std::size_t>(id);
    return id != kNone && index < ranks.size() && ranks[index] != Merge::kNever ? id : kNone;
  };
  std::vector<RankedMerge> merges;
  for (std::size_t id = 0; id < ranks.size(); ++id) {
    if (ranks[id] == Merge::kNever) continue;
    const std::string_view text =
        vocabulary_.token(static_cast<TokenId>(id)).value_or(std::string_view());
    if (text.size() > kMaxMergedBytes || merges.size() > kMaxDerivedMerges) {
      fail(ErrorCode::kFormat,
           "[tokenizer] {}[{}]: expected tokens of at most {} bytes and at most {} pairs of them",
           place, id, kMaxMergedBytes, kMaxDerivedMerges);
    }
    for (std::size_t cut = 0; cut < text.size();) {
      next_character(text, cut);
      if (cut == text.size()) break;
      const TokenId left = find(text.substr(0, cut));
      if (left == kNone) continue;
      const TokenId right = find(text.substr(cut));
      if (right == kNone) continue;
      merges.push_back({left, right, {ranks[id], static_cast<TokenId>(id)}});
    }
  }
  return merges;
}

void BpeModel::find_joints(const std::vector<RankedMerge>& merges) {
  if (!continuing_prefix_.empty() || !end_suffix_.empty()) return;
  std::vector<std::uint64_t> pairs;
  pairs.reserve(merges.size());
  for (const RankedMerge& one : merges) {
    // Pieces can also start with these, which are not characters.
    for (const TokenId id : {one.left, one.right}) {
      if (id == unknown_id_ || (byte_fallback_ && bytes_.contains(id))) return;
    }
    const std::string_view left = vocabulary_.token(one.left).value_or(std::string_view());
    const std::string_view right = vocabulary_.token(one.right).value_or(std::string_view());
    if (left.empty() || right.empty()) continue;  // no text begins as the empty token
    std::size_t end = 0;
    next_character(right, end);
    pairs.push_back(
        pair_key(character_token(left.substr(previous_boundary(left, left.size())), false, false),
                 character_token(right.substr(0, end), false, false)));
  }
  joints_.emplace(std::move(pairs));
}

void BpeModel::read_symbols(const JsonObject& config) {
  std::vector<std::pair<std::string, TokenId>> symbols;
  for (const TokenId id : get_token_ids(config, "user_defined_symbols")) {
    const std::optional<std::string_view> text = vocabulary_.token(id);
    if (!text || text->empty() || text->size() > kMaxMergedBytes) {
      fail(ErrorCode::kFormat,
           "[tokenizer] {}: expected tokens of 1 to {} bytes, got that of id {}",
           key_place(config, "user_defined_symbols"), kMaxMergedBytes, id);
    }
    symbols.emplace_back(*text, id);
  }
  symbols_.build(std::move(symbols));
}

TokenId BpeModel::character_token(std::string_view character, bool first, bool last) const {
  const bool prefixed = !first && !continuing_prefix_.empty();
  const bool suffixed = last && !end_suffix_.empty();
  if (prefixed || suffixed) {
    std::string decorated = prefixed ? continuing_prefix_ : std::string();
    decorated.append(character);
    if (suffixed) decorated += end_suffix_;
    return vocabulary_.find(decorated).value_or(kNone);
  }
  if (character.size() <= 2) {
    std::size_t at = 0;
    const char32_t code = next_character(character, at);
    if (code < kDirect) return direct_[code];
  }
  return vocabulary_.find(character).value_or(kNone);
}

class BpeEncoder : public PieceEncoder {
 public:
  explicit BpeEncoder(const BpeModel& model) : model_(model) {}

  void encode(std::string_view piece, std::vector<TokenId>& ids) override {
    if (model_.ignore_merges_) {
      if (const std::optional<TokenId> whole = model_.vocabulary_.find(piece)) {
        ids.push_back(*whole);
        return;
      }
    }
    split_characters(piece);
    if (word_.size() <= kLongPiece || !model_.joints_) {
      merge(word_, ids);
      return;
    }
    // No merge crosses a position between two characters that no merge joins, so a long piece
    // splits into many short ones: with SentencePiece's vocabularies, a whole text splits into
    // words.
    const std::span<TokenId> word(word_);
    std::size_t begin = 0;
    for (std::size_t i = 1; i < word.size(); ++i) {
      if (model_.joints_->contains(word[i - 1], word[i])) continue;
      merge(word.subspan(begin, i - begin), ids);
      begin = i;
    }
    merge(word.subspan(begin), ids);
  }

 private:
  // Fills word_ with the tokens of single characters.
  void split_characters(std::string_view piece) {
    word_.clear();
    bool unknown_pending = false;
    for (std::size_t at = 0; at < piece.size();) {
      const std::size_t begin = at;
      if (!model_.symbols_.empty() && model_.symbols_.may_start(piece[at])) {
        if (const auto [length, id] = model_.symbols_.longest(piece.substr(at)); length > 0) {
          flush_unknown(unknown_pending);
          word_.push_back(id);
          at += length;
          continue;
        }
      }
      next_character(piece, at);
      const std::string_view character = piece.substr(begin, at - begin);
      const TokenId id = model_.character_token(character, begin == 0, at == piece.size());
      if (id != BpeModel::kNone) {
        flush_unknown(unknown_pending);
        word_.push_back(id);
      } else if (!(model_.byte_fallback_ && model_.bytes_.append(character, word_))) {
        if (unknown_pending && !model_.fuse_unknown_) flush_unknown(unknown_pending);
        unknown_pending = !model_.unknown_.empty();
      }
    }
    flush_unknown(unknown_pending);
  }

  void flush_unknown(bool& pending) {
    if (!pending) return;
    pending = false;
    if (model_.unknown_id_ == BpeModel::kNone) {
      fail(ErrorCode::kFormat,
           "[tokenizer] {}: unk_token \"{}\", which this text needs, is not in the vocabulary",
           model_.place_, model_.unknown_);
    }
    word_.push_back(model_.unknown_id_);
  }

  // Appends the tokens that `word`, single characters, merges to. Uses it as working memory.
  void merge(std::span<TokenId> word, std::vector<TokenId>& ids) {
    if (word.size() <= kLongPiece) {
      merge_by_scan(word, ids);
    } else {
      merge_by_heap(word, ids);
    }
  }

  void merge_by_scan(std::span<TokenId> word, std::vector<TokenId>& ids) {
    std::size_t count = word.size();
    Merge merges[kLongPiece];  // [i]: of word[i] and word[i + 1]
    for (std::size_t i = 0; i + 1 < count; ++i)
      merges[i] = model_.merges_.find(word[i], word[i + 1]);
    while (count > 1) {
      std::size_t best = 0;
      for (std::size_t i = 1; i + 1 < count; ++i)
        if (merges[i].rank < merges[best].rank) best = i;
      if (merges[best].rank == Merge::kNever) break;
      word[best] = merges[best].token;
      for (std::size_t i = best + 1; i + 1 < count; ++i) {
        word[i] = word[i + 1];
        merges[i - 1] = merges[i];
      }
      // The shift above overwrote the merge after `best`; both of its pairs are new.
      --count;
      if (best + 1 < count) merges[best] = model_.merges_.find(word[best], word[best + 1]);
      if (best > 0) merges[best - 1] = model_.merges_.find(word[best - 1], word[best]);
    }
    ids.insert(ids.end(), word.begin(), word.begin() + static_cast<std::ptrdiff_t>(count));
  }

  // O(n log n): a linked list of symbols and a heap of candidates, some of which are outdated when
  // they are popped.
  void merge_by_heap(std::span<const TokenId> word, std::vector<TokenId>& ids) {
    const auto count = static_cast<std::uint32_t>(word.size());
    symbols_.resize(count);
    heap_.clear();
    for (std::uint32_t i = 0; i < count; ++i) {
      symbols_[i] = {word[i], i - 1, i + 1 < count ? i + 1 : Symbol::kEnd, true};
      if (i + 1 < count) {
        const Merge merge = model_.merges_.find(word[i], word[i + 1]);
        if (merge.rank != Merge::kNever) heap_.push_back({merge.rank, i, merge.token});
      }
    }
    symbols_[0].previous = Symbol::kEnd;
    std::make_heap(heap_.begin(), heap_.end());
    while (!heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end());
      const Candidate top = heap_.back();
      heap_.pop_back();
      Symbol& left = symbols_[top.at];
      if (!left.alive || left.next == Symbol::kEnd) continue;
      Symbol& right = symbols_[left.next];
      if (model_.merges_.find(left.id, right.id).token != top.token) continue;
      left.id = top.token;
      right.alive = false;
      left.next = right.next;
      if (left.next != Symbol::kEnd) symbols_[left.next].previous = top.at;
      if (left.previous != Symbol::kEnd) push_candidate(left.previous);
      push_candidate(top.at);
    }
    for (std::uint32_t i = 0; i != Symbol::kEnd; i = symbols_[i].next)
      ids.push_back(symbols_[i].id);
  }

  void push_candidate(std::uint32_t at) {
    const Symbol& left = symbols_[at];
    if (left.next == Symbol::kEnd) return;
    const Merge merge = model_.merges_.find(left.id, symbols_[left.next].id);
    if (merge.rank == Merge::kNever) return;
    heap_.push_back({merge.rank, at, merge.token});
    std::push_heap(heap_.begin(), heap_.end());
  }

  const BpeModel& model_;
  std::vector<TokenId> word_;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
};

std::unique_ptr<PieceEncoder> BpeModel::start() const {
  return std::make_unique<BpeEncoder>(*this);
}

}  // namespace tandem
