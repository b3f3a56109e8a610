// The steps that a program on this machine's kernels consists of; threads synchronise between them.
// A step is a run of row-wise operators, the Linears that share an input, or an attention.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "devices/buffers.h"
#include "devices/device.h"
#include "devices/panel_linear.h"

namespace tandem {

// Where a segment's value is during a run.
struct Slot {
  enum class Place : std::uint8_t { kNone, kInput, kOutput, kScratch };
  Place place = Place::kNone;
  // Index of the input or output, or offset in the scratch memory.
  std::int64_t at = 0;
};

// One run, as seen by the steps of a program.
class StepRun {
 public:
  StepRun(const RunContext& context, std::span<const Slot> slots, std::int64_t fixed_rows,
          std::byte* step_scratch)
      : context_(context), slots_(slots), fixed_rows_(fixed_rows), step_scratch_(step_scratch) {}

  ThreadPool& pool() const noexcept { return context_.pool; }
  std::span<const SequenceSlice> slices() const noexcept { return context_.slices; }
  // Rows that are computed, including padding.
  std::int64_t rows(RowSpaceId space) const noexcept {
    return fixed_rows_ > 0 ? fixed_rows_ : given_rows(space);
  }
  // Rows with data, without padding.
  std::int64_t given_rows(RowSpaceId space) const noexcept {
    return context_.rows[static_cast<std::size_t>(space)];
  }
  std::byte* buffer(ValueId id) const noexcept {
    const Slot& slot = slots_[static_cast<std::size_t>(id)];
    switch (slot.place) {
      case Slot::Place::kInput:
        return context_.inputs[static_cast<std::size_t>(slot.at)];
      case Slot::Place::kOutput:
        return context_.outputs[static_cast<std::size_t>(slot.at)];
      case Slot::Place::kScratch:
        return context_.scratch + slot.at;
      case Slot::Place::kNone:
        break;
    }
    return nullptr;
  }
  template <typename T>
  T* value(ValueId id) const noexcept {
    return reinterpret_cast<T*>(buffer(id));
  }
  // The scratch memory of the current step, of the size it requested.
  template <typename T>
  T* scratch() const noexcept {
    return reinterpret_cast<T*>(step_scratch_);
  }

 private:
  const RunContext& context_;
  std::span<const Slot> slots_;
  std::int64_t fixed_rows_;
  std::byte* step_scratch_;
};

class Step {
 public:
  virtual ~Step() = default;
  virtual void run(const StepRun& run) const = 0;
  // Scratch memory that the step needs during a run.
  virtual std::int64_t scratch_bytes() const { return 0; }
  virtual std::int64_t weight_bytes() const { return 0; }
};

// The input for making steps; not needed once they are made.
struct StepContext {
  const Graph& segment;
  const Kernels& kernels;
  const CompileContext& compile;
  // Of an attention with fixed shapes; 0: attention is computed in float.
  std::int64_t context = 0;

  std::int64_t max_rows(RowSpaceId space) const {
    return compile.max_rows[static_cast<std::size_t>(space)];
  }
};

// True for every operator but Linear and attention: each row is computed from the corresponding
// input rows alone, so that threads need not synchronise within a run of such nodes.
bool is_row_wise(Op op) noexcept;
std::unique_ptr<Step> make_row_wise_step(const StepContext& context, std::vector<NodeId> nodes);

// True for Linears on one float input with the same kind and group size: the input is quantized
// once if the kernels need that, and the panels form one list.
bool can_share_input(const Graph& segment, const Node& a, const Node& b);
std::unique_ptr<Step> make_linear_step(const StepContext& context, std::vector<NodeId> nodes);

// A Linear on codes and the Dequantize that is the only reader of its sums; -1 if the sums
// themselves are needed.
struct Int8Member {
  NodeId linear = -1;
  NodeId dequantize = -1;
};
// Int8 Linears on the same input.
std::unique_ptr<Step> make_int8_linear_step(const StepContext& context,
                                            std::span<const Int8Member> members);
// The same on int16 codes.
std::unique_ptr<Step> make_int16_linear_step(const StepContext& context,
                                             std::span<const Int8Member> members);

std::unique_ptr<Step> make_attention_step(const StepContext& context, NodeId node);
// Attention and the rotary embeddings of its q and k, in integers (devices/npu/npu_device.h); a q or k
// that no rotary embedding of the segment writes is not rotated.
std::unique_ptr<Step> make_int_attention_step(const StepContext& context, NodeId node);

}  // namespace tandem
