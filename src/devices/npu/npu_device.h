// The NPU as a device, executed by this machine's integer kernels ("npu/host").
//
// The contract of an NPU program, which host keeps to the letter: a fixed number of rows a run (the
// chunk; a shorter run is padded with zero codes), static symmetric int8 activations with one scale
// per tensor, int8 weights with a scale per output channel, exact int32 sums. Target `host`: a
// segment takes and gives float32; each Linear's output is its sum times its scales. Norms, RoPE,
// attention and the residual stream stay on the CPU.
#pragma once

#include <memory>
#include <string_view>

#include "devices/device.h"
#include "devices/packed_linear.h"
#include "kernels/kernels.h"

namespace tandem {

// Prompt tokens that a program reads at once unless a recipe says otherwise.
inline constexpr std::int64_t kDefaultChunk = 128;

class NpuHostDevice : public Device {
 public:
  NpuHostDevice(const Kernels& kernels, std::int64_t chunk);
  ~NpuHostDevice() override;

  std::string_view name() const noexcept override { return "npu"; }
  std::int64_t chunk() const noexcept { return chunk_; }
  // Linears with static int8 weights, and the activation and product between gate, up and down.
  Support supports(const Graph& graph, const Node& node, Phase phase) const override;
  // context.max_rows must be at least the chunk: padding rows of outputs are written, and mean
  // nothing.
  std::unique_ptr<Program> compile(const Graph& graph, NodeId begin, NodeId end,
                                   const CompileContext& context) const override;

 private:
  const Kernels& kernels_;
  std::int64_t chunk_;
  std::shared_ptr<Scratch> scratch_;
};

}  // namespace tandem
