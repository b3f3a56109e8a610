// Weights of a family whose tensors have other names than Llama's, or are fused.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "models/model.h"

namespace tandem {

// Where to find the output channels of one of Llama's modules.
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

// "model.layers.3" + ".self_attn.q_proj", split after the layer number.
struct LayerModule {
  // Such as "3".
  std::string layer;
  // Such as "self_attn.q_proj".
  std::string module;
};
std::optional<LayerModule> split_layer(const std::string& module);

// Looks up Llama's names at the location that `locate` returns. A tensor that `weights` has under
// Llama's name is taken from there.
class RenamedWeights : public WeightSource {
 public:
  using Locate = std::function<std::optional<ModulePlace>(const std::string& module)>;

  RenamedWeights(const WeightSource& weights, Locate locate);

  bool has(const std::string& tensor) const override;
  Tensor tensor(const std::string& name, const Shape& expected) const override;
  Weight linear(const std::string& module, std::int64_t n, std::int64_t k) const override;
  float input_scale(const std::string& module) const override;

 private:
  const WeightSource& weights_;
  Locate locate_;
};

}  // namespace tandem
