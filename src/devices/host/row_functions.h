// Functions that compute some rows of each row-wise operator.
#pragma once

#include <vector>

#include "devices/host/steps.h"
#include "kernels/kernels.h"

namespace tandem {

struct RowRun;
using RowFunction = void (*)(const RowRun&);

struct RowOperand {
  ValueId id = -1;
  Value value;
  // The number of rows that the value's buffer has room for.
  std::int64_t max_rows = 0;
};

struct RowOp {
  Node node;
  RowFunction function;
  std::vector<RowOperand> inputs;
  std::vector<RowOperand> outputs;
};

// Some rows of one operator in one run.
struct RowRun {
  const Kernels& kernels;
  const StepRun& run;
  const RowOp& op;
  Range range;
  // Per thread: for RotaryAngles, half as many floats as it writes per row.
  float* scratch;

  template <typename T = float>
  const T* in(std::size_t i) const noexcept {
    return run.value<T>(op.inputs[i].id);
  }
  template <typename T = float>
  T* out() const noexcept {
    return run.value<T>(op.outputs.front().id);
  }
  CodeRows codes(const RowOperand& operand) const noexcept {
    return {run.buffer(operand.id), operand.value.width, operand.max_rows};
  }
  // Width of the first output.
  std::int64_t width() const noexcept { return op.outputs.front().value.width; }
};

// Null if the operator is not row-wise.
RowFunction row_function(Op op) noexcept;

}  // namespace tandem
