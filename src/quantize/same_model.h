// Whether a file that was converted still is the model that it was made from.
#pragma once

#include <string>
#include <string_view>

#include "base/observer.h"
#include "checkpoint/checkpoint.h"
#include "graph/graph.h"

namespace tandem {

// Throws kUnsupported, naming the first node and setting that differ, unless the configuration and
// the tensors of `written` build `graph` again: formats have no place for some settings of some
// models, and readers take a default then. Weights are not compared. `part` begins messages, `what`
// names the format.
void require_same_graph(const Graph& graph, const Checkpoint& written, std::string_view part,
                        std::string_view what);

// Warns if the tokenizers in two model folders or files split one of several texts differently,
// among them every special token within a text; says nothing if one has no tokenizer. `part` and
// `name`, that of the output, begin the message.
void compare_tokenizers(const fs::path& source, const fs::path& written, std::string_view part,
                        const std::string& name, Observer& observer);

}  // namespace tandem
