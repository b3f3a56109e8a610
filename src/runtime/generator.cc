// Keeps the tokens, KV caches and logits of sequences consistent across append, next and rewind.
#include "runtime/generator.h"

#include <algorithm>

#include "base/error.h"
#include "runtime/prompt_lookup.h"

namespace tandem {
namespace {

TokenId padding_of(const ModelInfo& info) {
  if (info.pad) return static_cast<TokenId>(*info.pad);
  return info.eos.empty() ? 0 : static_cast<TokenId>(info.eos.front());
}

}  // namespace

SearchOptions with_defaults(SearchOptions options, const ModelInfo& info) {
  if (options.eos.empty()) options.eos = info.eos;
  if (options.eviction) options.eviction = with_defaults(*options.eviction, info);
  const std::int64_t longest = options.eviction ? kLongestSequence : info.longest_sequence();
  if (options.max_length == 0) options.max_length = longest;
  if (options.max_length > longest) {
    fail(ErrorCode::kInvalidArgument,
         "[generator] max_length ({}) cannot be greater than the model's context length ({})",
         options.max_length, longest);
  }
  for (const auto& [token, bias] : options.logit_bias) {
    if (token < 0 || token >= info.vocabulary)
      fail(ErrorCode::kInvalidArgument,
           "[generator] logit_bias: expected a token in [0, {}), got {}", info.vocabulary, token);
  }
  return options;
}

bool is_end(const SearchOptions& options, TokenId id) noexcept {
  return std::find(options.eos.begin(), options.eos.end(), id) != options.eos.end();
}

Generator::Generator(Engine& engine, SearchOptions options, std::size_t sequences,
                     std::optional<TokenId> pad)
    : engine_(engine),
      search_(with_defaults(std::move(options), engine.info())),
      pad_(pad.value_or(padding_of(engine.info()))) {
  if (sequences < 1)
    fail(ErrorCode::kInvalidArgument, "[generator] expected at least one sequence");
  // No reallocation, because there are pointers to the sequences.
  rows_.reserve(sequences);
  const std::optional<Eviction>& eviction = this->options().eviction;
  for (std::size_t i = 0; i < sequences; ++i) {
    rows_.push_back({engine.new_sequence()});
    if (eviction) engine.evict_when_full(rows_.back().kv, *eviction);
  }
}

Generator::Row& Generator::only_row(const char* function) {
  if (rows_.size() != 1)
    fail(ErrorCode::kInvalidArgument, "[generator] {}: expected one sequence, this has {}",
         function, rows_.size());
  return rows_.front();
}

void Generator::append(std::span<const TokenId> ids) {
  only_row("append");
  append({&ids, 1});
}

void Generator::append(std::span<const std::span<const TokenId>> prompts) {
  if (prompts.size() != rows_.size())
    fail(ErrorCode::kInvalidArgument, "[generator] append: {} prompts for {} sequences",
         prompts.size(), rows_.size());
  std::vector<std::vector<TokenId>> grown;
  std::vector<std::span<const TokenId>> unread;
  std::vector<KvSequence*> sequences;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    const auto& ids = prompts[r];
    Row& row = rows_[r];
    const std::string place = rows_.size() == 1 ? "" : fmt::format(" row {}:", r);
    if (ids.empty())
      fail(ErrorCode::kInvalidArgument, "[generator]{} append: no tokens given", place);
    if (static_cast<std::int64_t>(row.sequence.size() + ids.size()) > options().max_length) {
      fail(ErrorCode::kInvalidArgument,
           "[generator]{} {} tokens given after {}: the sequence would exceed max_length ({})",
           place, ids.size(), row.sequence.size(), options().max_length);
    }
    drop_draft(row);
    // The last generated token has not been read yet; it is now part of the prompt.
    grown.push_back(row.sequence);
    grown.back().insert(grown.back().end(), ids.begin(), ids.end());
    sequences.push_back(&row.kv);
  }
  for (std::size_t r = 0; r < rows_.size(); ++r)
    unread.push_back(std::span(grown[r]).subspan(static_cast<std::size_t>(rows_[r].kv.given())));
  const std::span<const float> logits = engine_.prefill_batch(sequences, unread);
  const auto vocabulary = static_cast<std::size_t>(engine_.info().vocabulary);
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    Row& row = rows_[r];
    // The engine's logits are overwritten by its next run, whichever generator starts it.
    const auto own = logits.subspan(r * vocabulary, vocabulary);
    row.logits.assign(own.begin(), own.end());
    const Phase phase = engine_.prompt_phase(static_cast<std::int64_t>(unread[r].size()));
    row.sequence = std::move(grown[r]);
    row.prompt = row.sequence.size();
    row.read_in.resize(row.sequence.size() - unread[r].size());
    row.read_in.resize(row.sequence.size(), phase);
    row.done = static_cast<std::int64_t>(row.sequence.size()) >= options().max_length;
  }
}

