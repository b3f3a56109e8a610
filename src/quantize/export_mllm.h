// A model as mllm's tools hand it on: in int8 for the NPU that reads prompts, or rotated in float32
// for the CPU that writes answers. Both are one file of tensors by the graph's names, those of Llama
// in transformers, with config.json and the tokenizer beside it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/observer.h"
#include "graph/graph.h"
#include "quantize/activation_profile.h"
#include "quantize/mllm_config.h"

namespace tandem {

class Checkpoint;

struct MllmInt8Report {
  std::int64_t linears = 0;
  // Linears and sides ("model.layers.1.mlp.down_proj input") whose scale follows the percentile.
  std::vector<std::string> unclipped;
};

// Writes `config.output_model`, NAME.safetensors, or else as torch.save does. Of the Linear L in a
// decoder block:
//   L.weight [in, out] I8, rounded to nearest even with one scale; L.weight.scale
//   L.bias F32, or with quant_bias I32 and L.bias.scale
//   L.input_scale, L.output_scale   what the largest code stands for
//   L.clip_input, L.clip_output     whether the scale reaches the largest value
// All else is F32, the head's weight included, which has the last four if the profile knows it. `graph` is the checkpoint's, rotated or not, `loaded` the
// checkpoint's own. Throws kInvalidArgument, naming it, for a Linear that the profile lacks or that is
// quantized already, and for a name that asks for another format.
MllmInt8Report export_mllm_int8(const MllmExportConfig& config, const ActivationProfile& profile,
                                const Checkpoint& checkpoint, const Graph& loaded,
                                const Graph& graph, Observer& observer);

// The same file in F32 throughout.
void export_mllm_float(const fs::path& output, const Checkpoint& checkpoint, const Graph& loaded,
                       const Graph& graph, Observer& observer);

}  // namespace tandem
