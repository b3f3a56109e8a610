#include "devices/cpu/rotary_tables.h"

#include <algorithm>
#include <cmath>

namespace tandem {

RotaryTable::RotaryTable(const RotaryAttributes& attributes)
    : inverse_frequencies_(attributes.inverse_frequencies),
      attention_factor_(attributes.attention_factor),
      half_(static_cast<std::int64_t>(attributes.inverse_frequencies.size())) {}

bool RotaryTable::matches(const RotaryAttributes& attributes) const noexcept {
  return inverse_frequencies_ == attributes.inverse_frequencies &&
         attention_factor_ == attributes.attention_factor;
}

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

std::shared_ptr<RotaryTable> RotaryTables::get(const RotaryAttributes& attributes) {
  for (const auto& table : tables_) {
    if (table->matches(attributes)) return table;
  }
  return tables_.emplace_back(std::make_shared<RotaryTable>(attributes));
}

}  // namespace tandem
