// Cosines and sines of rotary embeddings by position, computed once and shared by all layers.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "graph/graph.h"

namespace tandem {

class RotaryTable {
 public:
  explicit RotaryTable(const RotaryAttributes& attributes);

  bool matches(const RotaryAttributes& attributes) const noexcept;
  // Makes positions [0, count) available; not to be called while another thread reads.
  void grow(std::int64_t count);
  std::int64_t half() const noexcept { return half_; }
  const float* cos(std::int64_t position) const noexcept {
    return table_.data() + position * 2 * half_;
  }
  const float* sin(std::int64_t position) const noexcept { return cos(position) + half_; }

 private:
  std::vector<float> inverse_frequencies_;
  float attention_factor_;
  std::int64_t half_;
  std::vector<float> table_;  // [positions][cos, sin][half]
};

// One table for each distinct set of frequencies in a model.
class RotaryTables {
 public:
  std::shared_ptr<RotaryTable> get(const RotaryAttributes& attributes);

 private:
  std::vector<std::shared_ptr<RotaryTable>> tables_;
};

}  // namespace tandem
