// The versions of ONNX Runtime GenAI's model builder whose graphs can be written.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace tandem {

struct OnnxDialect {
  // One that writes it.
  std::string_view version;
  std::int64_t ir_version = 10;
  std::int64_t opset = 22;
  // Constants are called "TensorProto.INT64/1D/1" instead of "INT64/[1]".
  bool names_ranks = false;
  // The lengths of rows that attention is told are [batch, 1] instead of [batch].
  bool keeps_mask_rank = false;
  // Inputs and outputs of the cache: key and value of each layer, instead of all keys and then all
  // values.
  bool interleaves_cache = false;
  // A tied head in float and the embedding are one tensor.
  bool stores_tied_once = true;
  // There is an operator Gelu in ONNX itself.
  bool has_gelu = true;
  // Attention says that it has no window.
  bool names_no_window = true;
  // genai_config.json has options for providers.
  bool has_provider_options = true;
  // The nodes that choose between LongRoPE's caches.
  std::string_view rope_choice = "/model/rope_caches_subgraph";
};

// The newest first.
std::span<const OnnxDialect> onnx_dialects() noexcept;
// Throws kInvalidArgument, listing the versions, for an unknown one.
const OnnxDialect& find_onnx_dialect(std::string_view version);

}  // namespace tandem
