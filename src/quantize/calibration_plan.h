// How a graph is run over many windows of text block by block: where it is cut, and where its
// values lie.
#pragma once

#include <cstdint>
#include <vector>

#include "graph/graph.h"
#include "tensor/tensor.h"

namespace tandem {

// A run of nodes that is compiled as one program. The cuts are where an input of Linears has just
// been written.
struct CalibrationSegment {
  NodeId begin = 0;
  NodeId end = 0;
  ValueId recorded = -1;        // value to record before the segment runs, -1: none
  std::vector<NodeId> linears;  // nodes of the block that read `recorded`
};

struct CalibrationBlock {
  std::int32_t layer = -1;  // -1: what comes before the first decoder block
  std::vector<CalibrationSegment> segments;
};

// The blocks in order; nodes after the last one are left out. Throws kUnsupported naming the node
// if the nodes of a layer do not stand together.
std::vector<CalibrationBlock> plan_calibration(const Graph& graph);

// Memory for the values of a planned graph. A value that a later block reads has rows for all
// tokens; any other has them for one batch only. Values share memory when the last segment that
// reads one comes before the segment that writes the other.
class CalibrationValues {
 public:
  CalibrationValues(const Graph& graph, const std::vector<CalibrationBlock>& blocks,
                    std::int64_t tokens, std::int64_t batch_rows);

  // One pointer per value of the graph, for the batch whose first row is token `first_token`.
  std::vector<float*> pointers(std::int64_t first_token) const;

 private:
  struct Slot {
    std::int64_t width = 0;
    bool all_tokens = false;
    int busy_until = -1;  // index of the last segment that reads what lies here
    Tensor memory;
    float* data = nullptr;
  };
  std::vector<Slot> slots_;
  std::vector<int> slot_of_;  // of each value, -1: none
};

}  // namespace tandem
