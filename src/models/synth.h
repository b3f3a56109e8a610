// Checkpoints with random weights in the shapes of real models, for benchmarks when the real
// weights are not available.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "base/observer.h"
#include "base/thread_pool.h"

namespace tandem {

struct SynthShape {
  // Such as "llama-3.2-1b".
  std::string_view name;
  // Such as "llama" or "qwen2".
  std::string_view model_type;
  std::int64_t hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary, context;
  bool tied_head;
  bool qkv_bias;
  double rope_theta;
  double norm_epsilon;
};

std::vector<SynthShape> synth_shapes();

// The key in the weights' metadata that marks a folder as written by synth.
inline constexpr const char* kSynthMark = "tandem";

// Writes FOLDER/{config.json, generation_config.json, model.safetensors (bf16), tokenizer.json,
// tokenizer_config.json}. Weights are uniform with a standard deviation of 0.02, the same for a
// given seed on every machine; the tokenizer knows only bytes. Throws kInvalidArgument listing the
// known shapes, and kCancelled, leaving the folder as it was, if `observer` is cancelled. Returns
// the number of parameters.
std::int64_t write_synth_checkpoint(const std::string& shape, const fs::path& folder,
                                    std::uint64_t seed, ThreadPool& pool,
                                    Observer& observer = silent());

}  // namespace tandem
