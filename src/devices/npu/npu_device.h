// The NPU as a device, emulated by this machine's integer kernels ("npu/host").
//
// The contract of an NPU program, which the emulation follows to the letter: a fixed number of rows
// per run (a shorter run is padded with zero codes), static symmetric int8 activations with one
// scale per tensor, int8 weights with one scale per output channel, exact int32 sums. Target
// `host`: a segment's inputs and outputs are float32; each Linear's output is its sum times its
// scales. Norms, RoPE, attention and the residual stream stay on the CPU.
#pragma once

#include <memory>
#include <string_view>

#include "devices/device.h"
#include "kernels/kernels.h"

namespace tandem {

// Prompt tokens that a program reads per run unless a recipe says otherwise.
inline constexpr std::int64_t kDefaultChunk = 128;

class NpuHostDevice : public Device {
 public:
  // `kernels` must outlive the device and its programs.
  explicit NpuHostDevice(const Kernels& kernels) : kernels_(kernels) {}

  std::string_view name() const noexcept override { return "npu"; }
  // Claims int8 Linears with static activations together with the Quantize before and the
  // Dequantize after them, and the activation functions and products in between: one claim per
  // connected part.
  Offer offer(const Graph& graph, const PhaseSpec& spec) const override;
  std::unique_ptr<Program> compile(const Graph& segment,
                                   const CompileContext& context) const override;

 private:
  const Kernels& kernels_;
};

}  // namespace tandem
