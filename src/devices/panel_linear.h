// A Linear's weight in the kernels' layout.
#pragma once

#include <cstdint>
#include <span>

#include "devices/device.h"
#include "kernels/kernels.h"

namespace tandem {

struct PanelLinear {
  PanelLayout layout;
  // layout.bytes(), 64-byte aligned.
  Tensor panels;
  // F32 [n], or empty.
  Tensor bias;
  // The value's id in the segment.
  ValueId output = -1;

  const float* bias_data() const noexcept {
    return bias.empty() ? nullptr : bias.as<float>().data();
  }
};

// The layout in which kernels read a weight: int8 codes only if the input is codes too, else
// dequantized to floats.
PanelLayout layout_for(const Weight& weight, DType input);

// Packs the weight of a Linear node whose input has the type `input`, or takes it from the cache.
// `output` is left to the caller. Throws kFormat naming the node for codes out of range.
PanelLinear pack_linear(const Node& node, DType input, const CompileContext& context);

// Splits the panels of several Linears over the pool's threads, calling body(linear, range of its
// panels).
template <typename Body>
void for_each_panel(ThreadPool& pool, std::span<const PanelLinear> linears, Body&& body) {
  if (linears.empty()) return;
  std::int64_t total = 0;
  for (const PanelLinear& linear : linears) total += linear.layout.panels();
  pool.parallel_for(total, 1, [&](Range range) {
    std::int64_t first = 0;
    for (const PanelLinear& linear : linears) {
      const std::int64_t last = first + linear.layout.panels();
      const Range part{std::max(range.begin, first) - first, std::min(range.end, last) - first};
      if (part.size() > 0) body(linear, part);
      first = last;
    }
  });
}

}  // namespace tandem
