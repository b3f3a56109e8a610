// The passes that quantize a graph's Linears according to a recipe, one for each phase.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "graph/pass.h"
#include "quantize/calibration.h"
#include "quantize/recipe.h"
#include "quantize/rtn.h"
#include "quantize/weight_sink.h"

namespace tandem {

// Makes the weights of both phases, each form of a module only once: phases that use the same form
// share it.
class LinearQuantizer {
 public:
  // The recipe, the statistics (by module, for static activations) and the sink must outlive this
  // object.
  LinearQuantizer(const Recipe& recipe, const std::map<std::string, InputStatistics>& statistics,
                  WeightSink& sink)
      : recipe_(recipe), statistics_(statistics), sink_(sink) {}

  // Throws kInvalidArgument naming the module if a scheme does not fit it: a K that is not a
  // multiple of the group size, a weight that is not finite or beyond the range of the scales. A
  // weight that is quantized already stays, or int8 is made from the values behind its codes.
  Graph decode(const Graph& graph, PassContext& context);
  Graph prefill(const Graph& graph, PassContext& context);

 private:
  struct Made {
    Scheme scheme;
    Weight weight;
  };
  // `task` names the work for the user.
  Graph quantize(const Graph& graph, PassContext& context, Scheme ModulePlan::* phase,
                 std::string_view task);
  const Weight& weight_of(const Node& node, const Scheme& scheme, PassContext& context);
  // Throws kInternal for a module that was not calibrated.
  const InputStatistics& statistics_of(const std::string& module) const;
  std::optional<ShadowLinearAttributes> shadow_of(const Node& node);

  const Recipe& recipe_;
  const std::map<std::string, InputStatistics>& statistics_;
  WeightSink& sink_;
  // By module.
  std::map<std::string, std::vector<Made>> made_;
  std::map<std::string, ShadowLinearAttributes> shadows_;
};

// Of a static int8 input, by the bound that a code of 127 represents, which is that of its shadow if
// it has one; of an int16 input by the largest |x|, which costs little with so many codes; never 0.
float static_scale(const InputStatistics& input, InputBound bound,
                   ActivationType type = ActivationType::kStatic);
// How a scheme that quantizes in groups stores the codes of a weight with `columns` input channels.
GroupFormat group_format(const Scheme& scheme, std::int64_t columns);
// Of codes, scales and zero points that a scheme makes of a Linear's weight; float and codes that
// are kept: of the weight as it is.
std::int64_t bytes_in(const Node& linear, const Scheme& scheme);

// Whether a Linear reads a static input in some phase.
bool has_static_input(const Recipe& recipe, const Node& linear);
// Whether that is of int8, whose outliers a shadow may take.
bool has_static_int8_input(const Recipe& recipe, const Node& linear);
// Whether any Linear reads a static input, for which a text is calibrated on.
bool has_static_inputs(const Recipe& recipe, const Graph& graph);

// Throws kInvalidArgument naming the module that the recipe's schemes don't fit, the pass that
// finds no float weights, or one after gptq. Called before any long-running work.
void check_recipe(const Recipe& recipe, const Graph& graph);

}  // namespace tandem
