// One entry of the file for each tensor, made when it is written.
#include "quantize/export_checkpoint.h"

#include <algorithm>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "package/write_package.h"
#include "quantize/family_modules.h"
#include "quantize/kept_codes.h"
#include "quantize/linear_weights.h"
#include "quantize/passes.h"

namespace tandem {
namespace {

constexpr const char* kHead = "lm_head";

// From the weight that was made, or that the checkpoint had already. AWQ has no form of its own for
// one scale per row.
PackedModule module_of(const std::string& name, const Weight& weight, const PackedStyle& style) {
  const auto* codes = std::get_if<GroupCodes>(&weight);
  if (codes == nullptr) return {.name = name};
  const bool is_row = codes->group == codes->k && style.layout != PackedStyle::Layout::kAwq;
  return {.name = name,
          .is_packed = true,
          .is_signed = codes->is_signed,
          .group = has_one_scale(*codes) ? kWholeTensor
                   : is_row              ? 0
                                         : codes->group,
          .bits = codes->bits};
}

// What the recipe makes of a Linear.
PackedModule planned_module(const Node& node, const Recipe& recipe, const PackedStyle& style) {
  const Weight& weight = node.as<LinearAttributes>().weight;
  const Scheme scheme = plan_of(recipe, node).decode;
  if (scheme.activations != ActivationType::kFloat || std::holds_alternative<ChannelCodes>(weight))
    fail(ErrorCode::kUnsupported,
         "[export] {}: int8 with int8 activations is not exported: expected codes in groups",
         node.name);
  if (is_quantized(node)) return module_of(node.name, weight, style);
  return {.name = node.name,
          .is_packed = scheme.weights != WeightType::kFloat,
          .is_signed = is_signed(scheme.weights),
          .group = scheme.group,
          .bits = bits_of(scheme.weights)};
}

// The type of its scales.
DType planned_scales(const Node& node, const Recipe& recipe) {
  const auto* codes = std::get_if<GroupCodes>(&node.as<LinearAttributes>().weight);
  return codes != nullptr ? codes->scales.dtype() : plan_of(recipe, node).decode.scales;
}

// Fused Linears have no scale in common.
void require_scales_of_rows(const Node& first, const Recipe& recipe, const std::string& module) {
  const Scheme scheme = plan_of(recipe, first).decode;
  if (is_quantized(first) || scheme.weights == WeightType::kFloat || scheme.group != kWholeTensor)
    return;
  fail(ErrorCode::kInvalidArgument,
       "[export] {}: is several Linears, {} first, which have a scale each: expected scales for "
       "rows or groups",
       module, first.name);
}

// What becomes of all modules. Those that the family has as one must be made alike.
std::vector<PackedModule> planned_modules(const Graph& graph,
                                          const std::vector<FamilyModule>& modules,
                                          const Recipe& recipe, const PackedStyle& style) {
  std::vector<PackedModule> planned;
  for (const FamilyModule& module : modules) {
    if (graph.node(module.nodes.front()).op != Op::kLinear) continue;
    std::vector<PackedModule> parts;
    if (module.nodes.size() > 1)
      require_scales_of_rows(graph.node(module.nodes.front()), recipe, module.name);
    for (const NodeId id : module.nodes) {
      parts.push_back(planned_module(graph.node(id), recipe, style));
      const bool is_alike = parts.back().has_form_of(parts.front()) &&
                            planned_scales(graph.node(id), recipe) ==
                                planned_scales(graph.node(module.nodes.front()), recipe);
      if (parts.back().is_packed != parts.front().is_packed ||
          (parts.back().is_packed && !is_alike))
        fail(ErrorCode::kInvalidArgument,
             "[export] {} and {}: are one module here, {}: expected one scheme for both",
             parts.front().name, parts.back().name, module.name);
    }
    parts.front().name = module.name;
    planned.push_back(std::move(parts.front()));
  }
  return planned;
}

bool has_tied_head(const Graph& graph) {
  const auto head = std::ranges::find(graph.nodes(), std::string(kHead), &Node::name);
  return head != graph.nodes().end() && is_embedding_of(graph, *head);
}

class Export {
 public:
  Export(const Checkpoint& checkpoint, const Graph& loaded, const Graph& quantized,
         const PackedStyle& style)
      : checkpoint_(checkpoint),
        graph_(quantized),
        style_(style),
        was_tied_(has_tied_head(loaded)),
        is_tied_(has_tied_head(quantized)) {
    for (const Node& node : quantized.nodes()) {
      if (node.op != Op::kLinear) continue;
      if (const auto* codes = std::get_if<GroupCodes>(&node.as<LinearAttributes>().weight))
        dtype_ = codes->scales.dtype();
    }
    for (const FamilyModule& module : family_modules(quantized, checkpoint)) {
      const Node& node = quantized.node(module.nodes.front());
      if (node.op == Op::kEmbedding)
        add_rows(module.name + ".weight", stored_rows(node.as<EmbeddingAttributes>().table));
      if (node.op == Op::kRmsNorm) add_norm(module.name, node, loaded);
      if (node.op == Op::kLinear) add_linear(module);
    }
  }

