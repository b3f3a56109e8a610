// The pass driver.
#include "graph/pass.h"

#include <chrono>
#include <utility>

#include "base/error.h"

namespace tandem {

Graph run_passes(Graph graph, std::span<const Pass> passes, PassContext& context) {
  for (const Pass& pass : passes) {
    if (context.observer.cancelled())
      fail(ErrorCode::kCancelled, "[passes] interrupted before {}", pass.name);
    const auto start = std::chrono::steady_clock::now();
    Graph made = pass.run(graph, context);
    try {
      verify(made);
    } catch (const Error& error) {
      fail(ErrorCode::kInternal, "[pass {}] {}", pass.name, error.what());
    }
    graph = std::move(made);
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    context.timings.push_back({pass.name, time.count()});
    if (pass.name == context.dump_after && context.dump) context.dump(graph);
  }
  return graph;
}

}  // namespace tandem
