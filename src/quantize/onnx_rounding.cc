// Which Linears are rounded, and rounding one.
#include "quantize/onnx_rounding.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/error.h"
#include "base/printable.h"
#include "onnx/onnx_names.h"
#include "quantize/linear_weights.h"
#include "quantize/module_match.h"
#include "quantize/rtn.h"

namespace tandem {
namespace {

constexpr std::int64_t kSmallestBlock = 16, kLargestBlock = 256;

// Where q, k and v are one product, they share its name.
bool is_meant(const std::string& pattern, const Node& linear) {
  const std::string path = onnx_path(linear.name);
  ModuleMatch match(pattern);
  return match.matches(linear.name) || match.matches(path + "/MatMul") ||
         (path.find("/attn/") != std::string::npos && !path.ends_with("/o_proj") &&
          match.matches(onnx_parent(path) + "/qkv_proj/MatMul"));
}

}  // namespace

OnnxRounding::OnnxRounding(OnnxRoundingSettings settings, const Graph& graph, ThreadPool& pool)
    : settings_(std::move(settings)), pool_(pool) {
  if (settings_.block < kSmallestBlock || settings_.block > kLargestBlock ||
      !std::has_single_bit(static_cast<std::uint64_t>(settings_.block)))
    fail(ErrorCode::kInvalidArgument,
         "[onnx] block size: expected a power of two from {} to {}, got {}", kSmallestBlock,
         kLargestBlock, settings_.block);
  for (const std::string& pattern : settings_.excluded)
    if (std::ranges::none_of(graph.nodes(), [&](const Node& node) {
          return node.op == Op::kLinear && is_meant(pattern, node);
        }))
      fail(ErrorCode::kInvalidArgument,
           "[onnx] \"{}\" matches no module; modules are named like \"model.layers.0.mlp.up_proj\" "
           "or \"/model/layers.0/mlp/up_proj/MatMul\"",
           printable(pattern));
}

bool OnnxRounding::is_excluded(const Node& linear) const {
  return std::ranges::any_of(settings_.excluded,
                             [&](const std::string& pattern) { return is_meant(pattern, linear); });
}

bool OnnxRounding::applies_to(const Node& linear) const {
  const Weight& weight = linear.as<LinearAttributes>().weight;
  return input_channels(weight) % settings_.block == 0 && !is_excluded(linear);
}

GroupCodes OnnxRounding::round(const Node& linear) const {
  const GroupFormat format{.bits = settings_.bits,
                           .is_signed = settings_.is_symmetric,
                           .group = settings_.block,
                           .scales = settings_.scales,
                           .formula = GroupFormula::kOnnx};
  const Rows rows = rows_of(linear);
  GroupCodes codes = quantize_group_codes(*rows, format, linear.name, pool_);
  rows->release();
  return codes;
}

std::vector<std::string> OnnxRounding::left_float(const Graph& graph) const {
  std::vector<std::string> names;
  for (const Node& node : graph.nodes())
    if (float_weight(node) != nullptr && !applies_to(node) && !is_excluded(node))
      names.push_back(node.name);
  return names;
}

}  // namespace tandem
