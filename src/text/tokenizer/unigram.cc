// A Viterbi search from left to right. At a position that no token spans, everything before is
// decided, so that working memory stays small however long a piece is.
#include "text/tokenizer/unigram.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "text/tokenizer/tokenizer_json.h"
#include "text/tokenizer/unicode.h"

namespace tandem {
namespace {

// How much less probable a character without a token is than the rarest token, as a log probability
// (SentencePiece's kUnkPenalty).
constexpr double kUnknownPenalty = 10;
// The maximum steps of the search per character; tokens in use have fewer than 100 bytes.
constexpr std::size_t kMaxTokenBytes = 4096;

std::vector<std::string> read_pieces(const JsonObject& config) {
  const Json& vocab = config.at("vocab");
  const std::string place = key_place(config, "vocab");
  if (!vocab.is_array() || vocab.empty() || vocab.size() > std::size_t{kMaxTokenId}) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: expected an array of [token, score], got {}", place,
         describe(vocab));
  }
  std::vector<std::string> pieces;
  pieces.reserve(vocab.size());
  for (const Json& entry : vocab) {
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number() ||
        !std::isfinite(entry[1].get<double>()) ||
        entry[0].get_ref<const std::string&>().size() > kMaxTokenBytes) {
      fail(ErrorCode::kFormat,
           "[tokenizer] {}[{}]: expected [token, score] and a token of at most {} bytes, got {}",
           place, pieces.size(), kMaxTokenBytes, describe(entry));
    }
    pieces.push_back(entry[0].get<std::string>());
  }
  return pieces;
}

// The set of ids in the array at `key`.
std::vector<bool> read_id_set(const JsonObject& config, std::string_view key, std::size_t size) {
  std::vector<bool> set(size);
  for (const TokenId token : get_token_ids(config, key)) {
    const auto id = static_cast<std::size_t>(token);
    if (id >= size) {
      fail(ErrorCode::kFormat, "[tokenizer] {}: expected ids below {}, got {}",
           key_place(config, key), size, id);
    }
    set[id] = true;
  }
  return set;
}

}  // namespace

UnigramModel::UnigramModel(const JsonObject& config)
    : vocabulary_(Vocabulary::from_list(read_pieces(config))),
      unknown_id_(static_cast<TokenId>(
          config.get_int_or("unk_id", kNone, kNone, vocabulary_.highest_id()))),
      bytes_(vocabulary_),
      byte_fallback_(config.get_bool_or("byte_fallback", false)),
      looks_up_unknown_(!config.has("unmatched")),
      place_(config.where()) {
  const Json& vocab = config.at("vocab");
  const std::vector<bool> unmatched = read_id_set(config, "unmatched", vocab.size());
  const std::vector<bool> user_defined = read_id_set(config, "user_defined_symbols", vocab.size());
  double lowest = DBL_MAX;
  double highest = FLT_MIN;
  std::vector<std::pair<std::string, TokenId>> contents;
  for (std::size_t id = 0; id < vocab.size(); ++id) {
    scores_.push_back(vocab[id][1].get<double>());
    if (unmatched[id]) continue;
    if (!user_defined[id]) {
      lowest = std::min(lowest, scores_.back());
      highest = std::max(highest, scores_.back());
    }
    const auto& text = vocab[id][0].get_ref<const std::string&>();
    if (!text.empty()) contents.emplace_back(text, static_cast<TokenId>(id));
  }
  trie_.build(std::move(contents));
  unknown_score_ = lowest - kUnknownPenalty;
  // SentencePiece gives a user-defined symbol the best score per byte, minus a small amount, so
  // that a longer symbol wins over two short ones.
  for (std::size_t id = 0; id < vocab.size(); ++id) {
    if (!user_defined[id]) continue;
    const auto& text = vocab[id][0].get_ref<const std::string&>();
    scores_[id] = static_cast<double>(text.size()) * highest - 0.1;
  }
}

class UnigramEncoder : public PieceEncoder {
 public:
  explicit UnigramEncoder(const UnigramModel& model) : model_(model) {}

