// From config.json and named weights to a graph: one builder per architecture, selected by
// `model_type`.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/observer.h"
#include "checkpoint/checkpoint.h"
#include "graph/graph.h"
#include "graph/model_info.h"

namespace tandem {

// Where a family's checkpoints have the output channels of one of the graph's modules.
struct ModulePlace {
  // The module's name in the family.
  std::string module;
  // Output channels of that module; 0: the whole module is meant.
  std::int64_t all_rows = 0;
  // The first of the wanted channels if they are contiguous,
  std::int64_t first_row = 0;
  // or else all of them one by one.
  std::vector<std::int64_t> rows;
};
// By the module's name in the graph; nullopt for one that has that name in the family, too.
using ModulePlaces = std::function<std::optional<ModulePlace>(const std::string& module)>;

// Provides a builder's weights: from a float checkpoint, or a package's quantized tensors.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual bool has(const std::string& tensor) const = 0;
  // The tensor, in any float type; throws kNotFound or kFormat naming file and tensor.
  virtual Tensor tensor(const std::string& name, const Shape& expected) const = 0;
  // The weight of the Linear `module` ("model.layers.0.mlp.up_proj"), [n, k].
  virtual Weight linear(const std::string& module, std::int64_t n, std::int64_t k) const = 0;
  // The static scale of the Linear `module`'s int8 input; 0 if there is none.
  virtual float input_scale(const std::string& module) const = 0;
  // Whether values beyond the codes of that scale count, too.
  virtual bool has_unclipped_input(const std::string& /*module*/) const { return false; }
};

// The weights of a checkpoint: float ones mapped, packed ones as returned by Checkpoint::linear().
// One thread at a time.
class CheckpointWeights : public WeightSource {
 public:
  explicit CheckpointWeights(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}
  bool has(const std::string& tensor) const override;
  Tensor tensor(const std::string& name, const Shape& expected) const override;
  Weight linear(const std::string& module, std::int64_t n, std::int64_t k) const override;
  float input_scale(const std::string& module) const override;
  bool has_unclipped_input(const std::string& module) const override;

  // The tensors that were read so far, by the names of Checkpoint::contents(). Once a graph is
  // built, the other tensors of the checkpoint are no part of the model.
  const std::set<std::string>& read() const noexcept { return read_; }

 private:
  const Checkpoint& checkpoint_;
  mutable std::set<std::string> read_;
};

// Reads the keys common to all families in the old spelling (rope_theta, torch_dtype) and the new
// one (rope_parameters, dtype), and bos/eos from `generation_config` if given (it takes precedence
// over config.json). Every size is bounded. A special token's id outside the vocabulary is ignored,
// with a warning to `observer`.
ModelInfo read_model_info(const JsonObject& config, const Json* generation_config = nullptr,
                          Observer& observer = silent());

// The supported `model_type`s, for messages.
std::vector<std::string> supported_model_types();

// Builds the graph: Embedding, blocks, SelectRows, final norm, head; verified. Its inputs are the
// token ids and the indices of the rows whose logits are wanted, which form their own row space
// ("selected"). Nodes are named as in Llama, with separate q, k, v and gate, up, whatever the
// family calls them: "model.layers.3.self_attn.q_proj". A tied head is a Linear named "lm_head" on
// the embedding table, unless the source has its own "lm_head".
Graph build_graph(const JsonObject& config, const WeightSource& weights);

// Where the family of `config` has the graph's modules, as its own checkpoints are written: fused, or
// under other names.
ModulePlaces module_places(const JsonObject& config);

}  // namespace tandem
