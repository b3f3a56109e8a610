#include "quantize/calibration_plan.h"

#include <algorithm>

#include "base/error.h"

namespace tandem {
namespace {

// Opens the segment that `id` begins, where a Linear reads a value that is not recorded yet; else
// extends the last.
void append_node(const Graph& graph, CalibrationBlock& block, NodeId id) {
  const Node& node = graph.node(id);
  auto& segments = block.segments;
  if (node.op == Op::kLinear && block.layer >= 0) {
    const ValueId input = node.inputs.at(0);
    auto reader = std::find_if(segments.begin(), segments.end(),
                               [&](const CalibrationSegment& s) { return s.recorded == input; });
    if (reader == segments.end()) {
      segments.push_back({id, id, input, {}});
      reader = segments.end() - 1;
    }
    reader->linears.push_back(id);
  } else if (segments.empty()) {
    segments.push_back({id, id, -1, {}});
  }
  segments.back().end = id + 1;
}

// When a value is written and last read, in segments counted over all blocks; in which block it is
// written.
struct Lifetime {
  int written = -1;
  int block = -1;
  int last_read = -1;
  bool all_tokens = false;
};

std::vector<Lifetime> lifetimes(const Graph& graph, const std::vector<CalibrationBlock>& blocks) {
  std::vector<Lifetime> values(graph.values().size());
  int segment_index = 0;
  for (std::size_t block = 0; block < blocks.size(); ++block)
    for (const CalibrationSegment& segment : blocks[block].segments) {
      for (NodeId id = segment.begin; id < segment.end; ++id) {
        const Node& node = graph.node(id);
        for (const ValueId input : node.inputs) {
          Lifetime& value = values[static_cast<std::size_t>(input)];
          value.last_read = segment_index;
          if (value.block >= 0 && value.block != static_cast<int>(block)) value.all_tokens = true;
        }
        Lifetime& output = values[static_cast<std::size_t>(node.output)];
        output = {segment_index, static_cast<int>(block), segment_index, false};
      }
      ++segment_index;
    }
  return values;
}

}  // namespace

std::vector<CalibrationBlock> plan_calibration(const Graph& graph) {
  const std::int32_t layers = graph.layers();
  std::vector<CalibrationBlock> blocks(1);
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    const std::int32_t current = blocks.back().layer;
    if (node.layer < 0 && current == layers - 1) break;  // the head
    if (node.layer == current + 1) {
      blocks.push_back({node.layer, {}});
    } else if (node.layer != current) {
      fail(ErrorCode::kUnsupported,
           "[calibrate] {}: node of layer {} after nodes of layer {}: expected each layer's nodes "
           "in one piece",
           node.name, node.layer, current);
    }
    append_node(graph, blocks.back(), id);
  }
  return blocks;
}

CalibrationValues::CalibrationValues(const Graph& graph,
                                     const std::vector<CalibrationBlock>& blocks,
                                     std::int64_t tokens, std::int64_t batch_rows)
    : slot_of_(graph.values().size(), -1) {
  const std::vector<Lifetime> values = lifetimes(graph, blocks);
  // Nodes write values in the order of their ids, so that slots are handed out in the order of
  // time.
  for (std::size_t v = 0; v < values.size(); ++v) {
    const Lifetime& value = values[v];
    if (value.written < 0) continue;
    const std::int64_t width = graph.values()[v].width;
    const auto is_free = [&](const Slot& slot) {
      return slot.width == width && slot.all_tokens == value.all_tokens &&
             slot.busy_until < value.written;
    };
    auto slot = std::find_if(slots_.begin(), slots_.end(), is_free);
    if (slot == slots_.end()) {
      Slot fresh{width, value.all_tokens, -1, {}, nullptr};
      std::byte* data = nullptr;
      fresh.memory =
          Tensor::allocate(DType::kF32, {value.all_tokens ? tokens : batch_rows, width}, &data);
      fresh.data = reinterpret_cast<float*>(data);
      slot = slots_.insert(slots_.end(), std::move(fresh));
    }
    slot->busy_until = value.last_read;
    slot_of_[v] = static_cast<int>(slot - slots_.begin());
  }
}

std::vector<float*> CalibrationValues::pointers(std::int64_t first_token) const {
  std::vector<float*> result;
  for (const int index : slot_of_) {
    if (index < 0) {
      result.push_back(nullptr);
      continue;
    }
    const Slot& slot = slots_[static_cast<std::size_t>(index)];
    result.push_back(slot.data + (slot.all_tokens ? first_token * slot.width : 0));
  }
  return result;
}

}  // namespace tandem