void Generator::compute_logits(Row& row) {
  const auto length = static_cast<std::int64_t>(row.sequence.size());
  // After a rewind the cache may already hold the last token: it is read again for its logits, in
  // the phase that read it before, because the other phase may have different weights.
  if (row.kv.given() == length) row.kv.rewind(row.kv.length() - 1);
  row.read_in.resize(row.sequence.size(), Phase::kDecode);
  while (row.kv.given() < length) {
    const auto first = row.read_in.begin() + row.kv.given();
    const auto end = std::find(first, row.read_in.end(),
                               *first == Phase::kDecode ? Phase::kPrefill : Phase::kDecode);
    const std::span<const float> logits =
        engine_.prefill(row.kv,
                        std::span(row.sequence)
                            .subspan(static_cast<std::size_t>(row.kv.given()),
                                     static_cast<std::size_t>(end - first)),
                        *first);
    row.logits.assign(logits.begin(), logits.end());
  }
}

// Sequences that lack only their last token are read in one run.
void Generator::compute_logits() {
  std::vector<Row*> rows;
  for (Row& row : rows_) {
    if (row.done || !row.logits.empty()) continue;
    if (row.kv.given() + 1 == static_cast<std::int64_t>(row.sequence.size()) &&
        row.read_in.size() < row.sequence.size()) {
      rows.push_back(&row);
    } else {
      compute_logits(row);
    }
  }
  if (rows.empty()) return;
  ++figures_.runs;
  bool drafted = false;
  for (Row* row : rows) {
    row->draft = make_draft(*row, static_cast<std::int64_t>(rows.size()));
    drafted = drafted || !row->draft.empty();
  }
  if (!drafted) {
    read_last(rows);
    return;
  }
  try {
    read_with_drafts(rows);
  } catch (const Error&) {
    // A draft may need room in the cache that the answer doesn't, or its logits may not be finite.
    for (Row* row : rows) row->draft.clear();
    for (Row* row : rows) compute_logits(*row);
  }
}

void Generator::read_last(std::span<Row* const> rows) {
  std::vector<KvSequence*> sequences;
  std::vector<TokenId> last;
  for (Row* row : rows) {
    sequences.push_back(&row->kv);
    last.push_back(row->sequence.back());
  }
  std::span<const float> logits = engine_.decode_batch(sequences, last);
  const auto vocabulary = static_cast<std::size_t>(engine_.info().vocabulary);
  for (Row* row : rows) {
    row->logits.assign(logits.begin(), logits.begin() + static_cast<std::ptrdiff_t>(vocabulary));
    logits = logits.subspan(vocabulary);
    row->read_in.push_back(Phase::kDecode);
  }
}

void Generator::read_with_drafts(std::span<Row* const> rows) {
  std::vector<KvSequence*> sequences;
  std::vector<std::vector<TokenId>> tokens;
  for (Row* row : rows) {
    sequences.push_back(&row->kv);
    tokens.push_back({row->sequence.back()});
    tokens.back().insert(tokens.back().end(), row->draft.begin(), row->draft.end());
  }
  const std::vector<std::span<const TokenId>> ids(tokens.begin(), tokens.end());
  // [tokens, vocabulary] of each.
  std::vector<std::vector<float>> all(rows.size());
  engine_.decode_batch_all(sequences, ids,
                           [&](std::size_t r, std::int64_t, std::span<const float> logits) {
                             all[r].insert(all[r].end(), logits.begin(), logits.end());
                           });
  for (std::size_t r = 0; r < rows.size(); ++r) {
    Row& row = *rows[r];
    const auto behind = all[r].begin() + static_cast<std::ptrdiff_t>(engine_.info().vocabulary);
    row.logits.assign(all[r].begin(), behind);
    row.draft_logits.assign(behind, all[r].end());
    row.confirmed = 0;
    row.read_in.push_back(Phase::kDecode);
    figures_.drafted += row.ahead();
  }
}

