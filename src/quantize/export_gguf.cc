// One entry of the file for each tensor: floats to be encoded, or codes to be moved.
#include "quantize/export_gguf.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/printable.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf/block_tensors.h"
#include "checkpoint/gguf/gguf.h"
#include "checkpoint/gguf/gguf_export.h"
#include "checkpoint/gguf/gguf_mixture.h"
#include "models/model.h"
#include "quantize/kept_codes.h"
#include "quantize/linear_weights.h"
#include "quantize/passes.h"
#include "quantize/same_model.h"

namespace tandem {
namespace {

constexpr const char* kHead = "lm_head";

// The module that a GGUF has a tensor for: the family's own, which may be several of the graph's,
// whose rows follow each other.
std::string module_of(const ModulePlaces& places, const std::string& module) {
  const auto place = places(module);
  return place ? place->module : module;
}

const Weight& weight_of(const Node& linear) { return linear.as<LinearAttributes>().weight; }

// The blocks that hold what a scheme makes; throws where there are none.
GgmlType type_of_scheme(const Scheme& scheme, const Node& linear) {
  const std::int64_t k = input_channels(weight_of(linear));
  const std::int64_t group = scheme.group > 0 ? scheme.group : k;
  if (scheme.activations == ActivationType::kFloat && group % kGgmlBlock == 0) {
    if (scheme.weights == WeightType::kInt4) return GgmlType::kQ4_0;
    if (scheme.weights == WeightType::kUint4) return GgmlType::kQ4_1;
    if (scheme.weights == WeightType::kInt8) return GgmlType::kQ8_0;
  }
  fail(ErrorCode::kUnsupported,
       "[export] {}: {} in groups of {}{} has no blocks in GGUF: expected int4, uint4 or int8 in "
       "groups of a multiple of {}, or a type that it is rounded to instead (--gguf-type)",
       linear.name, to_string(scheme.weights), group,
       scheme.activations == ActivationType::kFloat ? "" : " with int8 activations", kGgmlBlock);
}

GgmlType type_of_kept(const Node& linear) {
  const auto* codes = std::get_if<GroupCodes>(&weight_of(linear));
  const auto type = codes == nullptr ? std::nullopt : ggml_type_of_codes(*codes);
  if (!type)
    fail(ErrorCode::kUnsupported,
         "[export] {}: {} has no blocks in GGUF: expected 4-bit codes or symmetric 8-bit codes in "
         "groups of a multiple of {}",
         linear.name, describe(weight_of(linear)), kGgmlBlock);
  return *type;
}

// What all parts of a tensor can have.
GgmlType common_type(GgmlType a, GgmlType b, const std::string& name) {
  if (a == b) return a;
  const auto has_four_bits = [](GgmlType type) {
    return type == GgmlType::kQ4_0 || type == GgmlType::kQ4_1;
  };
  if (has_four_bits(a) && has_four_bits(b)) return GgmlType::kQ4_1;
  fail(ErrorCode::kUnsupported,
       "[export] {}: is one tensor in GGUF: expected one type for all its modules, got {} and {}",
       name, to_string(a), to_string(b));
}

// A Linear that stays float, as far as the recipe is concerned.
bool stays_float(const Recipe& recipe, const Node& linear) {
  return !is_quantized(linear) && plan_of(recipe, linear).decode.weights == WeightType::kFloat;
}

class Contents {
 public:
  Contents(const Checkpoint& checkpoint, const Graph& graph, const Recipe& recipe,
           const GgufExport& form)
      : architecture_(gguf_architecture_of(checkpoint)),
        places_(module_places(checkpoint.config_object())),
        recipe_(recipe),
        form_(form) {
    const auto head = std::ranges::find(graph.nodes(), std::string(kHead), &Node::name);
    const bool is_tied = head == graph.nodes().end() || is_embedding_of(graph, *head);
    const bool float_head = head != graph.nodes().end() && stays_float(recipe, *head);
    GgufMixture mixture(form.type.value_or(GgmlType::kF16), graph.layers(), is_tied);
    for (const Node& node : graph.nodes()) {
      if (node.op == Op::kEmbedding) {
        const Rows rows = stored_rows(node.as<EmbeddingAttributes>().table);
        const bool is_float = !form.type || (is_tied && float_head);
        const Shape shape = {rows->rows(), rows->columns()};
        add_rows(node.name + ".weight",
                 is_float ? GgmlType::kF16 : mixture.choose("token_embd.weight", shape),
                 FloatWeight(rows));
      }
      if (node.op == Op::kRmsNorm)
        add_vector(node.name + ".weight", node.as<RmsNormAttributes>().weight.to_floats());
      if (node.op == Op::kLinear && !(node.name == kHead && is_tied)) add_linear(node, mixture);
    }
    fallen_back_ = mixture.fallen_back();
  }

