// One running conversation: its tokens, their keys and values, and the choice of the next one. The
// semantics are those of ONNX Runtime GenAI: append tokens, generate the next token, rewind.
#pragma once

#include <span>
#include <vector>

#include "runtime/loaded_model.h"
#include "runtime/search.h"

namespace tandem {

// Empty options.eos and a max_length of 0 take the model's. Throws kInvalidArgument for a
// max_length beyond the context.
SearchOptions with_defaults(SearchOptions options, const ModelInfo& info);
bool is_end(const SearchOptions& options, TokenId id) noexcept;

class Generator {
 public:
  // Throws kInvalidArgument for options that make no sense.
  Generator(LoadedModel& model, SearchOptions options);

  // Reads tokens as prompt, at once. Throws kInvalidArgument if the sequence would exceed
  // max_length.
  void append(std::span<const TokenId> ids);
  // Chooses the next token and appends it, unless it ends the answer: an end token is returned but
  // not appended. Throws kInvalidArgument when done() or before anything was appended.
  TokenId next();
  // True after an end token, or at max_length. append() and rewind() begin anew.
  bool done() const noexcept { return done_; }
  // Keeps the first `length` tokens; what follows is what would have followed then.
  void rewind(std::int64_t length);

  std::span<const TokenId> sequence() const noexcept { return sequence_; }
  const SearchOptions& options() const noexcept { return search_.options(); }
  bool is_end(TokenId id) const noexcept { return tandem::is_end(options(), id); }

 private:
  void keep(std::span<const float> logits);
  void compute_logits();

  LoadedModel& model_;
  Search search_;
  KvSequence kv_;
  std::vector<TokenId> sequence_;  // the cache holds the first kv_.length() of these
  std::vector<Phase> read_in_;     // the phase that read each token in the cache
  std::vector<float> logits_;      // after the last token; empty: to be computed
  bool done_ = false;
};

}  // namespace tandem
