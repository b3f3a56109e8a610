// Making and reading rotations, and folding them into a graph.
#include "quantize/rotate.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/printable.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/torch_file.h"
#include "checkpoint/torch_writer.h"
#include "graph/rewriter.h"
#include "graph/uses.h"
#include "quantize/linear_weights.h"
#include "quantize/passes.h"
#include "quantize/residual_stream.h"

namespace tandem {
namespace {

std::string r2_name(std::int32_t layer) {
  return fmt::format("model.layers.{}.self_attn.R2", layer);
}

// The layer of an R2 by SpinQuant's name for it, or by mllm's.
std::optional<std::int32_t> layer_of(const std::string& name) {
  for (const std::string_view before : {"model.layers.", "R_v."}) {
    if (!name.starts_with(before)) continue;
    std::int32_t layer = 0;
    std::from_chars(name.data() + before.size(), name.data() + name.size(), layer);
    if (name == r2_name(layer) || name == fmt::format("R_v.{}", layer)) return layer;
  }
  return std::nullopt;
}

std::map<std::string, Tensor> read_matrices(const fs::path& path) {
  std::map<std::string, Tensor> matrices;
  const auto file = MappedFile::open(path);
  if (!looks_like_torch_file(file->bytes())) return SafetensorsFile::open(path).tensors;
  const auto store = open_torch_file(path);
  for (const auto& [name, stored] : store->tensors()) matrices[name] = store->load(name);
  return matrices;
}

// The most multiplications that an element of what an operator turns is worth.
constexpr std::int64_t kMostMixed = 256;

// A Linear's way through a rotation: what its output channels and its input channels are turned by.
struct Turns {
  std::optional<Rotation> rows, columns;
};

class Rotator {
 public:
  Rotator(const Graph& graph, const Rotations& rotations, const RotateSettings& settings)
      : graph_(graph), uses_(graph), settings_(settings) {
    if (rotations.r1) turn_stream(*rotations.r1);
    for (const auto& [layer, r2] : rotations.r2) turn_values(attention_of(layer), r2);
    for (NodeId id = 0; id < count(); ++id) {
      if (settings.r4) mix_input(id);
      if (settings.r3 && graph.node(id).op == Op::kGroupQueryAttention)
        mixed_.emplace(id, transform(graph.node(id).as<AttentionAttributes>().head_dim));
    }
  }

  Graph run(WeightSink& sink) const {
    Rewriter rewriter(graph_);
    for (NodeId id = 0; id < count(); ++id) {
      const Node& node = graph_.node(id);
      if (const auto found = mixed_.find(id); found != mixed_.end()) {
        if (node.op == Op::kGroupQueryAttention) {
          insert(rewriter, node, 0, found->second, node.name + ".queries.hadamard");
          insert(rewriter, node, 1, found->second, node.name + ".keys.hadamard");
        } else {
          insert(rewriter, node, 0, found->second, node.name + ".hadamard");
        }
      }
      if (const auto found = tables_.find(id); found != tables_.end()) {
        auto embedding = node.as<EmbeddingAttributes>();
        embedding.table =
            sink.keep_values(*rotate_columns(stored_rows(embedding.table), found->second));
        rewriter.copy(id, std::move(embedding));
      } else if (const auto turned = turns_.find(id); turned != turns_.end()) {
        rewriter.copy(id, turn(node, turned->second));
      } else {
        rewriter.copy(id);
      }
    }
    return std::move(rewriter).finish();
  }

 private:
  NodeId count() const { return static_cast<NodeId>(graph_.nodes().size()); }

  void turn_stream(const Rotation& r1) {
    const ResidualStream stream = find_residual_stream(graph_);
    if (!stream.objection.empty())
      fail(ErrorCode::kInvalidArgument, "[rotate] {} (\"r1\": \"none\" rotates without it)",
           stream.objection);
    if (stream.width != r1.size())
      fail(ErrorCode::kInvalidArgument, "[rotate] R1: expected {} rows, got {}", stream.width,
           r1.size());
    for (const NodeId id : stream.embeddings) tables_.emplace(id, r1);
    for (const NodeId id : stream.readers) turns_[id].columns = r1;
    for (const NodeId id : stream.writers) turns_[id].rows = r1;
  }

