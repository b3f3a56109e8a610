// A graph made ready to run in one phase: placed, compiled into programs, with memory for its
// values.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "devices/device.h"
#include "devices/placement.h"

namespace tandem {

class Executor {
 public:
  // `graph` must outlive the executor. max_rows: tokens of one run; max_selected: wanted logit rows
  // of one run.
  Executor(const Graph& graph, Phase phase, std::span<const Device* const> devices,
           const CompileContext& context);

  // Runs all segments. Returns the logits of the selected rows, [selected.size(), vocabulary],
  // valid until the next run.
  std::span<const float> run(ThreadPool& pool, std::span<const std::int32_t> ids,
                             std::span<const SequenceSlice> slices,
                             std::span<const std::int32_t> selected);

  std::int64_t max_rows() const noexcept { return max_rows_; }
  const Placement& placement() const noexcept { return placement_; }
  std::int64_t weight_bytes() const noexcept;  // packed weights read in one run
  std::int64_t activation_bytes() const noexcept { return memory_.elements() * 4; }

 private:
  const Graph& graph_;
  Placement placement_;
  std::int64_t max_rows_;
  std::int64_t max_selected_;
  std::vector<std::unique_ptr<Program>> programs_;  // one per segment
  Tensor memory_;                                   // of all values; F32
  std::vector<float*> values_;                      // one per graph value
};

}  // namespace tandem
