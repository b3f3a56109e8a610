#include "devices/cpu/rotary_tables.h"

#include <algorithm>
#include <cmath>

#include "graph/rotary.h"

namespace tandem {

RotaryTable::RotaryTable(std::vector<float> inverse_frequencies, float attention_factor)
    : inverse_frequencies_(std::move(inverse_frequencies)),
      attention_factor_(attention_factor),
      half_(static_cast<std::int64_t>(inverse_frequencies_.size())) {}

void RotaryTable::grow(std::int64_t count) {
  const std::int64_t have =
      half_ == 0 ? count : static_cast<std::int64_t>(table_.size()) / (2 * half_);
  if (have >= count) return;
  const std::int64_t positions = std::max(count, have * 2);
  table_.resize(static_cast<std::size_t>(positions * 2 * half_));
  for (std::int64_t p = have; p < positions; ++p) {
    float* row = table_.data() + p * 2 * half_;
    for (std::int64_t i = 0; i < half_; ++i) {
      // The angle is a float32 product, as in the reference implementations; far positions depend
      // on it.
      const float angle = static_cast<float>(p) * inverse_frequencies_[static_cast<std::size_t>(i)];
      row[i] = std::cos(angle) * attention_factor_;
      row[half_ + i] = std::sin(angle) * attention_factor_;
    }
  }
}

bool RotaryTableSet::matches(const RotaryAttributes& attributes) const noexcept {
  const RotaryExtension& a = attributes_.extension;
  const RotaryExtension& b = attributes.extension;
  return attributes_.inverse_frequencies == attributes.inverse_frequencies &&
         attributes_.attention_factor == attributes.attention_factor &&
         a.original_context == b.original_context &&
         a.inverse_frequencies == b.inverse_frequencies && a.theta == b.theta &&
         a.factor == b.factor;
}

void RotaryTableSet::prepare(std::span<const SequenceSlice> slices) {
  const auto epoch_of = [&](const SequenceSlice& slice) {
    return rotary_epoch(attributes_.extension, slice.length());
  };
  // Epoch 0 is come back to by every new sequence.
  std::erase_if(tables_, [&](const auto& entry) {
    return entry.first != 0 && std::ranges::find(slices, entry.first, epoch_of) == slices.end();
  });
  for (const SequenceSlice& slice : slices) {
    const std::int64_t epoch = epoch_of(slice);
    auto found = tables_.find(epoch);
    if (found == tables_.end()) {
      found = tables_
                  .emplace(epoch, RotaryTable(frequencies_of(attributes_, epoch),
                                              attributes_.attention_factor))
                  .first;
    }
    found->second.grow(slice.position + slice.rows);
  }
}

const RotaryTable& RotaryTableSet::of(const SequenceSlice& slice) const {
  return tables_.at(rotary_epoch(attributes_.extension, slice.length()));
}

std::shared_ptr<RotaryTableSet> RotaryTables::get(const RotaryAttributes& attributes) {
  for (const auto& set : sets_) {
    if (set->matches(attributes)) return set;
  }
  return sets_.emplace_back(std::make_shared<RotaryTableSet>(attributes));
}

}  // namespace tandem
