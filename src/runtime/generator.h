// Generates tokens for one or more sequences, holding their tokens and KV caches. The semantics are
// those of ONNX Runtime GenAI: append tokens, generate the next token, rewind. Several sequences
// advance together, one token each per step, so that weights are read once for all.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "runtime/engine.h"
#include "runtime/search.h"

namespace tandem {

// Replaces empty options.eos, a max_length of 0 and what an eviction leaves open by the model's.
// Throws kInvalidArgument for a max_length beyond the longest sequence, for a bias of a token
// outside the vocabulary, and what with_defaults() of an eviction throws.
SearchOptions with_defaults(SearchOptions options, const ModelInfo& info);
bool is_end(const SearchOptions& options, TokenId id) noexcept;

// Of all sequences of a generator.
struct LookupFigures {
  // Runs that gave logits for answers.
  std::int64_t runs = 0;
  // Tokens of drafts that were read, and those of them that were then chosen.
  std::int64_t drafted = 0;
  std::int64_t accepted = 0;
};

class Generator {
 public:
  // Throws kInvalidArgument for invalid options. min_length and max_length apply to each sequence
  // separately. Sequences draw from one random generator, in order. `pad` is the token returned for
  // finished sequences while others continue: by default the model's padding token, or its first
  // end token.
  Generator(Engine& engine, SearchOptions options, std::size_t sequences = 1,
            std::optional<TokenId> pad = {});

  // Appends and reads prompt tokens immediately. Throws kInvalidArgument if the sequence would
  // exceed max_length. For several sequences, one call gives each its own prompt. After an error
  // the generator is unchanged.
  void append(std::span<const TokenId> ids);
  void append(std::span<const std::span<const TokenId>> prompts);
  // Chooses the next token of the only sequence and appends it, unless it is an end token, which is
  // returned but not appended. Throws kInvalidArgument if done(), or before anything was appended.
  TokenId next();
  // One token per sequence, valid until the next call: either chosen and appended, or an end token
  // (which is not appended), or padding. Throws kInvalidArgument if all sequences are finished.
  std::span<const TokenId> next_all();
  // True if all sequences are finished: by an end token, or at max_length. append() and rewind()
  // reset it.
  bool done() const noexcept;
  bool done(std::size_t sequence) const { return rows_.at(sequence).done; }
  // The last token chosen, an end token too, with the log-probabilities that the options request.
  const Choice& last_choice(std::size_t sequence = 0) const { return rows_.at(sequence).choice; }
  // Keeps the first `length` tokens of the only sequence; generation continues as it would have
  // from there. If tokens are needed again that an eviction has dropped since, as many of the last
  // ones as the context held are read once more with the next call, right behind the first ones.
  void rewind(std::int64_t length);

  std::size_t size() const noexcept { return rows_.size(); }
  // Prompt and answer, without end token and padding.
  std::span<const TokenId> sequence(std::size_t index = 0) const {
    return rows_.at(index).sequence;
  }
  // How many of these need not be read again: all that are in the cache, or were until they were
  // dropped.
  std::int64_t read_tokens(std::size_t index = 0) const {
    return rows_.at(index).kv.given() - rows_.at(index).ahead();
  }
  // How many of them were dropped, by an eviction.
  std::int64_t dropped_tokens(std::size_t index = 0) const { return rows_.at(index).kv.evicted(); }
  // What drafts have saved so far.
  const LookupFigures& lookup_figures() const noexcept { return figures_; }
  const SearchOptions& options() const noexcept { return search_.options(); }
  TokenId pad() const noexcept { return pad_; }
  bool is_end(TokenId id) const noexcept { return tandem::is_end(options(), id); }

 private:
  struct Row {
    KvSequence kv;
    // The cache was given the first kv.given() of these, or all and what is left of a draft.
    std::vector<TokenId> sequence;
    // So many of these were appended; the others were chosen since then.
    std::size_t prompt = 0;
    // The phase whose programs read each of the first tokens.
    std::vector<Phase> read_in;
    // After the last token; empty: not computed yet.
    std::vector<float> logits;
    Choice choice;
    bool done = false;
    // Tokens that were read ahead because they may come next, of which `confirmed` have come and
    // are part of the sequence now; and the logits after each of them, [draft, vocabulary].
    std::vector<TokenId> draft = {};
    std::vector<float> draft_logits = {};
    std::size_t confirmed = 0;

    // Tokens in the cache behind the sequence.
    std::int64_t ahead() const { return static_cast<std::int64_t>(draft.size() - confirmed); }
  };
  Row& only_row(const char* function);
  void compute_logits();
  void compute_logits(Row& row);
  // Read the last token of each, and the drafts behind them.
  void read_last(std::span<Row* const> rows);
  void read_with_drafts(std::span<Row* const> rows);
  // For one of `rows` sequences that are read together.
  std::vector<TokenId> make_draft(const Row& row, std::int64_t rows) const;
  // After `id` was chosen from the row's logits: takes the next ones from the draft if it is what
  // the draft says.
  void confirm(Row& row, TokenId id);
  // Takes what has not come yet out of the cache again.
  static void drop_draft(Row& row);
  // Keeps of the cache what the first `length` tokens leave in it.
  void rewind_cache(Row& row, std::int64_t length) const;

  Engine& engine_;
  Search search_;
  TokenId pad_;
  std::vector<Row> rows_;
  LookupFigures figures_;
  // The result of next_all().
  std::vector<TokenId> chosen_;
};

}  // namespace tandem