  std::vector<GgufContent> take() && {
    std::vector<GgufContent> contents;
    for (const std::string& name : order_) {
      const Matrix& tensor = tensors_.at(name);
      contents.push_back({name, {tensor.rows, tensor.columns}, tensor.type, [tensor, name] {
                            return reader(tensor, name);
                          }});
    }
    contents.insert(contents.end(), std::make_move_iterator(vectors_.begin()),
                    std::make_move_iterator(vectors_.end()));
    return contents;
  }

  // What most matrices that the recipe quantizes have.
  GgmlType mostly() const {
    if (form_.type) return *form_.type;
    const auto most =
        std::ranges::max_element(counts_, {}, [](const auto& entry) { return entry.second; });
    return most == counts_.end() ? GgmlType::kF16 : most->first;
  }

  std::int64_t fallen_back() const noexcept { return fallen_back_; }

 private:
  // Weights whose rows follow each other.
  struct Matrix {
    GgmlType type = GgmlType::kF16;
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    std::vector<Weight> parts;
  };

  static std::vector<std::byte> encode(const Weight& weight, GgmlType type, std::int64_t begin,
                                       std::int64_t count, const std::string& name) {
    if (const auto* codes = std::get_if<GroupCodes>(&weight))
      return blocks_of_codes(*codes, type, begin, count, name);
    return quantize_blocks(type, dequantize_rows(weight, begin, count), name);
  }

  static GgufContent::Read reader(const Matrix& tensor, const std::string& name) {
    return [tensor, name](std::int64_t begin, std::int64_t count) {
      std::vector<std::byte> bytes;
      std::int64_t first = 0;
      for (const Weight& part : tensor.parts) {
        const std::int64_t rows = output_channels(part);
        const std::int64_t from = std::max(begin, first);
        const std::int64_t to = std::min(begin + count, first + rows);
        if (from < to) {
          const auto some = encode(part, tensor.type, from - first, to - from, name);
          bytes.insert(bytes.end(), some.begin(), some.end());
        }
        first += rows;
      }
      return bytes;
    };
  }

  void add_rows(const std::string& name, GgmlType type, const Weight& weight) {
    const auto [entry, is_new] = tensors_.try_emplace(name);
    Matrix& tensor = entry->second;
    if (is_new) order_.push_back(name);
    tensor.type = is_new ? type : common_type(tensor.type, type, name);
    tensor.rows += output_channels(weight);
    tensor.columns = input_channels(weight);
    tensor.parts.push_back(weight);
  }

  void add_vector(const std::string& name, const std::vector<float>& values) {
    const Shape shape = {static_cast<std::int64_t>(values.size())};
    const Weight row = FloatWeight(Tensor::from_floats(values, {1, shape[0]}));
    vectors_.push_back({name, shape, GgmlType::kF32, [row, name]() -> GgufContent::Read {
                          return [row, name](std::int64_t, std::int64_t) {
                            return encode(row, GgmlType::kF32, 0, 1, name);
                          };
                        }});
  }

