// Programs that run on this machine's kernels: those of the CPU, and those of the NPU emulated
// here.
#pragma once

#include <memory>

#include "devices/device.h"
#include "kernels/kernels.h"

namespace tandem {

enum class RowCount : std::uint8_t {
  // Every run computes the rows it is given.
  kGiven,
  // Every run computes spec.rows rows, padding with zero codes, as hardware with fixed shapes does.
  kFixed,
};

// Compiles any segment whose operators all have kernels. `kernels` must outlive the program.
std::unique_ptr<Program> compile_for_host(const Graph& segment, const Kernels& kernels,
                                          const CompileContext& context, RowCount rows);

}  // namespace tandem
