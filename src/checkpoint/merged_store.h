// The tensors of a checkpoint with a LoRA adapter merged into them as they are read.
#pragma once

#include "checkpoint/lora_adapter.h"
#include "checkpoint/tensor_store.h"

namespace tandem {

// What transformers calls the table of embeddings and the head.
inline constexpr const char* kTableWeight = "model.embed_tokens.weight";
inline constexpr const char* kHeadWeight = "lm_head.weight";

// load_weight() returns rows that are computed when they are read; load() computes a whole tensor,
// in the type of the one in `base`. A head that was tied to the table of embeddings becomes a
// tensor of its own where only one of the two changes, as in the model that was trained. Throws
// kNotFound for a tensor that `base` lacks, kFormat for another shape, kUnsupported for a tensor
// of codes; `place` names the checkpoint.
std::shared_ptr<const TensorStore> merge_adapter(std::shared_ptr<const TensorStore> base,
                                                 LoraAdapter adapter, const std::string& place);

}  // namespace tandem
