// Weights of a family whose tensors have other names than Llama's, or lie several in one.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "models/model.h"

namespace tandem {

// Where the output channels of one of Llama's modules lie.
struct ModulePlace {
  std::string module;              // in the family's own names
  std::int64_t all_rows = 0;       // output channels of that module; 0: all of them are meant
  std::int64_t first_row = 0;      // the wanted ones, side by side,
  std::vector<std::int64_t> rows;  // or one by one
};

// "model.layers.3" + ".self_attn.q_proj" split after the layer's number.
struct LayerModule {
  std::string layer;   // "3"
  std::string module;  // "self_attn.q_proj"
};
std::optional<LayerModule> split_layer(const std::string& module);

// Reads what a builder asks for in Llama's names from where `locate` says. A tensor that `weights`
// has under Llama's name is taken from there: packages keep weights under these names.
class RenamedWeights : public WeightSource {
 public:
  using Locate = std::function<std::optional<ModulePlace>(const std::string& module)>;

  RenamedWeights(const WeightSource& weights, Locate locate);

  bool has(const std::string& tensor) const override;
  Tensor tensor(const std::string& name, const Shape& expected) const override;
  Weight linear(const std::string& module, std::int64_t n, std::int64_t k) const override;

 private:
  const WeightSource& weights_;
  Locate locate_;
};

}  // namespace tandem
