#include "runtime/batch_generator.h"

#include "base/error.h"

namespace tandem {
namespace {

TokenId padding_of(const ModelInfo& info) {
  if (info.pad) return static_cast<TokenId>(*info.pad);
  return info.eos.empty() ? 0 : static_cast<TokenId>(info.eos.front());
}

}  // namespace

BatchGenerator::BatchGenerator(LoadedModel& model,
                               std::span<const std::span<const TokenId>> prompts,
                               SearchOptions options, std::optional<TokenId> pad)
    : model_(model),
      search_(with_defaults(std::move(options), model.info())),
      pad_(pad.value_or(padding_of(model.info()))) {
  const std::int64_t max_length = search_.options().max_length;
  std::vector<KvSequence*> sequences;
  rows_.reserve(prompts.size());  // sequences are pointed to
  for (const auto& prompt : prompts) {
    const auto length = static_cast<std::int64_t>(prompt.size());
    if (length < 1 || length > max_length) {
      fail(ErrorCode::kInvalidArgument,
           "[generator] row {}: expected a prompt of 1 to max_length ({}) tokens, got {}",
           rows_.size(), max_length, length);
    }
    rows_.push_back(
        {model.new_sequence(), {prompt.begin(), prompt.end()}, length, length == max_length});
    sequences.push_back(&rows_.back().kv);
    running_ += rows_.back().done ? 0 : 1;
  }
  const std::span<const float> logits = model.prefill_batch(sequences, prompts);
  const auto vocabulary = static_cast<std::size_t>(model.info().vocabulary);
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    if (rows_[r].done) continue;
    const auto row = logits.subspan(r * vocabulary, vocabulary);
    logits_.insert(logits_.end(), row.begin(), row.end());
  }
}

void BatchGenerator::read_last_tokens() {
  std::vector<KvSequence*> sequences;
  std::vector<TokenId> last;
  for (Row& row : rows_) {
    if (row.done) continue;
    sequences.push_back(&row.kv);
    last.push_back(row.sequence.back());
  }
  const std::span<const float> logits = model_.decode_batch(sequences, last);
  logits_.assign(logits.begin(), logits.end());
}

std::span<const TokenId> BatchGenerator::next() {
  if (done()) {
    fail(ErrorCode::kInvalidArgument, "[generator] next: all {} answers have ended", rows_.size());
  }
  if (logits_.empty()) read_last_tokens();
  const auto vocabulary = static_cast<std::size_t>(model_.info().vocabulary);
  std::span<const float> logits = logits_;
  chosen_.assign(rows_.size(), pad_);
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    Row& row = rows_[r];
    if (row.done) continue;
    const TokenId id = chosen_[r] = search_.choose(logits.first(vocabulary), row.sequence);
    logits = logits.subspan(vocabulary);
    const bool ends = is_end(options(), id);
    if (!ends) row.sequence.push_back(id);
    row.done = ends || static_cast<std::int64_t>(row.sequence.size()) >= options().max_length;
    running_ -= row.done ? 1 : 0;
  }
  logits_.clear();
  return chosen_;
}

}  // namespace tandem
