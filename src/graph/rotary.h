// The frequencies of a rotary embedding, which LongRoPE and dynamic NTK make depend on how long the
// sequence is.
#pragma once

#include <cstdint>
#include <vector>

#include "graph/graph.h"

namespace tandem {

// theta^(2i / rotary_dim) for the pairs i, [rotary_dim / 2] in tokens per radian, in float32 as
// torch computes it.
std::vector<float> rotary_powers(float theta, std::int64_t rotary_dim);
// 1 / theta^(2i / rotary_dim): unscaled inverse frequencies.
std::vector<float> unscaled_frequencies(float theta, std::int64_t rotary_dim);

// Sequences whose lengths lie in the same epoch turn alike: epoch 0 up to the original context;
// beyond it 1 with LongRoPE, and with dynamic NTK a new one for each length.
std::int64_t rotary_epoch(const RotaryExtension& extension, std::int64_t length) noexcept;
// Of the graph's rotary embeddings, which share one extension; 0 if there are none.
std::int64_t rotary_epoch(const Graph& graph, std::int64_t length) noexcept;

// [rotary_dim / 2] inverse frequencies of an epoch.
std::vector<float> frequencies_of(const RotaryAttributes& attributes, std::int64_t epoch);

}  // namespace tandem