  void write(const fs::path& folder, std::int64_t shard_bytes, Observer& observer) const {
    const std::vector<std::span<const Item>> shards = cut_shards(shard_bytes);
    Task task(observer, "write", static_cast<std::int64_t>(items_.size()), "modules");
    OrderedJson places = OrderedJson::object();
    std::int64_t total = 0;
    for (std::size_t i = 0; i < shards.size(); ++i) {
      const std::string name = shards.size() == 1 ? "model.safetensors"
                                                  : fmt::format("model-{:05}-of-{:05}.safetensors",
                                                                i + 1, shards.size());
      std::vector<SafetensorsWriter::Entry> entries;
      for (const Item& item : shards[i]) {
        entries.insert(entries.end(), item.entries.begin(), item.entries.end());
        total += item.bytes();
      }
      for (const auto& entry : entries) places[entry.name] = name;
      SafetensorsWriter writer(folder / name, entries, {{"format", "pt"}});
      for (const Item& item : shards[i]) {
        item.write(writer);
        task.advance();
      }
      writer.finish();
    }
    if (shards.size() > 1)
      write_text_file(
          folder / "model.safetensors.index.json",
          OrderedJson{{"metadata", {{"total_size", total}}}, {"weight_map", std::move(places)}}
                  .dump(2) +
              "\n");
    write_text_file(folder / "config.json", config().dump(2) + "\n");
  }

 private:
  // Tensors that are written together.
  struct Item {
    std::vector<SafetensorsWriter::Entry> entries;
    std::function<void(SafetensorsWriter&)> write;

    std::int64_t bytes() const {
      std::int64_t sum = 0;
      for (const auto& entry : entries)
        sum += element_count(entry.shape) * static_cast<std::int64_t>(size_of(entry.dtype));
      return sum;
    }
  };

  // Consecutive items, of at most that many bytes together unless one alone has more.
  std::vector<std::span<const Item>> cut_shards(std::int64_t shard_bytes) const {
    std::vector<std::span<const Item>> shards;
    std::size_t first = 0;
    std::int64_t bytes = 0;
    for (std::size_t i = 0; i < items_.size(); ++i) {
      if (i > first && bytes + items_[i].bytes() > shard_bytes) {
        shards.push_back(std::span(items_).subspan(first, i - first));
        first = i;
        bytes = 0;
      }
      bytes += items_[i].bytes();
    }
    shards.push_back(std::span(items_).subspan(first));
    return shards;
  }

  void add_rows(const std::string& name, const Rows& rows) {
    const Rows typed = round_rows(rows, dtype_);
    items_.push_back(
        {{{name, dtype_, {rows->rows(), rows->columns()}}},
         [name, typed](SafetensorsWriter& writer) { writer.write_rows(name, *typed); }});
  }

  void add_vector(const std::string& name, const std::vector<float>& values) {
    const auto size = static_cast<std::int64_t>(values.size());
    const Rows typed = round_rows(stored_rows(Tensor::from_floats(values, {1, size})), dtype_);
    items_.push_back({{{name, dtype_, {size}}}, [name, typed](SafetensorsWriter& writer) {
                        writer.write_rows(name, *typed);
                      }});
  }