  void add_linear(const Node& node, GgufMixture& mixture) {
    const auto& linear = node.as<LinearAttributes>();
    const std::string name = module_of(places_, node.name) + ".weight";
    GgmlType type = GgmlType::kF16;
    if (is_quantized(node)) {
      type = type_of_kept(node);
      ++counts_[type];
    } else if (form_.type && !stays_float(recipe_, node)) {
      const auto gguf_name = name_to_gguf(architecture_, name);
      type = mixture.choose(gguf_name.value_or(name),
                            {output_channels(linear.weight), input_channels(linear.weight)});
    }
    add_rows(name, type, linear.weight);
    if (!linear.bias.empty()) add_vector(node.name + ".bias", linear.bias.to_floats());
  }

  GgufArchitecture architecture_;
  ModulePlaces places_;
  const Recipe& recipe_;
  GgufExport form_;
  std::map<std::string, Matrix> tensors_;
  // Their names in the graph's order.
  std::vector<std::string> order_;
  std::vector<GgufContent> vectors_;
  std::map<GgmlType, int> counts_;
  std::int64_t fallen_back_ = 0;
};

}  // namespace

void check_gguf_export(const Checkpoint& checkpoint, const Graph& loaded, const Recipe& recipe,
                       const GgufExport& form) {
  if (is_gguf(checkpoint.weight_files().front()))
    fail(ErrorCode::kUnsupported,
         "[export] {}: is a GGUF already; GGUF is written from other formats",
         checkpoint.path().string());
  const GgufArchitecture architecture = gguf_architecture_of(checkpoint);
  if (architecture.name == "chatglm")
    fail(ErrorCode::kUnsupported,
         "[export] {}: in GGUF the rows of this family's q and k stand in another order: a "
         "quantized one is not exported (tandem convert writes one from floats)",
         checkpoint.path().string());
  if (form.type && std::ranges::find(recipe.passes, "gptq", &PassStep::name) != recipe.passes.end())
    fail(ErrorCode::kInvalidArgument,
         "[export] gptq chooses codes, and {} rounds anew: leave one of them out",
         to_string(*form.type));
  require_no_operators(recipe);
  const ModulePlaces places = module_places(checkpoint.config_object());
  std::map<std::string, GgmlType> types;
  for (const Node& node : loaded.nodes()) {
    const bool has_tensor =
        node.op == Op::kLinear || node.op == Op::kRmsNorm || node.op == Op::kEmbedding;
    if (!has_tensor) continue;
    const std::string name = module_of(places, node.name);
    if (!name_to_gguf(architecture, name + ".weight"))
      fail(ErrorCode::kUnsupported, "[export] {}: has no place in architecture {} of GGUF",
           printable(node.name), architecture.name);
    if (node.op != Op::kLinear) continue;
    GgmlType type = GgmlType::kF16;
    if (is_quantized(node)) {
      type = type_of_kept(node);
    } else if (!stays_float(recipe, node)) {
      type = form.type ? *form.type : type_of_scheme(plan_of(recipe, node).decode, node);
    }
    const auto [entry, is_new] = types.try_emplace(name, type);
    if (!is_new) entry->second = common_type(entry->second, type, name);
  }
}

void check_gguf_outline(const fs::path& draft, const std::string& output,
                        const Checkpoint& checkpoint, const Graph& loaded, const Recipe& recipe,
                        Observer& observer) {
  // Of which types its matrices are does not matter here.
  Contents contents(checkpoint, loaded, recipe, {GgmlType::kF16});
  write_gguf_contents(draft, checkpoint, GgmlType::kF16, std::move(contents).take(), "write",
                      silent(), std::nullopt, true);
  require_same_graph(loaded, Checkpoint::open(draft), "export", "GGUF");
  compare_tokenizers(checkpoint.text_path(), draft, "export", output, observer);
  fs::remove(draft);
}

void export_gguf(const fs::path& file, const Checkpoint& checkpoint, const Graph& graph,
                 const Recipe& recipe, const GgufExport& form, std::vector<std::int64_t> ends,
                 Observer& observer) {
  Contents contents(checkpoint, graph, recipe, form);
  const GgmlType mostly = contents.mostly();
  warn_of_fallback(contents.fallen_back(), mostly, observer);
  write_gguf_contents(file, checkpoint, mostly, std::move(contents).take(), "write", observer,
                      std::move(ends));
}

}  // namespace tandem