  NodeId attention_of(std::int32_t layer) const {
    for (NodeId id = 0; id < count(); ++id)
      if (graph_.node(id).op == Op::kGroupQueryAttention && graph_.node(id).layer == layer)
        return id;
    fail(ErrorCode::kInvalidArgument, "[rotate] {}: the model has {} layers", r2_name(layer),
         graph_.layers());
  }

  void turn_values(NodeId attention, const Rotation& r2) {
    const Node& node = graph_.node(attention);
    const std::int64_t head_dim = node.as<AttentionAttributes>().head_dim;
    if (r2.size() != head_dim)
      fail(ErrorCode::kInvalidArgument, "[rotate] {}: expected {} rows, got {}",
           r2_name(node.layer), head_dim, r2.size());
    const NodeId values = only_linear(uses_.producer(node.inputs[2]));
    const auto readers = uses_.readers(node.output());
    if (values < 0 || readers.size() != 1 || only_linear(readers[0]) < 0 ||
        uses_.readers(node.inputs[2]).size() != 1 || uses_.is_output(node.output()))
      return;
    turns_[values].rows = r2;
    turns_[readers[0]].columns = r2;
  }

  // The node if it is a Linear with a float weight, else -1.
  NodeId only_linear(NodeId id) const {
    return id >= 0 && float_weight(graph_.node(id)) != nullptr ? id : -1;
  }

  // R4 for a Linear that reads a product, as the last one of an MLP does.
  void mix_input(NodeId id) {
    const Node& node = graph_.node(id);
    if (node.layer < 0 || only_linear(id) < 0) return;
    const ValueId input = node.inputs[0];
    const NodeId producer = uses_.producer(input);
    if (producer < 0 || graph_.node(producer).op != Op::kMul || uses_.readers(input).size() != 1 ||
        uses_.is_output(input))
      return;
    const std::int64_t width = graph_.value(input).width;
    const std::int64_t block = settings_.r4_block > 0 ? settings_.r4_block : fast_block(width);
    if (width % block != 0)
      fail(ErrorCode::kInvalidArgument,
           "[rotate] {}: r4: expected a block that divides its {} columns, got {}", node.name,
           width, block);
    const Rotation& turn = transform(block);
    mixed_.emplace(id, turn);
    turns_[id].columns = turn;
  }

  // The largest divisor of the width whose odd part is at most 256.
  static std::int64_t fast_block(std::int64_t width) {
    const std::int64_t odd = width >> std::countr_zero(static_cast<std::uint64_t>(width));
    std::int64_t part = std::min(odd, kMostMixed);
    while (odd % part != 0) --part;
    return width / odd * part;
  }

  const Rotation& transform(std::int64_t size) {
    const auto found = transforms_.find(size);
    return found != transforms_.end()
               ? found->second
               : transforms_.emplace(size, Rotation::hadamard(size)).first->second;
  }

  static void insert(Rewriter& rewriter, const Node& reader, std::size_t input,
                     const Rotation& turn, const std::string& name) {
    const ValueId value = reader.inputs[input];
    HadamardAttributes attributes{turn.size(), turn.factor()};
    if (attributes.m() == 1) attributes.factor = {};
    rewriter.replace(value, rewriter.add(Op::kHadamard, name, reader.layer, {rewriter(value)},
                                         std::move(attributes)));
  }

  static LinearAttributes turn(const Node& node, const Turns& turns) {
    auto linear = node.as<LinearAttributes>();
    Rows rows = std::get<FloatWeight>(linear.weight).rows;
    // Whole blocks of rows are computed at a time, columns by row: the latter come last.
    if (turns.rows) rows = rotate_rows(rows, *turns.rows);
    if (turns.rows && !linear.bias.empty()) linear.bias = rotate_vector(linear.bias, *turns.rows);
    if (turns.columns) rows = rotate_columns(rows, *turns.columns);
    linear.weight = FloatWeight(std::move(rows));
    return linear;
  }

