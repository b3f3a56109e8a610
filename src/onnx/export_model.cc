// The entry: what can be written, and for whom.
#include "onnx/export_model.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <span>
#include <vector>

#include "base/error.h"
#include "graph/ops.h"
#include "onnx/exporter.h"

namespace tandem {
namespace {

// Of the size of a head.
constexpr std::int64_t kHeadMultiple = 8;

constexpr std::array kProviders = {
    OnnxProvider{.name = "cpu", .accuracy_level = 4},
    OnnxProvider{.name = "cuda"},
    OnnxProvider{.name = "dml", .rotates_in_attention = false, .packs_qkv = false, .has_if = false},
    OnnxProvider{.name = "webgpu", .accuracy_level = 4},
};

constexpr std::array kDialects = {
    OnnxDialect{.version = "0.18"},
    OnnxDialect{.version = "0.5.1",
                .ir_version = 7,
                .opset = 14,
                .names_ranks = true,
                .keeps_mask_rank = true,
                .interleaves_cache = true,
                .stores_tied_once = false,
                .has_gelu = false,
                .names_no_window = false,
                .has_provider_options = false,
                .rope_choice = "/model/rotemb_caches_subgraph"},
};

// Throws kInvalidArgument listing what there is.
template <typename Row, std::size_t kCount>
const Row& find_row(const std::array<Row, kCount>& rows, std::string_view Row::* key,
                    std::string_view wanted, std::string_view what) {
  const auto found = std::ranges::find(rows, wanted, key);
  if (found != rows.end()) return *found;
  std::vector<std::string_view> known;
  for (const Row& row : rows) known.push_back(row.*key);
  fail(ErrorCode::kInvalidArgument, "[onnx] expected {} of {}, got \"{}\"", what,
       fmt::join(known, ", "), wanted);
}

}  // namespace

std::span<const OnnxDialect> onnx_dialects() noexcept { return kDialects; }

const OnnxDialect& find_onnx_dialect(std::string_view version) {
  return find_row(kDialects, &OnnxDialect::version, version, "a dialect");
}

std::span<const OnnxProvider> onnx_providers() noexcept { return kProviders; }

const OnnxProvider& find_onnx_provider(std::string_view name) {
  return find_row(kProviders, &OnnxProvider::name, name, "an execution provider");
}

void check_exportable(const Graph& graph, OnnxType type) {
  std::map<std::string_view, int> missing;
  for (const Node& node : graph.nodes())
    if (Exporter::method_of(node.op) == nullptr) ++missing[to_string(node.op)];
  std::vector<std::string> words;
  for (const auto& [op, count] : missing) words.push_back(fmt::format("{} ({})", op, count));
  if (!words.empty())
    fail(ErrorCode::kUnsupported, "[onnx] the graph has operators without a form in ONNX: {}",
         fmt::join(words, ", "));
  for (const Node& node : graph.nodes()) {
    if (node.op == Op::kGroupQueryAttention &&
        node.as<AttentionAttributes>().head_dim % kHeadMultiple != 0)
      fail(ErrorCode::kUnsupported,
           "[onnx] {}: heads of {}: ONNX Runtime's attention wants a multiple of {}", node.name,
           node.as<AttentionAttributes>().head_dim, kHeadMultiple);
    if (node.op == Op::kQuantize && type != OnnxType::kFloat)
      fail(ErrorCode::kUnsupported, "[onnx] {}: int8 activations are written beside float32 only",
           node.name);
  }
}

OnnxReport export_model(const fs::path& folder, const Graph& graph, const ModelInfo& info,
                        const OnnxOptions& options, Observer& observer) {
  check_exportable(graph, options.type);
  return Exporter(folder, graph, info, options, observer).run();
}

}  // namespace tandem
