// Passes, which are functions from graph to graph, and the driver that runs a list of them.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/observer.h"
#include "base/thread_pool.h"
#include "graph/graph.h"

namespace tandem {

// What a pass receives besides its graph, and the record of the passes that ran.
struct PassContext {
  struct Timing {
    std::string pass;
    double seconds = 0;
  };

  ThreadPool& pool;
  Observer& observer;
  // The name of the pass after which `dump` is called with the graph; empty: none.
  std::string dump_after = {};
  std::function<void(const Graph&)> dump = {};
  // Output: one entry per pass that ran.
  std::vector<Timing> timings = {};
};

struct Pass {
  std::string name;
  std::function<Graph(const Graph&, PassContext&)> run;
};

// Runs the passes in order, each on the previous one's graph, and verifies each result. Throws
// kInternal ("[pass NAME] …") if a pass produces an invalid graph, kCancelled if the observer is
// cancelled between two passes.
Graph run_passes(Graph graph, std::span<const Pass> passes, PassContext& context);

}  // namespace tandem