  const Graph& graph_;
  const Uses uses_;
  const RotateSettings& settings_;
  std::map<NodeId, Rotation> tables_;
  std::map<NodeId, Turns> turns_;
  // What is mixed before a Linear (R4), and of an attention its queries and keys (R3).
  std::map<NodeId, Rotation> mixed_;
  // By size.
  std::map<std::int64_t, Rotation> transforms_;
};

Rotation make(RotationKind kind, std::int64_t size, std::uint64_t seed) {
  return kind == RotationKind::kRandom ? Rotation::random(size, seed)
                                       : Rotation::random_hadamard(size, seed);
}

}  // namespace

Rotations make_rotations(const Graph& graph, const RotateSettings& settings) {
  Rotations rotations;
  if (settings.r1 != RotationKind::kNone)
    if (const std::int64_t width = find_residual_stream(graph).width; width > 0)
      rotations.r1 = make(settings.r1, width, settings.seed);
  if (settings.r2 == RotationKind::kNone) return rotations;
  for (const Node& node : graph.nodes())
    if (node.op == Op::kGroupQueryAttention)
      rotations.r2.emplace(node.layer,
                           make(settings.r2, node.as<AttentionAttributes>().head_dim,
                                settings.seed + static_cast<std::uint64_t>(node.layer) + 1));
  return rotations;
}

Rotations read_rotations(const fs::path& path) {
  Rotations rotations;
  for (const auto& [name, tensor] : read_matrices(path)) {
    const std::optional<std::int32_t> layer = layer_of(name);
    if (name != "R1" && name != "R" && !layer)
      fail(ErrorCode::kFormat,
           "[rotate] {}: {}: expected R1 and model.layers.N.self_attn.R2, or R and R_v",
           path.string(), printable(name));
    try {
      Rotation rotation(Tensor::from_floats(tensor.to_floats(), tensor.shape()));
      if (layer) {
        rotations.r2.emplace(*layer, std::move(rotation));
      } else {
        rotations.r1 = std::move(rotation);
      }
    } catch (const Error& error) {
      fail(ErrorCode::kFormat, "[rotate] {}: {}: {}", path.string(), name, error.what());
    }
  }
  return rotations;
}

void write_rotations(const fs::path& path, const Rotations& rotations) {
  if (path.extension() == ".safetensors") {
    std::map<std::string, Tensor> matrices;
    if (rotations.r1) matrices["R1"] = rotations.r1->matrix();
    for (const auto& [layer, r2] : rotations.r2) matrices[r2_name(layer)] = r2.matrix();
    write_safetensors(path, matrices);
    return;
  }
  // mllm counts the layers of "R_v" from 0.
  const auto layers = static_cast<std::int32_t>(rotations.r2.size());
  if (layers > 0 && rotations.r2.rbegin()->first != layers - 1)
    fail(ErrorCode::kInvalidArgument,
         "[rotate] {}: expected R2 for every layer, or NAME.safetensors", path.string());
  std::vector<TorchWriter::Entry> entries;
  std::vector<Tensor> matrices;
  const auto add = [&](const char* name, const Rotation& rotation, bool in_list) {
    matrices.push_back(rotation.matrix());
    entries.push_back({name, DType::kF64, matrices.back().shape(), in_list});
  };
  if (rotations.r1) add("R", *rotations.r1, false);
  for (const auto& [layer, r2] : rotations.r2) add("R_v", r2, true);
  TorchWriter writer(path, std::move(entries));
  for (const Tensor& matrix : matrices) {
    const std::vector<float> values = matrix.to_floats();
    const std::vector<double> wide(values.begin(), values.end());
    writer.write(std::as_bytes(std::span(wide)));
  }
  writer.finish();
}

Graph rotate(const Graph& graph, const Rotations& rotations, const RotateSettings& settings,
             WeightSink& sink) {
  if (!rotations.r1) return Rotator(graph, rotations, settings).run(sink);
  const Graph folded = fold_norms(untie_head(graph));
  return Rotator(folded, rotations, settings).run(sink);
}

}  // namespace tandem
