// The NPU as a device, emulated by this machine's integer kernels ("npu/host").
//
// The contract of an NPU program, which the emulation follows to the letter: a fixed number of rows
// per run (a shorter run is padded with zero codes), static symmetric int8 activations with one
// scale per tensor, int8 weights with one scale per output channel, exact int32 sums. Target
// `host`: a segment's inputs and outputs are float32; each Linear's output is its sum times its
// scales. Norms and the residual stream stay on the CPU.
//
// Attention and RoPE stay there, too, unless the program is made for a context of a fixed length. Then
// the new rows are the last columns of that context, and which columns a row attends to is data: a
// tree of drafts is another mask, not another program. With codes x = code * scale and numbers in
// fixed point (kernels/fixed_point.h), all of it in integers:
//   q, k      int16, a scale each (int16_scales); RoPE with cosines and sines in units of 2^-14, exact
//             in int32
//   queries   int16, requantized from there: rotated q times the scales of keys
//   keys      int8 with a scale per channel, requantized from there, in the cache
//   values    int8 with a scale per channel, in the cache
//   scores    queries times keys, exact in int32
//   softmax   with probabilities in units of 2^-16 (kernels/softmax16.h), which are exactly 0 for
//             columns that are hidden
//   output    probabilities times values, exact in int32, times the scales of values
// Nothing depends on the length of the context, on other rows, nor on what hidden columns hold, so
// that the emulation computes no columns that a row does not see.
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
  // Dequantize after them, and the activation functions and products in between; with spec.context
  // attention that has scales, and its rotary embeddings: one claim per connected part.
  Offer offer(const Graph& graph, const PhaseSpec& spec) const override;
  std::unique_ptr<Program> compile(const Graph& segment,
                                   const CompileContext& context) const override;

 private:
  const Kernels& kernels_;
};

}  // namespace tandem
