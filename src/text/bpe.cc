// Two ways to the same merges: a scan for the short pieces that nearly all are, a heap for long
// ones.
#include "text/bpe.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "text/tokenizer_json.h"
#include "text/unicode.h"

namespace tandem {
namespace {

// Longest piece that is merged by scanning all pairs once per merge: at most 48 * 48 comparisons of
// integers, on the stack. Words are far shorter.
constexpr std::size_t kLongPiece = 48;

// One merge that is possible; the order is that of the heap, whose top must be the lowest rank,
// then the leftmost.
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

std::size_t merge_count(const JsonObject& config) {
  const Json& merges = config.at("merges");
  if (!merges.is_array()) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: expected an array of merges, got {}",
         key_place(config, "merges"), describe(merges));
  }
  return merges.size();
}

// "a b" or ["a", "b"].
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
      merges_(merge_count(config)),
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
  read_merges(config);
  unknown_id_ = unknown_.empty() ? kNone : vocabulary_.find(unknown_).value_or(kNone);
  for (std::size_t byte = 0; byte < byte_tokens_.size(); ++byte) {
    byte_tokens_[byte] = vocabulary_.find(fmt::format("<0x{:02X}>", byte)).value_or(kNone);
  }
  for (std::size_t code = 0; code < kDirect; ++code) {
    std::string character;
    append_utf8(static_cast<char32_t>(code), character);
    direct_[code] = vocabulary_.find(character).value_or(kNone);
  }
}

void BpeModel::read_merges(const JsonObject& config) {
  const Json& merges = config.at("merges");
  const std::string place = key_place(config, "merges");
  std::string joined;
  std::int32_t rank = 0;
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const Json& merge = merges[i];
    // The first line of a merges.txt, which some converters carried over.
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
    merges_.insert(left_id, right_id, {rank++, id_of(joined)});
  }
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
    if (word_.size() <= kLongPiece) {
      merge_by_scan();
    } else {
      merge_by_heap();
    }
    ids.insert(ids.end(), word_.begin(), word_.end());
  }

 private:
  // Fills word_ with the tokens of single characters.
  void split_characters(std::string_view piece) {
    word_.clear();
    bool unknown_pending = false;
    for (std::size_t at = 0; at < piece.size();) {
      const std::size_t begin = at;
      next_character(piece, at);
      const std::string_view character = piece.substr(begin, at - begin);
      const TokenId id = model_.character_token(character, begin == 0, at == piece.size());
      if (id != BpeModel::kNone) {
        flush_unknown(unknown_pending);
        word_.push_back(id);
      } else if (!(model_.byte_fallback_ && append_bytes(character))) {
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

  // <0xE4><0xBD><0xA0> for a character without a token; false if one of these isn't one either.
  bool append_bytes(std::string_view character) {
    const auto token = [&](char c) { return model_.byte_tokens_[static_cast<unsigned char>(c)]; };
    for (const char c : character)
      if (token(c) == BpeModel::kNone) return false;
    for (const char c : character) word_.push_back(token(c));
    return true;
  }

  void merge_by_scan() {
    if (word_.size() < 2) return;
    std::size_t count = word_.size();
    Merge merges[kLongPiece];  // [i]: of word_[i] and word_[i + 1]
    for (std::size_t i = 0; i + 1 < count; ++i)
      merges[i] = model_.merges_.find(word_[i], word_[i + 1]);
    while (count > 1) {
      std::size_t best = 0;
      for (std::size_t i = 1; i + 1 < count; ++i)
        if (merges[i].rank < merges[best].rank) best = i;
      if (merges[best].rank == Merge::kNever) break;
      word_[best] = merges[best].token;
      for (std::size_t i = best + 1; i + 1 < count; ++i) {
        word_[i] = word_[i + 1];
        merges[i - 1] = merges[i];
      }
      // The shift above moved the merge behind `best` over it; both of its pairs are new.
      --count;
      if (best + 1 < count) merges[best] = model_.merges_.find(word_[best], word_[best + 1]);
      if (best > 0) merges[best - 1] = model_.merges_.find(word_[best - 1], word_[best]);
    }
    word_.resize(count);
  }

  // O(n log n): a list of symbols and a heap of candidates, some of which are out of date when
  // their turn comes.
  void merge_by_heap() {
    const auto count = static_cast<std::uint32_t>(word_.size());
    symbols_.resize(count);
    heap_.clear();
    for (std::uint32_t i = 0; i < count; ++i) {
      symbols_[i] = {word_[i], i - 1, i + 1 < count ? i + 1 : Symbol::kEnd, true};
      if (i + 1 < count) {
        const Merge merge = model_.merges_.find(word_[i], word_[i + 1]);
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
    word_.clear();
    for (std::uint32_t i = 0; i != Symbol::kEnd; i = symbols_[i].next)
      word_.push_back(symbols_[i].id);
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
