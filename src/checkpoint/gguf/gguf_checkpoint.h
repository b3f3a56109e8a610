// A GGUF file as a checkpoint: its metadata in the spelling of config.json, its tensors under the
// names and in the layout of Hugging Face transformers.
#pragma once

#include <memory>

#include "base/json.h"
#include "checkpoint/gguf/gguf.h"
#include "checkpoint/gguf/gguf_names.h"
#include "checkpoint/tensor_store.h"

namespace tandem {

// The configuration that `file` describes; `place` names it in messages. kUnsupported for an
// architecture that is not known here. Sizes are as the file gives them: whoever reads the
// configuration checks them.
Json config_from_gguf(const GgufFile& file, const GgufArchitecture& architecture,
                      const std::string& place);

// The architecture of `file`; kUnsupported with the list of all for any other.
GgufArchitecture architecture_of(const GgufFile& file, const std::string& place);

// The tensors: rows of q and k put back in the order of transformers, norms without what the
// converter added. Q4_0 is kept in four bits (Int4Groups of 32 with zero point 8); other blocks
// become F16 when they are loaded.
std::shared_ptr<const TensorStore> open_gguf_tensors(GgufFile file,
                                                     const GgufArchitecture& architecture,
                                                     const JsonObject& config,
                                                     const std::string& place);

}  // namespace tandem
