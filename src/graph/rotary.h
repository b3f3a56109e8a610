// The frequencies of a rotary embedding, which in LongRoPE and dynamic NTK depend on the sequence
// length.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "graph/graph.h"

namespace tandem {

// theta^(2i / rotary_dim) for each pair i, [rotary_dim / 2], in tokens per radian, in float32 as
// torch computes it.
std::vector<float> rotary_powers(float theta, std::int64_t rotary_dim);
// 1 / theta^(2i / rotary_dim), the unscaled inverse frequencies.
std::vector<float> unscaled_frequencies(float theta, std::int64_t rotary_dim);

// Sequence lengths in the same epoch share their frequencies: epoch 0 is up to the original
// context; beyond it, LongRoPE has a single epoch 1, and dynamic NTK a new epoch for each length.
std::int64_t rotary_epoch(const RotaryExtension& extension, std::int64_t length) noexcept;
// The epoch for the graph's rotary embeddings, which share one extension; 0 if there are none.
std::int64_t rotary_epoch(const Graph& graph, std::int64_t length) noexcept;

// The inverse frequencies of an epoch, [rotary_dim / 2].
void write_frequencies(const RotaryAnglesAttributes& attributes, std::int64_t epoch,
                       std::span<float> out) noexcept;
// Writes the cosines, then the sines of one position, times `factor`: 2 * frequencies.size()
// floats.
void write_angles(std::span<const float> frequencies, std::int64_t position, float factor,
                  float* out) noexcept;

}  // namespace tandem
