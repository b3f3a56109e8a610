// What a CPU program is made of: steps between which the threads meet. A step is a run of row-wise
// operators, the Linears that share an input, or an attention.
#pragma once

#include <memory>
#include <vector>

#include "devices/cpu/rotary_tables.h"
#include "devices/device.h"
#include "devices/packed_linear.h"

namespace tandem {

class Step {
 public:
  virtual ~Step() = default;
  virtual void run(const RunContext& context) = 0;
  virtual std::int64_t weight_bytes() const { return 0; }
};

// What every step of a device shares.
struct StepContext {
  const Graph& graph;
  const Kernels& kernels;
  std::shared_ptr<Scratch> scratch;
  std::shared_ptr<RotaryTables> rotary;
  const CompileContext& compile;
};

// Embedding, norms, rotary embedding, activations, sums, products: each row is computed from that
// row alone, so that a run of such nodes needs no meeting of threads in between.
bool is_row_wise(Op op) noexcept;
std::unique_ptr<Step> make_row_wise_step(const StepContext& context, std::vector<NodeId> nodes);

// Linears with one input, of one kind and group size: the input is quantized once, the panels of
// all are one list.
bool can_share_input(const Node& a, const Node& b) noexcept;
std::unique_ptr<Step> make_linear_step(const StepContext& context, std::vector<NodeId> nodes);

std::unique_ptr<Step> make_attention_step(const StepContext& context, NodeId node);

}  // namespace tandem
