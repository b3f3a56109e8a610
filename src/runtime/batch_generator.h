// Several prompts continued side by side: every step reads one token of each that has not ended, in
// one run, so that weights are read once for all of them. The semantics are those of ONNX Runtime
// GenAI for a batch: all prompts at once, then token after token; a row that has ended gives
// padding.
#pragma once

#include <span>
#include <vector>

#include "runtime/generator.h"

namespace tandem {

class BatchGenerator {
 public:
  // Reads the prompts (unpad() makes them of a padded matrix). Options as for Generator; min_length
  // and max_length count a row's own tokens, without padding, so that each row is what a Generator
  // would make of it alone. Rows draw from one source of randomness, in their order. `pad` is what
  // ended rows give: the model's padding token, or its first end token, unless given.
  // Throws kInvalidArgument for what Generator refuses, naming the row.
  BatchGenerator(LoadedModel& model, std::span<const std::span<const TokenId>> prompts,
                 SearchOptions options, std::optional<TokenId> pad = {});

  // One token per row, valid until the next call: chosen and appended, an end token (which is not
  // appended), or padding. Throws kInvalidArgument when all rows have ended.
  std::span<const TokenId> next();
  bool done() const noexcept { return running_ == 0; }
  bool done(std::size_t row) const { return rows_.at(row).done; }

  std::size_t size() const noexcept { return rows_.size(); }
  std::int64_t prompt_length(std::size_t row) const { return rows_.at(row).prompt; }
  // The row's prompt and answer, without end token and padding.
  std::span<const TokenId> sequence(std::size_t row) const { return rows_.at(row).sequence; }
  const SearchOptions& options() const noexcept { return search_.options(); }
  TokenId pad() const noexcept { return pad_; }

 private:
  struct Row {
    KvSequence kv;
    std::vector<TokenId> sequence;  // the cache holds all but, at times, the last of these
    std::int64_t prompt = 0;
    bool done = false;
  };
  void read_last_tokens();

  LoadedModel& model_;
  Search search_;
  TokenId pad_;
  std::vector<Row> rows_;
  std::size_t running_ = 0;      // rows that have not ended
  std::vector<float> logits_;    // of the running rows, in order; empty: to be computed
  std::vector<TokenId> chosen_;  // what next() gave
};

}  // namespace tandem
