// The passes quantize_decode and quantize_prefill.
#include "quantize/quantize_linears.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "graph/int8_nodes.h"
#include "graph/ops.h"
#include "graph/rewriter.h"
#include "graph/shadow.h"
#include "quantize/kept_codes.h"
#include "quantize/linear_weights.h"
#include "quantize/rtn.h"
#include "tensor/packed_codes.h"

namespace tandem {
namespace {

bool is_in(const GroupCodes& codes, const GroupFormat& format) {
  return codes.bits == format.bits && codes.is_signed == format.is_signed &&
         codes.group == format.group && codes.scales.dtype() == format.scales;
}

// One scale for all rows, and a zero point, which each of them gets.
GroupCodes quantize_whole(const RowSource& rows, const Scheme& scheme, const std::string& name,
                          ThreadPool& pool) {
  const std::int64_t n = rows.rows(), k = rows.columns();
  std::vector<float> values(static_cast<std::size_t>(n * k));
  rows.read(0, values);
  const Rows flat = stored_rows(Tensor::from_floats(values, {1, n * k}));
  GroupCodes whole = quantize_group_codes(*flat, group_format(scheme, n * k), name, pool);
  const std::vector<std::int64_t> copies(static_cast<std::size_t>(n), 0);
  whole.n = n;
  whole.k = whole.group = k;
  whole.codes = whole.codes.view_as(whole.codes.dtype(), {n, k});
  whole.scales = whole.scales.gather_rows(copies);
  if (!whole.zero_points.empty()) whole.zero_points = whole.zero_points.gather_rows(copies);
  return whole;
}

Weight make_weight(const Node& node, const Scheme& scheme, ThreadPool& pool) {
  const Rows values = rows_of(node);
  const RowSource& rows = *values;
  if (has_blocks(scheme)) return quantize_block_codes(rows, scheme.group, node.name, pool);
  if (multiplies_codes(scheme)) return quantize_channel_codes(rows, node.name, pool);
  if (scheme.group == kWholeTensor) return quantize_whole(rows, scheme, node.name, pool);
  const GroupFormat format = group_format(scheme, rows.columns());
  if (const GroupCodes* chosen = chosen_codes(rows); chosen != nullptr && is_in(*chosen, format))
    return *chosen;
  return quantize_group_codes(rows, format, node.name, pool);
}

// How a Linear of this width can be quantized after all.
std::string ways_out(const std::string& module, std::int64_t k) {
  std::string sizes;
  for (const int group : {128, 64, 32})
    if (k % group == 0) sizes += fmt::format("{}{}", sizes.empty() ? "" : " or ", group);
  const std::string exclusion = fmt::format("--exclude \"{}\"", module);
  if (sizes.empty())
    return fmt::format(
        "none of 32, 64 and 128 divides it: expected {}, or a rule with one scale per row "
        "(\"group\": \"row\")",
        exclusion);
  return fmt::format(
      "expected {} (--group-size for all modules, a rule or --group-size-per-layer for this one), "
      "or {}",
      sizes, exclusion);
}

// What judges or chooses the codes of one group at a time does not know what others need of a scale.
void require_scales_in_rows(const Recipe& recipe, const Node& node, const Scheme& scheme) {
  if (scheme.group != kWholeTensor) return;
  constexpr std::array kByGroup = {"awq", "seqmse", "mse_clip", "gptq"};
  for (const PassStep& step : recipe.passes)
    if (std::ranges::find(kByGroup, step.name) != kByGroup.end())
      fail(ErrorCode::kInvalidArgument,
           "[recipe] {}: searches group by group, but {} has one scale for all of its rows: "
           "expected "
           "a group size, \"group\": \"row\", or a recipe without {}",
           step.name, node.name, step.name);
}

void check_scheme(const Node& node, const Scheme& scheme) {
  const std::int64_t k = input_channels(node.as<LinearAttributes>().weight);
  if (scheme.weights != WeightType::kFloat && scheme.group > 0 && k % scheme.group != 0)
    fail(ErrorCode::kInvalidArgument,
         "[quantize] {}: K = {} is not a multiple of the group size {}: {}", node.name, k,
         scheme.group, ways_out(node.name, k));
  if (scheme.activations != ActivationType::kFloat && k > kMaxInt8K)
    fail(ErrorCode::kInvalidArgument,
         "[quantize] {}: K = {}: sums of int8 products are exact up to {}: exclude it", node.name,
         k, kMaxInt8K);
}

}  // namespace

float static_scale(const InputStatistics& input, InputBound bound, ActivationType type) {
  constexpr float kSmallestBound = 1e-6F;
  if (type == ActivationType::kStatic16)
    return std::max(input.max, kSmallestBound) / static_cast<float>(kMaxInt16Code);
  float largest = input.least_error;
  if (bound == InputBound::kMax) largest = input.max;
  if (bound == InputBound::kPercentile) largest = input.percentile;
  if (!input.shadow.channels.empty()) largest = input.shadow.bound;
  return std::max(largest, kSmallestBound) / 127.0F;
}

GroupFormat group_format(const Scheme& scheme, std::int64_t columns) {
  return {.bits = bits_of(scheme.weights),
          .is_signed = is_signed(scheme.weights),
          .group = scheme.group > 0 ? scheme.group : columns,
          .scales = scheme.scales};
}

std::int64_t bytes_in(const Node& linear, const Scheme& scheme) {
  const Weight& weight = linear.as<LinearAttributes>().weight;
  const std::int64_t n = output_channels(weight), k = input_channels(weight);
  if (scheme.weights == WeightType::kFloat) return stored_bytes(weight);
  constexpr auto kScaleBytes = static_cast<std::int64_t>(sizeof(float));
  if (multiplies_codes(scheme))
    return n * (kScaleBytes + (has_blocks(scheme) ? packed_bytes(k, 4) + k / scheme.group : k));
  const GroupFormat format = group_format(scheme, k);
  const std::int64_t groups = k / format.group;
  return n * (packed_bytes(k, format.bits) +
              groups * static_cast<std::int64_t>(size_of(format.scales)) +
              (format.is_signed ? 0 : packed_bytes(groups, format.bits)));
}

bool has_static_input(const Recipe& recipe, const Node& linear) {
  const ModulePlan plan = plan_of(recipe, linear);
  return is_static(plan.decode.activations) || is_static(plan.prefill.activations);
}

bool has_static_int8_input(const Recipe& recipe, const Node& linear) {
  const ModulePlan plan = plan_of(recipe, linear);
  return plan.decode.activations == ActivationType::kStatic ||
         plan.prefill.activations == ActivationType::kStatic;
}

bool has_static_inputs(const Recipe& recipe, const Graph& graph) {
  return std::ranges::any_of(graph.nodes(), [&](const Node& node) {
    return node.op == Op::kLinear && has_static_input(recipe, node);
  });
}

void check_recipe(const Recipe& recipe, const Graph& graph) {
  const auto gptq = std::ranges::find(recipe.passes, "gptq", &PassStep::name);
  if (gptq != recipe.passes.end() && gptq + 1 != recipe.passes.end())
    fail(ErrorCode::kInvalidArgument,
         "[recipe] gptq chooses codes, which {} would change: expected gptq as the last pass",
         (gptq + 1)->name);
  std::vector<std::string> modules;
  for (const Node& node : graph.nodes()) {
    if (node.op == Op::kLinear) modules.push_back(node.name);
  }
  check_matches(recipe, modules);
  for (const Node& node : graph.nodes()) {
    if (node.op != Op::kLinear) continue;
    const ModulePlan plan = plan_of(recipe, node);
    check_scheme(node, plan.decode);
    check_scheme(node, plan.prefill);
    require_scales_in_rows(recipe, node, plan.decode);
    if (node.layer < 0 && has_static_input(recipe, node))
      fail(ErrorCode::kInvalidArgument,
           "[quantize] {}: stands outside the decoder blocks, which alone are calibrated: expected "
           "activations other than static",
           node.name);
  }
  if (recipe.calibration.shadow.any() && !has_static_inputs(recipe, graph))
    fail(ErrorCode::kInvalidArgument,
         "[recipe] shadow: is for int8 inputs with a static scale, which no module has: expected "
         "\"none\", or a rule with static activations");
  require_float_weights(recipe, graph);
}

const Weight& LinearQuantizer::weight_of(const Node& node, const Scheme& scheme,
                                         PassContext& context) {
  std::vector<Made>& forms = made_[node.name];
  const auto same = std::ranges::find_if(forms, [&](const Made& made) {
    return made.scheme.weights == scheme.weights && made.scheme.group == scheme.group &&
           made.scheme.scales == scheme.scales &&
           multiplies_codes(made.scheme) == multiplies_codes(scheme);
  });
  if (same != forms.end()) return same->weight;
  check_scheme(node, scheme);
  forms.push_back({scheme, sink_.keep(make_weight(node, scheme, context.pool))});
  release_weight(node.as<LinearAttributes>().weight);
  release_weight(forms.back().weight);
  return forms.back().weight;
}

const InputStatistics& LinearQuantizer::statistics_of(const std::string& module) const {
  const auto found = statistics_.find(module);
  if (found == statistics_.end())
    fail(ErrorCode::kInternal, "[quantize] {}: was not calibrated", module);
  return found->second;
}

std::optional<ShadowLinearAttributes> LinearQuantizer::shadow_of(const Node& node) {
  const std::vector<std::int32_t>& channels = statistics_of(node.name).shadow.channels;
  if (channels.empty()) return std::nullopt;
  const auto [found, is_new] = shadows_.try_emplace(node.name);
  if (is_new) found->second = make_shadow(node.as<LinearAttributes>().weight, channels);
  return found->second;
}

Graph LinearQuantizer::quantize(const Graph& graph, PassContext& context,
                                Scheme ModulePlan::* phase, std::string_view task) {
  Rewriter rewriter(graph);
  Int8Linears<Rewriter> int8(rewriter);
  const auto linears = std::ranges::count(graph.nodes(), Op::kLinear, &Node::op);
  Task progress(context.observer, task, linears, "weights");
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    if (node.op != Op::kLinear) {
      rewriter.copy(id);
      continue;
    }
    const Scheme scheme = plan_of(recipe_, node).*phase;
    if (scheme.weights == WeightType::kFloat) {
      rewriter.copy(id);
    } else {
      const Weight& weight = weight_of(node, scheme, context);
      auto linear = node.as<LinearAttributes>();
      if (!multiplies_codes(scheme)) {
        linear.weight = weight;
        rewriter.copy(id, std::move(linear));
      } else {
        const ActivationType type = scheme.activations;
        float scale = 0;
        std::optional<ShadowLinearAttributes> shadow;
        if (is_static(type))
          scale = static_scale(statistics_of(node.name), recipe_.calibration.input_bound, type);
        if (type == ActivationType::kStatic) shadow = shadow_of(node);
        rewriter.replace(
            node.output(),
            int8.add(node.name, node.layer, rewriter(node.inputs[0]), scale,
                     std::get<ChannelCodes>(weight), linear.bias, std::move(shadow),
                     type == ActivationType::kStatic16 ? Op::kQuantizeInt16 : Op::kQuantize));
      }
    }
    progress.advance();
  }
  return std::move(rewriter).finish();
}

Graph LinearQuantizer::decode(const Graph& graph, PassContext& context) {
  return quantize(graph, context, &ModulePlan::decode, "quantize decode");
}

Graph LinearQuantizer::prefill(const Graph& graph, PassContext& context) {
  return quantize(graph, context, &ModulePlan::prefill, "quantize prefill");
}

}  // namespace tandem
