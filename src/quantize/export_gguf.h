// A quantized model as a GGUF file for llama.cpp.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/observer.h"
#include "checkpoint/gguf/ggml_blocks.h"
#include "graph/graph.h"
#include "quantize/recipe.h"

namespace tandem {

class Checkpoint;

struct GgufExport {
  // Linears are rounded by ggml's formulas, in llama.cpp's mixture for this type (GgufMixture).
  // Without one, the codes that the recipe made are moved into blocks: symmetric int4 into Q4_0,
  // asymmetric 4-bit codes into Q4_1, int8 into Q8_0.
  std::optional<GgmlType> type = {};
};

// Throws kUnsupported or kInvalidArgument, naming the module, for what has no form in GGUF: codes
// for which ggml has no blocks, gptq's codes with another rounding, architectures that GGUF does not
// have here, and families whose modules stand there in another order. Called before any long-running
// work; `loaded` is the checkpoint's own graph.
void check_gguf_export(const Checkpoint& checkpoint, const Graph& loaded, const Recipe& recipe,
                       const GgufExport& form);

// The same for settings and tokenizers: writes the outline of a file as `draft`, reads it back, and
// throws kUnsupported unless it is the same model. Warns, naming `output`, if its tokenizer is not
// quite the same.
void check_gguf_outline(const fs::path& draft, const std::string& output,
                        const Checkpoint& checkpoint, const Graph& loaded, const Recipe& recipe,
                        Observer& observer);

// Writes `file`. `graph` is what the recipe's passes made of the checkpoint's; unless `form` has a
// type, with codes in place of the Linears that the recipe quantizes. What stays float is F16, norms
// and biases F32; the head is written unless it is the embedding. `ends`: tokens that end an answer.
void export_gguf(const fs::path& file, const Checkpoint& checkpoint, const Graph& graph,
                 const Recipe& recipe, const GgufExport& form, std::vector<std::int64_t> ends,
                 Observer& observer);

}  // namespace tandem
