// Writing a package: graphs and their tensors, and everything about the model that is no weight.
#pragma once

#include <cstdint>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "base/observer.h"
#include "base/thread_pool.h"
#include "graph/graph.h"
#include "graph/model_info.h"

namespace tandem {

class Checkpoint;

struct PackageContents {
  const ModelInfo& info;
  // generation_config.json; an empty object if there is none.
  const Json& generation_config;
  const Graph& prefill;
  const Graph& decode;
  // As tandem.json keeps it; its "chunk" is the rows of an NPU program.
  OrderedJson recipe;
  // Tokens that every sequence begins with.
  std::vector<std::int32_t> prefix = {};
};

// Fills an empty folder, whose texts (configuration, tokenizer, chat template) are there already,
// with weights, graphs and manifest. Memory stays at one tensor, or a few megabytes of one that is
// computed row by row. Reports to the observer tensor by tensor; throws kCancelled when it says so.
void write_package(const fs::path& folder, const PackageContents& contents, ThreadPool& pool,
                   Observer& observer);

// What a checkpoint has besides its weights and its configuration, if it has any: the tokenizer, the
// chat template and generation_config.json, those in a GGUF as files. Nothing that is in the folder
// already is replaced.
void put_texts_beside(const Checkpoint& checkpoint, const fs::path& folder,
                      Observer& observer = silent());

// The same, but throws what find_tokenizer() throws if there is no tokenizer. One under another name
// becomes the tokenizer.json that it stands for. `observer` receives the tokenizer's warnings.
void write_tokenizer(const Checkpoint& checkpoint, const fs::path& target,
                     Observer& observer = silent());
// These and config.json.
void write_texts(const Checkpoint& checkpoint, const fs::path& target,
                 Observer& observer = silent());

}  // namespace tandem
