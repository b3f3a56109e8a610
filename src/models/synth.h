// Checkpoints with random weights in the shapes of real models, for benchmarks where the real
// weights can't be had.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "base/thread_pool.h"

namespace tandem {

struct SynthShape {
  std::string_view name;        // "llama-3.2-1b"
  std::string_view model_type;  // "llama", "qwen2"
  std::int64_t hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary, context;
  bool tied_head;
  bool qkv_bias;
  double rope_theta;
  double norm_epsilon;
};

std::vector<SynthShape> synth_shapes();

// Key in the metadata of the weights by which a folder made by synth is told from others.
inline constexpr const char* kSynthMark = "tandem";

// Writes FOLDER/{config.json, generation_config.json, model.safetensors (bf16), tokenizer.json,
// tokenizer_config.json}. Weights are uniform with the standard deviation 0.02, the same for a seed
// on every machine; the tokenizer knows bytes only. Throws kInvalidArgument naming the known
// shapes. Returns the number of parameters.
std::int64_t write_synth_checkpoint(const std::string& shape, const fs::path& folder,
                                    std::uint64_t seed, ThreadPool& pool);

}  // namespace tandem
