// Weights of a family whose tensors have other names than Llama's, or are fused.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "models/model.h"

namespace tandem {

// "model.layers.3" + ".self_attn.q_proj", split after the layer number.
struct LayerModule {
  // Such as "3".
  std::string layer;
  // Such as "self_attn.q_proj".
  std::string module;
};
std::optional<LayerModule> split_layer(const std::string& module);

// Looks up Llama's names at the place that `places` gives. A tensor that `weights` has under
// Llama's name is taken from there.
class RenamedWeights : public WeightSource {
 public:
  // `weights` must outlive this object.
  RenamedWeights(const WeightSource& weights, ModulePlaces places);

  bool has(const std::string& tensor) const override;
  Tensor tensor(const std::string& name, const Shape& expected) const override;
  Weight linear(const std::string& module, std::int64_t n, std::int64_t k) const override;
  float input_scale(const std::string& module) const override;
  bool has_unclipped_input(const std::string& module) const override;

 private:
  const WeightSource& weights_;
  ModulePlaces places_;
};

}  // namespace tandem