  void add_norm(const std::string& name, const Node& node, const Graph& loaded) {
    const auto own = std::ranges::find(loaded.nodes(), node.name, &Node::name);
    const float offset = norm_offset(checkpoint_, name, *own);
    std::vector<float> gain = node.as<RmsNormAttributes>().weight.to_floats();
    for (float& value : gain) value -= offset;
    add_vector(name + ".weight", gain);
  }

  void add_linear(const FamilyModule& module) {
    const Weight& first = graph_.node(module.nodes.front()).as<LinearAttributes>().weight;
    const PackedModule packed = module_of(module.name, first, style_);
    modules_.push_back(packed);
    if (!packed.is_packed) {
      // A tied head has no tensor of its own.
      if (module.name != kHead || !is_tied_)
        add_rows(module.name + ".weight", std::get<FloatWeight>(weight_of(graph_, module)).rows);
    } else {
      std::int64_t n = 0;
      for (const NodeId id : module.nodes)
        n += output_channels(graph_.node(id).as<LinearAttributes>().weight);
      Item item;
      for (const PackedTensor& tensor :
           packed_tensors(packed, n, input_channels(first),
                          std::get<GroupCodes>(first).scales.dtype(), style_))
        item.entries.push_back({module.name + tensor.suffix, tensor.dtype, tensor.shape});
      item.write = [this, module, entries = item.entries](SafetensorsWriter& writer) {
        const Weight weight = weight_of(graph_, module);
        const std::vector<Tensor> tensors = pack(std::get<GroupCodes>(weight), style_);
        for (std::size_t i = 0; i < tensors.size(); ++i)
          writer.write(entries[i].name, tensors[i].bytes());
      };
      items_.push_back(std::move(item));
    }
    const std::vector<float> bias = bias_of(graph_, module);
    if (!bias.empty()) add_vector(module.name + ".bias", bias);
  }

  OrderedJson config() const {
    OrderedJson config = OrderedJson(checkpoint_.config());
    const char* dtype = dtype_ == DType::kF16    ? "float16"
                        : dtype_ == DType::kBF16 ? "bfloat16"
                                                 : "float32";
    config[config.contains("dtype") ? "dtype" : "torch_dtype"] = dtype;
    if (was_tied_ && !is_tied_) config["tie_word_embeddings"] = false;
    config["quantization_config"] = packed_config(style_, modules_);
    return config;
  }

  const Checkpoint& checkpoint_;
  const Graph& graph_;
  PackedStyle style_;
  // The head, in the checkpoint and once it is quantized.
  bool was_tied_, is_tied_;
  std::vector<PackedModule> modules_;
  DType dtype_ = DType::kF16;
  std::vector<Item> items_;
};

// Code of the model's own, which transformers runs where it is trusted.
void copy_code(const fs::path& from, const fs::path& to) {
  if (!fs::is_directory(from)) return;
  for (const auto& entry : fs::directory_iterator(from))
    if (entry.is_regular_file() && entry.path().extension() == ".py")
      fs::copy_file(entry.path(), to / entry.path().filename());
}

}  // namespace

void check_export(const Checkpoint& checkpoint, const Graph& loaded, const Recipe& recipe,
                  const PackedStyle& style) {
  require_no_operators(recipe);
  const std::vector<FamilyModule> modules = family_modules(loaded, checkpoint);
  const std::vector<PackedModule> planned = planned_modules(loaded, modules, recipe, style);
  if (const std::string objection = objection_to_style(style, planned); !objection.empty())
    fail(ErrorCode::kInvalidArgument, "[export] {}", objection);
  for (const FamilyModule& module : modules) {
    const Node& node = loaded.node(module.nodes.front());
    if (module.name != kHead && !checkpoint.has(module.name + ".weight"))
      fail(ErrorCode::kUnsupported,
           "[export] {}: the checkpoint has no tensor of this name: families with names of their "
           "own are not exported",
           module.name);
    if (node.op == Op::kRmsNorm) norm_offset(checkpoint, module.name, node);
  }
}

void export_checkpoint(const fs::path& folder, const Checkpoint& checkpoint, const Graph& loaded,
                       const Graph& quantized, const PackedStyle& style, std::int64_t shard_bytes,
                       Observer& observer) {
  write_texts(checkpoint, folder, observer);
  copy_code(checkpoint.path(), folder);
  Export(checkpoint, loaded, quantized, style).write(folder, shard_bytes, observer);
}

}  // namespace tandem