  void encode(std::string_view piece, std::vector<TokenId>& ids) override {
    unknown_ = {};
    // Everything before it is decided.
    std::size_t base = 0;
    // The furthest end of a token so far.
    std::size_t reach = 0;
    nodes_.assign(1, {});
    for (std::size_t at = 0; at < piece.size();) {
      if (at == reach && at > base) {
        decide(piece, base, at, ids);
        base = at;
      }
      const std::size_t begin = at;
      next_character(piece, at);
      reach = std::max(reach, extend(piece, base, begin, at));
    }
    decide(piece, base, piece.size(), ids);
    flush_unknown(piece, ids);
  }

 private:
  // The best way to split [base, position of this node): its last token and where that begins.
  struct Node {
    static constexpr std::uint32_t kUnset = UINT32_MAX;
    double score = 0;
    // Relative to base.
    std::uint32_t begin = kUnset;
    TokenId token = -1;
  };

  void offer(std::size_t end, const Node& node) {
    if (end >= nodes_.size()) nodes_.resize(end + 1);
    Node& best = nodes_[end];
    if (best.begin == Node::kUnset || node.score > best.score) best = node;
  }

  // Tries all tokens that begin at `begin`, where the character ends at `character_end`. Returns
  // the furthest end.
  std::size_t extend(std::string_view piece, std::size_t base, std::size_t begin,
                     std::size_t character_end) {
    const auto from = static_cast<std::uint32_t>(begin - base);
    const double score = nodes_[from].score;
    std::size_t furthest = character_end;
    bool whole_character = false;
    model_.trie_.prefixes(piece.substr(begin), [&](std::size_t length, TokenId token) {
      offer(from + length, {score + model_.scores_[static_cast<std::size_t>(token)], from, token});
      if (begin + length == character_end) whole_character = true;
      furthest = std::max(furthest, begin + length);
    });
    if (!whole_character) {
      if (model_.unknown_id_ == UnigramModel::kNone) fail_unknown();
      offer(character_end - base, {score + model_.unknown_score_, from, model_.unknown_id_});
    }
    return furthest;
  }

  // Appends the tokens of piece[base, end) and continues after them, keeping the score so far: sums
  // starting from zero would be rounded differently from the reference's, and equal scores are
  // common.
  void decide(std::string_view piece, std::size_t base, std::size_t end,
              std::vector<TokenId>& ids) {
    path_.clear();
    for (std::size_t at = end - base; at > 0; at = nodes_[at].begin) {
      path_.push_back(static_cast<std::uint32_t>(at));
    }
    for (std::size_t i = path_.size(); i-- > 0;) {
      const Node& node = nodes_[path_[i]];
      const TextSpan range{base + node.begin, base + path_[i]};
      if (node.token == model_.unknown_id_) {
        if (unknown_.size() == 0) unknown_.begin = range.begin;
        unknown_.end = range.end;
      } else {
        flush_unknown(piece, ids);
        ids.push_back(node.token);
      }
    }
    const double score = nodes_[end - base].score;
    nodes_.assign(1, {score});
  }

  // Handles adjacent characters without a token: one unknown token for all of them, or one token
  // per byte.
  void flush_unknown(std::string_view piece, std::vector<TokenId>& ids) {
    if (unknown_.size() == 0) return;
    const std::string_view text = unknown_.of(piece);
    unknown_ = {};
    if (model_.looks_up_unknown_) {
      if (const std::optional<TokenId> whole = model_.vocabulary_.find(text)) {
        ids.push_back(*whole);
        return;
      }
    }
    if (model_.byte_fallback_ && model_.bytes_.append(text, ids)) return;
    ids.push_back(model_.unknown_id_);
  }

  [[noreturn]] void fail_unknown() const {
    fail(ErrorCode::kFormat, "[tokenizer] {}: unk_id, which this text needs, is missing",
         model_.place_);
  }

  const UnigramModel& model_;
  std::vector<Node> nodes_;
  std::vector<std::uint32_t> path_;
  // A run of unknown characters that may continue.
  TextSpan unknown_;
};

std::unique_ptr<PieceEncoder> UnigramModel::start() const {
  return std::make_unique<UnigramEncoder>(*this);
}

}  // namespace tandem
