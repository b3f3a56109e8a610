// Resolves Llama's names to the family's own modules and slices fused ones.
#include "models/renamed_weights.h"

#include <utility>

namespace tandem {
namespace {

// "model.norm.weight" -> "model.norm" and ".weight".
std::pair<std::string, std::string> split_name(const std::string& name) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string::npos) return {name, ""};
  return {name.substr(0, dot), name.substr(dot)};
}

}  // namespace

std::optional<LayerModule> split_layer(const std::string& module) {
  const std::string prefix = "model.layers.";
  if (!module.starts_with(prefix)) return std::nullopt;
  const std::size_t dot = module.find('.', prefix.size());
  if (dot == std::string::npos) return std::nullopt;
  return LayerModule{module.substr(prefix.size(), dot - prefix.size()), module.substr(dot + 1)};
}

RenamedWeights::RenamedWeights(const WeightSource& weights, ModulePlaces places)
    : weights_(weights), places_(std::move(places)) {}

bool RenamedWeights::has(const std::string& tensor) const {
  if (weights_.has(tensor)) return true;
  const auto [module, suffix] = split_name(tensor);
  const std::optional<ModulePlace> place = places_(module);
  return place && weights_.has(place->module + suffix);
}

Tensor RenamedWeights::tensor(const std::string& name, const Shape& expected) const {
  if (weights_.has(name)) return weights_.tensor(name, expected);
  const auto [module, suffix] = split_name(name);
  const std::optional<ModulePlace> place = places_(module);
  if (!place) return weights_.tensor(name, expected);
  Shape shape = expected;
  if (place->all_rows > 0) shape[0] = place->all_rows;
  const Tensor all = weights_.tensor(place->module + suffix, shape);
  if (!place->rows.empty()) return all.gather_rows(place->rows);
  return all.rows(place->first_row, expected[0]);
}

Weight RenamedWeights::linear(const std::string& module, std::int64_t n, std::int64_t k) const {
  if (weights_.has(module + ".weight")) return weights_.linear(module, n, k);
  const std::optional<ModulePlace> place = places_(module);
  if (!place) return weights_.linear(module, n, k);
  const Weight all = weights_.linear(place->module, place->all_rows > 0 ? place->all_rows : n, k);
  if (!place->rows.empty()) return gather_rows(all, place->rows);
  return slice_rows(all, place->first_row, n);
}

float RenamedWeights::input_scale(const std::string& module) const {
  if (weights_.has(module + ".weight")) return weights_.input_scale(module);
  const std::optional<ModulePlace> place = places_(module);
  return weights_.input_scale(place ? place->module : module);
}

bool RenamedWeights::has_unclipped_input(const std::string& module) const {
  if (weights_.has(module + ".weight")) return weights_.has_unclipped_input(module);
  const std::optional<ModulePlace> place = places_(module);
  return weights_.has_unclipped_input(place ? place->module : module);
}

}  // namespace tandem
