// A quantized model as a checkpoint for other tools: config.json, model.safetensors (or several and
// their index) with packed Linears, and the files beside them.
#pragma once

#include "base/files.h"
#include "base/observer.h"
#include "checkpoint/packed_writer.h"
#include "graph/graph.h"
#include "quantize/recipe.h"

namespace tandem {

class Checkpoint;

// Throws kUnsupported or kInvalidArgument, naming the module, for what cannot be exported: int8 with
// int8 activations, what the style has no words for, and families whose tensors have other names than the
// graph's modules. Called before any long-running work; `loaded` is the checkpoint's own graph.
void check_export(const Checkpoint& checkpoint, const Graph& loaded, const Recipe& recipe,
                  const PackedStyle& style);

// Tensors beyond this go to the next of several files, with an index, as transformers has it.
inline constexpr std::int64_t kShardBytes = 5'000'000'000;

// Fills an empty folder. `quantized` is what the recipe made of `loaded`; what stays float is
// written in the type of the scales. A tied head that is packed is no longer tied.
void export_checkpoint(const fs::path& folder, const Checkpoint& checkpoint, const Graph& loaded,
                       const Graph& quantized, const PackedStyle& style, std::int64_t shard_bytes,
                       Observer& observer);

}  // namespace tandem
