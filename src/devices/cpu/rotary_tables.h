// Cosines and sines of rotary embeddings by position, computed once and shared by all layers.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "devices/device.h"
#include "graph/graph.h"

namespace tandem {

// One set of frequencies.
class RotaryTable {
 public:
  RotaryTable(std::vector<float> inverse_frequencies, float attention_factor);

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

// The tables of one rotary embedding: one for each epoch of lengths that is in use.
class RotaryTableSet {
 public:
  explicit RotaryTableSet(const RotaryAttributes& attributes) : attributes_(attributes) {}

  bool matches(const RotaryAttributes& attributes) const noexcept;
  // Makes the positions of these slices available, and lets go of epochs that no slice is in; not
  // to be called while another thread reads.
  void prepare(std::span<const SequenceSlice> slices);
  const RotaryTable& of(const SequenceSlice& slice) const;

 private:
  RotaryAttributes attributes_;
  std::map<std::int64_t, RotaryTable> tables_;  // by epoch
};

// One set for each distinct rotary embedding of a model.
class RotaryTables {
 public:
  std::shared_ptr<RotaryTableSet> get(const RotaryAttributes& attributes);

 private:
  std::vector<std::shared_ptr<RotaryTableSet>> sets_;
};

}  // namespace tandem
