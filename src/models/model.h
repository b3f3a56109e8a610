// From config.json and named weights to a graph: one function per architecture, chosen by
// `model_type`.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "graph/graph.h"

namespace tandem {

// What the rest of the system needs to know of a model besides its graph.
struct ModelInfo {
  std::string model_type;  // "llama", "phi3"
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t vocabulary = 0;
  std::int64_t context_length = 0;  // tokens that it can read, rope scaling included
  bool tied_head = false;
  std::optional<std::int64_t> bos;
  std::vector<std::int64_t> eos;
  std::optional<std::int64_t> pad;
};

// Where a builder takes weights from: a float checkpoint, or a package's quantized tensors.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual bool has(const std::string& tensor) const = 0;
  // The tensor, in any float type; throws kNotFound or kFormat naming file and tensor.
  virtual Tensor tensor(const std::string& name, const Shape& expected) const = 0;
  // The weight of the Linear `module` ("model.layers.0.mlp.up_proj"), [n, k].
  virtual Weight linear(const std::string& module, std::int64_t n, std::int64_t k) const = 0;
};

// Weights of a checkpoint: float ones mapped, packed ones as Checkpoint::linear() gives them.
class CheckpointWeights : public WeightSource {
 public:
  explicit CheckpointWeights(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}
  bool has(const std::string& tensor) const override;
  Tensor tensor(const std::string& name, const Shape& expected) const override;
  Weight linear(const std::string& module, std::int64_t n, std::int64_t k) const override;

 private:
  const Checkpoint& checkpoint_;
};

// Reads the keys common to all families in the old spelling (rope_theta, torch_dtype) and the new
// (rope_parameters, dtype), and bos/eos from `generation_config` where given (it wins over
// config.json). Every size is bounded.
ModelInfo read_model_info(const JsonObject& config, const Json* generation_config = nullptr);

// The weights under the names that build_graph() gives its nodes, those of Llama with q, k, v and
// gate, up apart, whatever the family calls them: "model.layers.3.self_attn.q_proj". `weights` must
// outlive the result.
std::unique_ptr<WeightSource> llama_weights(const JsonObject& config, const WeightSource& weights);

// Names the supported `model_type`s; kUnsupported with that list for any other.
std::vector<std::string> supported_model_types();

// The graph: Embedding, blocks, SelectRows, final norm, head. A tied head is a Linear named
// "lm_head" on the embedding table, unless the source has its own "lm_head" (quantized packages
// do).
Graph build_graph(const JsonObject& config, const WeightSource& weights);

}  // namespace tandem
