#include "runtime/generator.h"

#include <algorithm>

#include "base/error.h"

namespace tandem {

SearchOptions with_defaults(SearchOptions options, const ModelInfo& info) {
  if (options.eos.empty()) options.eos = info.eos;
  if (options.max_length == 0) options.max_length = info.context_length;
  if (options.max_length > info.context_length) {
    fail(ErrorCode::kInvalidArgument,
         "[generator] max_length ({}) cannot be greater than the model's context length ({})",
         options.max_length, info.context_length);
  }
  return options;
}

bool is_end(const SearchOptions& options, TokenId id) noexcept {
  return std::find(options.eos.begin(), options.eos.end(), id) != options.eos.end();
}

Generator::Generator(LoadedModel& model, SearchOptions options)
    : model_(model),
      search_(with_defaults(std::move(options), model.info())),
      kv_(model.new_sequence()) {}

void Generator::append(std::span<const TokenId> ids) {
  if (ids.empty()) fail(ErrorCode::kInvalidArgument, "[generator] append: no tokens given");
  const auto length = static_cast<std::int64_t>(sequence_.size() + ids.size());
  if (length > options().max_length) {
    fail(ErrorCode::kInvalidArgument,
         "[generator] {} tokens given after {}: the sequence would exceed max_length ({})",
         ids.size(), sequence_.size(), options().max_length);
  }
  // What was generated last has not been read yet; it is part of the prompt now.
  std::vector<TokenId> grown = sequence_;
  grown.insert(grown.end(), ids.begin(), ids.end());
  const auto read = static_cast<std::size_t>(kv_.length());
  keep(model_.prefill(kv_, std::span(grown).subspan(read)));
  sequence_ = std::move(grown);
  read_in_.resize(read);
  read_in_.resize(sequence_.size(), Phase::kPrefill);
  done_ = length >= options().max_length;
}

// The model's logits lie in memory that its next run, of whichever generator, writes again.
void Generator::keep(std::span<const float> logits) {
  logits_.assign(logits.begin(), logits.end());
}

void Generator::compute_logits() {
  const auto length = static_cast<std::int64_t>(sequence_.size());
  // After a rewind the cache may already hold the last token: read it once more for its logits, in
  // the phase that read it before, whose weights may be others than those of decode.
  kv_.rewind(std::min(kv_.length(), length - 1));
  while (kv_.length() < length) {
    const auto at = static_cast<std::size_t>(kv_.length());
    if (at >= read_in_.size()) read_in_.resize(at + 1, Phase::kDecode);
    keep(read_in_[at] == Phase::kPrefill ? model_.prefill(kv_, std::span(sequence_).subspan(at, 1))
                                         : model_.decode(kv_, sequence_[at]));
  }
}

TokenId Generator::next() {
  if (done_) {
    fail(ErrorCode::kInvalidArgument,
         "[generator] next: the answer has ended after {} tokens (max_length {})", sequence_.size(),
         options().max_length);
  }
  if (sequence_.empty())
    fail(ErrorCode::kInvalidArgument, "[generator] next: append a prompt first");
  if (logits_.empty()) compute_logits();
  const TokenId id = search_.choose(logits_, sequence_);
  logits_.clear();
  if (is_end(id)) {
    done_ = true;
    return id;
  }
  sequence_.push_back(id);
  done_ = static_cast<std::int64_t>(sequence_.size()) >= options().max_length;
  return id;
}

void Generator::rewind(std::int64_t length) {
  if (length < 0 || length > static_cast<std::int64_t>(sequence_.size())) {
    fail(ErrorCode::kInvalidArgument, "[generator] cannot rewind to {} tokens, the sequence has {}",
         length, sequence_.size());
  }
  sequence_.resize(static_cast<std::size_t>(length));
  kv_.rewind(std::min(length, kv_.length()));
  read_in_.resize(static_cast<std::size_t>(kv_.length()));
  logits_.clear();
  done_ = length >= options().max_length;
}

}  // namespace tandem
