// Runs a graph over a prompt on the CPU, with the kernels of calibration and a cache that rounds nothing
// unless a test asks for another.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "devices/cpu/cpu_device.h"
#include "devices/no_panel_cache.h"
#include "devices/npu/npu_device.h"
#include "execute/executor.h"
#include "execute/kv_pool.h"
#include "graph/graph.h"
#include "quantize/window_executor.h"

namespace tandem::testing {

// The graph's outputs, of every token: [tokens, width] each. A graph without attention has no cache.
// `context`: of an attention on the NPU; 0: everything is on the CPU.
inline std::vector<std::vector<float>> run_outputs(const Graph& graph,
                                                   std::span<const std::int32_t> ids,
                                                   DType cache = DType::kF32,
                                                   std::int64_t context = 0) {
  ThreadPool pool(2);
  const CpuDevice cpu(window_kernels());
  const NpuHostDevice npu(window_kernels());
  NoPanelCache panels;
  std::vector<DeviceThreads> devices = {{&npu, &pool}, {&cpu, &pool}};
  if (context == 0) devices.erase(devices.begin());
  const auto tokens = static_cast<std::int64_t>(ids.size());
  const std::int64_t selected_rows[] = {tokens};
  const Executor executor(graph, {Phase::kPrefill, tokens, context}, devices, panels,
                          selected_rows);
  KvShape shape{.layers = graph.layers(), .dtype = cache};
  for (const Node& node : graph.nodes())
    if (node.op == Op::kGroupQueryAttention) {
      shape.kv_heads = node.as<AttentionAttributes>().kv_heads;
      shape.head_dim = node.as<AttentionAttributes>().head_dim;
    }
  SequenceSlice slice{.rows = tokens};
  std::optional<KvSequence> sequence;
  if (shape.head_dim > 0) {
    sequence.emplace(std::make_shared<KvPool>(shape));
    sequence->reserve(tokens);
    slice.kv = sequence->view();
  }
  const SequenceSlice slices[] = {slice};
  std::vector<std::int32_t> all(ids.size());
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::int32_t>(i);
  const void* const inputs[] = {ids.data(), all.data()};
  const std::int64_t rows[] = {tokens, tokens};
  Arena arena = executor.make_arena();
  executor.run({inputs, rows, slices}, arena);
  std::vector<std::vector<float>> outputs;
  for (std::size_t i = 0; i < graph.outputs().size(); ++i) {
    const float* values = executor.output(arena, i);
    outputs.emplace_back(values, values + tokens * graph.value(graph.outputs()[i]).width);
  }
  return outputs;
}

// Logits, [tokens, vocabulary].
inline std::vector<float> run_graph(const Graph& graph, std::span<const std::int32_t> ids,
                                    DType cache = DType::kF32, std::int64_t context = 0) {
  return run_outputs(graph, ids, cache, context).front();
}

}  // namespace tandem::testing
