// Whether a file that was converted still is the model that it was made from.
#pragma once

#include "base/observer.h"
#include "checkpoint/checkpoint.h"
#include "graph/graph.h"

namespace tandem::cli {

// Throws kUnsupported, naming the first node and setting that differ, unless the configuration and
// the tensors of `written` build `graph` again: formats have no place for some settings of some
// models, and readers take a default then. Weights are not compared. `what` names the format.
void require_same_graph(const Graph& graph, const Checkpoint& written, const char* what);

// Warns if the tokenizers in two model folders or files split one of several texts differently,
// among them every special token within a text; says nothing if one has no tokenizer.
void compare_tokenizers(const fs::path& source, const fs::path& written, const std::string& name,
                        Observer& observer);

}  // namespace tandem::cli