std::vector<TokenId> Generator::make_draft(const Row& row, std::int64_t rows) const {
  if (options().lookup == 0) return {};
  // The last token is read with the draft, and one more is chosen behind it.
  const std::int64_t most =
      std::min(engine_.rows_at_once(row.kv, (1 + options().lookup) * rows) / rows - 1,
               options().max_length - static_cast<std::int64_t>(row.sequence.size()) - 1);
  if (most < 1) return {};
  std::vector<TokenId> draft = look_up(row.sequence, static_cast<std::size_t>(most));
  // Nothing is written behind an end token.
  draft.erase(std::ranges::find_if(draft, [&](TokenId id) { return is_end(id); }), draft.end());
  return draft;
}

// The token was chosen as without a draft, by logits that are bit for bit those of reading it
// alone: so an answer is the same, also if it is drawn.
void Generator::confirm(Row& row, TokenId id) {
  row.logits.clear();
  if (row.ahead() > 0 && row.draft[row.confirmed] == id) {
    const auto vocabulary = static_cast<std::ptrdiff_t>(engine_.info().vocabulary);
    const auto next =
        row.draft_logits.begin() + static_cast<std::ptrdiff_t>(row.confirmed) * vocabulary;
    if (!row.done) row.logits.assign(next, next + vocabulary);
    ++row.confirmed;
    ++figures_.accepted;
    row.read_in.push_back(Phase::kDecode);
    if (!row.done) return;
  }
  drop_draft(row);
}

void Generator::drop_draft(Row& row) {
  row.kv.rewind(row.kv.length() - row.ahead());
  row.draft.clear();
  row.confirmed = 0;
}

std::span<const TokenId> Generator::next_all() {
  if (done()) {
    if (rows_.size() > 1)
      fail(ErrorCode::kInvalidArgument, "[generator] next: all {} answers have ended",
           rows_.size());
    fail(ErrorCode::kInvalidArgument,
         "[generator] next: the answer has ended after {} tokens (max_length {})",
         rows_.front().sequence.size(), options().max_length);
  }
  for (const Row& row : rows_)
    if (row.sequence.empty())
      fail(ErrorCode::kInvalidArgument, "[generator] next: append a prompt first");
  compute_logits();
  // All are chosen before one is appended: a choice that fails leaves every sequence as it was.
  for (Row& row : rows_)
    if (!row.done) row.choice = search_.choose(row.logits, row.sequence, row.prompt);
  chosen_.assign(rows_.size(), pad_);
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    Row& row = rows_[r];
    if (row.done) continue;
    const TokenId id = chosen_[r] = row.choice.id;
    const bool ends = is_end(id);
    if (!ends) row.sequence.push_back(id);
    row.done = ends || static_cast<std::int64_t>(row.sequence.size()) >= options().max_length;
    confirm(row, id);
  }
  return chosen_;
}

TokenId Generator::next() {
  only_row("next");
  return next_all().front();
}

bool Generator::done() const noexcept {
  return std::ranges::all_of(rows_, [](const Row& row) { return row.done; });
}

void Generator::rewind_cache(Row& row, std::int64_t length) const {
  KvSequence& kv = row.kv;
  const std::optional<Eviction>& eviction = options().eviction;
  const auto dropped = [&](std::int64_t given) { return eviction ? eviction->dropped(given) : 0; };
  // All that the cache would hold is there, but perhaps for tokens at the end.
  if (!eviction || kv.evicted() == dropped(length) ||
      kv.evicted() == dropped(std::min(length, kv.given()))) {
    kv.rewind(std::min(kv.length(), length - kv.evicted()));
    return;
  }
  kv.rewind(std::min(eviction->sinks, length));
  kv.skip(dropped(length));
}

void Generator::rewind(std::int64_t length) {
  Row& row = only_row("rewind");
  if (length < 0 || length > static_cast<std::int64_t>(row.sequence.size())) {
    fail(ErrorCode::kInvalidArgument, "[generator] cannot rewind to {} tokens, the sequence has {}",
         length, row.sequence.size());
  }
  drop_draft(row);
  row.sequence.resize(static_cast<std::size_t>(length));
  row.prompt = std::min(row.prompt, row.sequence.size());
  rewind_cache(row, length);
  row.read_in.resize(std::min(row.read_in.size(), row.sequence.size()));
  row.logits.clear();
  row.done = length >= options().max_length;
}

}  // namespace tandem
