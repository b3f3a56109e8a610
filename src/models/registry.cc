// Which model types there are, and who builds each.
#include <array>
#include <string>
#include <vector>

#include "base/error.h"
#include "models/families.h"

namespace tandem {
namespace {

std::array<Family, 2> families() { return {llama_family(), qwen2_family()}; }

}  // namespace

std::vector<std::string> supported_model_types() {
  std::vector<std::string> names;
  for (const Family& family : families()) names.emplace_back(family.model_type);
  return names;
}

Family find_family(const JsonObject& config) {
  const std::string wanted = config.get_string("model_type");
  std::string known;
  for (const Family& family : families()) {
    if (family.model_type == wanted) return family;
    known += fmt::format("{}\"{}\"", known.empty() ? "" : ", ", family.model_type);
  }
  // A hostile name may be of any length.
  fail(ErrorCode::kUnsupported, "[models] {}: model_type: expected one of {}, got \"{}\"",
       config.where(), known, wanted.substr(0, 64));
}

Graph build_graph(const JsonObject& config, const WeightSource& weights) {
  return find_family(config).build(config, weights);
}

}  // namespace tandem
