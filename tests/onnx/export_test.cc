// model.onnx as written: names, operators, bytes and shapes, and what cannot be written.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "graph/rewriter.h"
#include "onnx/export_model.h"
#include "onnx/family_graph.h"
#include "onnx/model_file.h"
#include "onnx/onnx_names.h"
#include "onnx/onnx_weights.h"
#include "support.h"
#include "tensor/packed_codes.h"

namespace tandem {
namespace {

using testing::CodeForm;
using testing::error_of;
using testing::FamilyModel;
using testing::float_attribute;
using testing::int_attribute;
using testing::make_codes;
using testing::make_family;
using testing::ModelFile;
using testing::ScratchFolder;
using testing::with_codes;

ModelFile exported(const ScratchFolder& folder, const FamilyModel& model,
                   const OnnxOptions& options = {}) {
  export_model(folder.path(), model.graph, model.info, options);
  ModelFile file(folder / options.filename);
  EXPECT_EQ(file.flaw(), "");
  return file;
}

FamilyModel family_in_codes(const char* name, const CodeForm& form = {}) {
  FamilyModel model = make_family(name);
  model.graph = with_codes(model.graph, form);
  return model;
}

std::vector<std::string> names_of(const auto& values) {
  std::vector<std::string> names;
  for (const auto& value : values) names.push_back(value.name());
  return names;
}

std::string bytes_of(const Tensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.bytes().data()), tensor.bytes().size()};
}

const LinearAttributes& linear(const Graph& graph, const std::string& name) {
  return std::ranges::find(graph.nodes(), name, &Node::name)->as<LinearAttributes>();
}

TEST(ExportModel, NamesAreThoseOfModules) {
  EXPECT_EQ(onnx_path("model.layers.12.self_attn.q_proj"), "/model/layers.12/attn/q_proj");
  EXPECT_EQ(onnx_path("lm_head"), "/lm_head");
  EXPECT_EQ(onnx_parent("/model/layers.3/mlp/act_fn"), "/model/layers.3/mlp");
  EXPECT_EQ(onnx_tensor("/model/layers.3/mlp/up_proj/MatMul"), "model.layers.3.mlp.up_proj.MatMul");
}

TEST(ExportModel, CpuGraphIsTheBuilders) {
  const ScratchFolder folder;
  const ModelFile file = exported(folder, family_in_codes("llama_biased"));
  EXPECT_EQ(file.model().ir_version(), 10);
  EXPECT_EQ(file.model().opset_import(0).version(), 22);
  EXPECT_EQ(file.model().opset_import(1).domain(), "com.microsoft");
  EXPECT_EQ(names_of(file.graph().input()),
            (std::vector<std::string>{"input_ids", "attention_mask", "past_key_values.0.key",
                                      "past_key_values.1.key", "past_key_values.0.value",
                                      "past_key_values.1.value"}));
  EXPECT_EQ(names_of(file.graph().output()),
            (std::vector<std::string>{"logits", "present.0.key", "present.1.key", "present.0.value",
                                      "present.1.value"}));
  const std::string l = "/model/layers.0/";
  const auto nbits = [&](const std::string& module, const std::string& input,
                         const std::string& prefix) {
    const std::string node = prefix + module + "/MatMulNBits";
    const std::string tensor = onnx_tensor(node);
    return fmt::format("{} MatMulNBits({}, {}.qweight, {}.scales, {}.qzeros) -> {}/output_0", node,
                       input, tensor, tensor, tensor, node);
  };
  const auto biased = [&](const std::string& module) {
    const std::string node = l + module + "/Add";
    return fmt::format("{} Add({}{}/MatMulNBits/output_0, {}.bias) -> {}/output_0", node, l, module,
                       onnx_tensor(node), node);
  };
  EXPECT_EQ(
      file.lines("/model/layers.0/"),
      (std::vector<std::string>{
          l + "input_layernorm/LayerNorm SimplifiedLayerNormalization(/model/embed_tokens/Gather/"
              "output_0, model.layers.0.input_layernorm.weight) -> "
              "/model/layers.0/input_layernorm/output_0",
          nbits("attn/qkv_proj", l + "input_layernorm/output_0", l), biased("attn/qkv_proj"),
          l + "attn/GroupQueryAttention GroupQueryAttention(/model/layers.0/attn/qkv_proj/Add/"
              "output_0, , , past_key_values.0.key, past_key_values.0.value, "
              "/model/attn_mask_reformat/attn_mask_subgraph/Sub/Cast/output_0, "
              "/model/attn_mask_reformat/attn_mask_subgraph/Gather/Cast/output_0, cos_cache, "
              "sin_cache) -> /model/layers.0/attn/GroupQueryAttention/output_0, present.0.key, "
              "present.0.value",
          nbits("attn/o_proj", l + "attn/GroupQueryAttention/output_0", l), biased("attn/o_proj"),
          l + "post_attention_layernorm/SkipLayerNorm SkipSimplifiedLayerNormalization("
              "/model/embed_tokens/Gather/output_0, /model/layers.0/attn/o_proj/Add/output_0, "
              "model.layers.0.post_attention_layernorm.weight) -> "
              "/model/layers.0/post_attention_layernorm/output_0, , , "
              "/model/layers.0/post_attention_layernorm/output_3",
          nbits("mlp/gate_proj", l + "post_attention_layernorm/output_0", l),
          biased("mlp/gate_proj"), nbits("mlp/up_proj", l + "post_attention_layernorm/output_0", l),
          biased("mlp/up_proj"),
          l + "mlp/act_fn/Sigmoid Sigmoid(/model/layers.0/mlp/gate_proj/Add/output_0) -> "
              "/model/layers.0/mlp/act_fn/Sigmoid/output_0",
          l + "mlp/act_fn/Mul Mul(/model/layers.0/mlp/gate_proj/Add/output_0, "
              "/model/layers.0/mlp/act_fn/Sigmoid/output_0) -> "
              "/model/layers.0/mlp/act_fn/Mul/output_0",
          l + "mlp/Mul Mul(/model/layers.0/mlp/act_fn/Mul/output_0, "
              "/model/layers.0/mlp/up_proj/Add/output_0) -> /model/layers.0/mlp/Mul/output_0",
          nbits("mlp/down_proj", l + "mlp/Mul/output_0", l), biased("mlp/down_proj")}));
  EXPECT_EQ(file.lines("/model/layers.2/final").size(), 1U);
  EXPECT_EQ(file.node("/model/layers.2/final_norm_layernorm/SkipLayerNorm").output_size(), 1);
  EXPECT_EQ(file.node("/lm_head/MatMulNBits").output(0), "logits");
  const auto& attention = file.node("/model/layers.1/attn/GroupQueryAttention");
  EXPECT_EQ(int_attribute(attention, "num_heads"), 4);
  EXPECT_EQ(int_attribute(attention, "kv_num_heads"), 2);
  EXPECT_EQ(int_attribute(attention, "do_rotary"), 1);
  EXPECT_EQ(int_attribute(attention, "local_window_size"), -1);
  EXPECT_FLOAT_EQ(float_attribute(attention, "scale"), 0.25F);
  EXPECT_EQ(int_attribute(file.node("/lm_head/MatMulNBits"), "accuracy_level"), 4);
}

TEST(ExportModel, DmlGraphRotatesByItself) {
  const ScratchFolder folder;
  const ModelFile file =
      exported(folder, family_in_codes("llama_biased"),
               {.provider = find_onnx_provider("dml"), .type = OnnxType::kFloat16});
  EXPECT_EQ(file.graph().input(2).name(), "position_ids");
  const std::string q = "/model/layers.0/attn/q_rotary/RotaryEmbedding";
  EXPECT_EQ(
      file.lines(q).at(0),
      q +
          " RotaryEmbedding(/model/layers.0/attn/q_proj/Add/output_0, position_ids, cos_cache, "
          "sin_cache) -> " +
          q + "/output_0");
  const auto& attention = file.node("/model/layers.0/attn/GroupQueryAttention");
  EXPECT_EQ(attention.input(0), q + "/output_0");
  EXPECT_EQ(attention.input_size(), 7);
  EXPECT_EQ(int_attribute(attention, "do_rotary"), 0);
  EXPECT_EQ(file.initializer("cos_cache").data_type(), static_cast<int>(OnnxType::kFloat16));
  EXPECT_EQ(int_attribute(file.node("/lm_head/MatMulNBits"), "accuracy_level"), 0);
}

TEST(ExportModel, FirstDialectIsThatOfTheGuides) {
  const ScratchFolder folder;
  const FamilyModel model = make_family("gemma2");
  const ModelFile file = exported(folder, model, {.dialect = find_onnx_dialect("0.5.1")});
  EXPECT_EQ(file.model().ir_version(), 7);
  EXPECT_EQ(file.model().opset_import(0).version(), 14);
  EXPECT_EQ(file.graph().input(2).name(), "past_key_values.0.key");
  EXPECT_EQ(file.graph().input(3).name(), "past_key_values.0.value");
  EXPECT_EQ(file.graph().output(2).name(), "present.0.value");
  const auto& sum = file.node("/model/attn_mask_reformat/attn_mask_subgraph/ReduceSum");
  EXPECT_EQ(sum.input(1), "/model/constants/TensorProto.INT64/1D/1");
  EXPECT_EQ(int_attribute(sum, "keepdims"), 1);
  EXPECT_EQ(file.node("/model/embed_tokens/Mul").input(1),
            "/model/constants/TensorProto.FLOAT/0D/8.0");
  EXPECT_EQ(file.node("/model/layers.0/mlp/act_fn/FastGelu").op_type(), "FastGelu");
  // It stores a tied table twice.
  EXPECT_EQ(file.shape("model.embed_tokens.weight"), (std::vector<std::int64_t>{67, 64}));
  EXPECT_EQ(file.shape("lm_head.MatMul.weight"), (std::vector<std::int64_t>{64, 67}));
}

TEST(ExportModel, ContextEndsWhereRotationsChange) {
  const FamilyModel model = make_family("llama_dynamic");
  const ScratchFolder folder;
  const OnnxReport report = export_model(folder.path(), model.graph, model.info, {});
  EXPECT_EQ(report.context_length, 48);
  EXPECT_GT(model.info.context_length, 48);
  EXPECT_EQ(ModelFile(folder / "model.onnx").shape("cos_cache"),
            (std::vector<std::int64_t>{48, 8}));
}

TEST(ExportModel, NormsOfHeadsComeBetweenProductAndAttention) {
  const ScratchFolder folder;
  const ModelFile file = exported(folder, family_in_codes("qwen3"));
  EXPECT_EQ(file.node("/model/layers.0/attn/qkv_proj/Split").output_size(), 3);
  EXPECT_EQ(file.node("/model/layers.0/attn/q_norm/Reshape_1").input(0),
            "/model/layers.0/attn/qkv_proj/Split/output_0");
  const auto& attention = file.node("/model/layers.0/attn/GroupQueryAttention");
  EXPECT_EQ(attention.input(0), "/model/layers.0/attn/q_norm/Reshape_2/output_0");
  EXPECT_EQ(attention.input(1), "/model/layers.0/attn/k_norm/Reshape_2/output_0");
  EXPECT_EQ(attention.input(2), "/model/layers.0/attn/qkv_proj/Split/output_2");
  EXPECT_EQ(attention.input(7), "cos_cache");
}

TEST(ExportModel, LongRopeChoosesBetweenTwoCaches) {
  const ScratchFolder folder;
  const FamilyModel model = make_family("phi3_longrope");
  const ModelFile file = exported(folder, model);
  const auto& choice = file.node("/model/rope_caches_subgraph/If");
  ASSERT_EQ(choice.attribute_size(), 2);
  EXPECT_EQ(choice.attribute(0).name(), "then_branch");
  EXPECT_EQ(choice.attribute(0).g().output(0).name(), "cos_cache_large");
  EXPECT_EQ(choice.attribute(1).g().output(1).name(), "sin_cache_small");
  const auto& small = choice.attribute(1).g().node(0).attribute(0).t();
  EXPECT_EQ(small.dims(0), 64);
  // Without If: one after the other, and positions that are moved.
  const ScratchFolder other;
  const ModelFile moved =
      exported(folder, model, {.provider = find_onnx_provider("dml"), .filename = "dml.onnx"});
  EXPECT_EQ(moved.shape("cos_cache")[0], 64 + model.info.context_length);
  EXPECT_EQ(moved.node("/model/layers.0/attn/q_rotary/RotaryEmbedding").input(1),
            "/model/pos_ids_reformat/Add/output_0");
}

TEST(ExportModel, FourNormsAndCaps) {
  const ScratchFolder folder;
  const ModelFile file = exported(folder, make_family("gemma2"));
  EXPECT_EQ(file.node("/model/layers.0/post_attention_layernorm/LayerNorm").op_type(),
            "SimplifiedLayerNormalization");
  EXPECT_EQ(file.node("/model/layers.0/pre_feedforward_layernorm/SkipLayerNorm").input(1),
            "/model/layers.0/post_attention_layernorm/output_0");
  EXPECT_EQ(file.node("/model/embed_tokens/Mul").input(1), "/model/constants/FLOAT/8.0");
  EXPECT_EQ(file.node("/lm_head/softcap/Mul").output(0), "logits");
  EXPECT_EQ(file.node("/model/layers.0/mlp/act_fn/FastGelu").op_type(), "Gelu");
  EXPECT_EQ(
      int_attribute(file.node("/model/layers.0/attn/GroupQueryAttention"), "local_window_size"), 8);
  EXPECT_EQ(
      int_attribute(file.node("/model/layers.1/attn/GroupQueryAttention"), "local_window_size"),
      -1);
  // A tied head is stored once.
  EXPECT_EQ(file.node("/model/embed_tokens/Transpose").input(0), "lm_head.MatMul.weight");
  EXPECT_EQ(file.shape("lm_head.MatMul.weight"), (std::vector<std::int64_t>{64, 67}));
}

TEST(ExportModel, CodesAreMovedByteForByte) {
  const ScratchFolder folder;
  const FamilyModel model = family_in_codes("llama_biased");
  const ModelFile file = exported(folder, model);
  const auto& weight =
      std::get<GroupCodes>(linear(model.graph, "model.layers.1.mlp.down_proj").weight);
  const std::string name = "model.layers.1.mlp.down_proj.MatMulNBits.";
  EXPECT_EQ(file.shape(name + "qweight"), (std::vector<std::int64_t>{64, 3, 16}));
  EXPECT_EQ(file.bytes(name + "qweight"), bytes_of(weight.codes));
  EXPECT_EQ(file.bytes(name + "scales"), bytes_of(weight.scales));
  EXPECT_EQ(file.bytes(name + "qzeros"), bytes_of(weight.zero_points));
  // q, k and v one after the other.
  std::string joined;
  for (const char* part : {"q", "k", "v"})
    joined += bytes_of(
        std::get<GroupCodes>(
            linear(model.graph, fmt::format("model.layers.0.self_attn.{}_proj", part)).weight)
            .codes);
  EXPECT_EQ(file.bytes("model.layers.0.attn.qkv_proj.MatMulNBits.qweight"), joined);
}

std::string written(const std::function<void(const ByteSink&)>& write) {
  std::string bytes;
  write([&](std::span<const std::byte> some) {
    bytes.append(reinterpret_cast<const char*>(some.data()), some.size());
  });
  return bytes;
}

TEST(OnnxWeights, SignedCodesBecomeUnsigned) {
  std::vector<float> values(2 * 32);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 15) - 7;
  const Weight weight = FloatWeight(Tensor::from_floats(values, {2, 32}));
  for (const int bits : {4, 8}) {
    const GroupCodes codes =
        make_codes(weight, {.bits = bits, .is_signed = true, .has_zero_points = true, .group = 16});
    const NBitsWeight stored(codes, "w");
    const std::string bytes = written([&](const ByteSink& sink) { stored.write_codes(sink); });
    const std::string zeros =
        written([&](const ByteSink& sink) { stored.write_zero_points(sink); });
    const auto scales = codes.scales.as<float>();
    const std::vector<float> expected = dequantize_rows(codes, 0, 2);
    for (std::int64_t i = 0; i < 64; ++i) {
      const auto at = [&](const std::string& packed, std::int64_t index) {
        const auto byte = static_cast<unsigned char>(
            packed[static_cast<std::size_t>(bits == 8 ? index : index / 2)]);
        return bits == 8 ? byte : (byte >> (index % 2 * 4)) & 15;
      };
      const auto code = static_cast<float>(at(bytes, i)),
                 zero = static_cast<float>(at(zeros, i / 16));
      EXPECT_EQ((code - zero) * scales[static_cast<std::size_t>(i / 16)],
                expected[static_cast<std::size_t>(i)])
          << bits << " " << i;
    }
  }
}

TEST(OnnxWeights, GroupsThatAreNoBlocksAreSplit) {
  std::vector<float> values(3 * 192);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i));
  const GroupCodes codes =
      make_codes(FloatWeight(Tensor::from_floats(values, {3, 192})), {.group = 96});
  const NBitsWeight stored(codes, "w");
  EXPECT_EQ(stored.block(), 32);
  EXPECT_EQ(stored.codes_shape(), (std::vector<std::int64_t>{3, 6, 16}));
  const std::string scales =
      written([&](const ByteSink& sink) { stored.write_scales(OnnxType::kFloat, sink); });
  const std::string zeros = written([&](const ByteSink& sink) { stored.write_zero_points(sink); });
  ASSERT_EQ(scales.size(), 18 * sizeof(float));
  ASSERT_EQ(zeros.size(), 9U);
  for (std::size_t block = 0; block < 18; ++block) {
    float scale = 0;
    std::memcpy(&scale, scales.data() + block * sizeof scale, sizeof scale);
    EXPECT_EQ(scale, codes.scales.as<float>()[block / 3]);
    const auto row = static_cast<std::int64_t>(block / 6);
    const int zero = static_cast<unsigned char>(zeros[block / 2]) >> (block % 2 * 4) & 15;
    EXPECT_EQ(zero, packed_code(codes.zero_points.bytes().data() + row, 4,
                                static_cast<std::int64_t>(block % 6 / 3)));
  }
}

TEST(OnnxWeights, BadWeightsAreNamed) {
  const Weight weight = FloatWeight(Tensor::from_floats(std::vector<float>(48, 1e6F), {2, 24}));
  EXPECT_EQ(
      error_of([&] { NBitsWeight(make_codes(weight, {.group = 24}), "model.x"); }),
      "[onnx] model.x: groups of 24 input channels: expected multiples of 16, which MatMulNBits "
      "has as blocks");
  const Weight large = FloatWeight(Tensor::from_floats(std::vector<float>(32, 1e9F), {2, 16}));
  const NBitsWeight stored(make_codes(large, {.has_zero_points = false, .group = 16}), "model.x");
  const auto write = [&](OnnxType type) {
    stored.write_scales(type, [](std::span<const std::byte>) {});
  };
  EXPECT_NO_THROW(write(OnnxType::kFloat));
  EXPECT_NE(error_of([&] { write(OnnxType::kFloat16); }).find("model.x: row 0: the scale"),
            std::string::npos);
}

TEST(ExportModel, SaysWhatHasNoForm) {
  const FamilyModel model = make_family("llama_biased");
  Rewriter rewriter(model.graph);
  for (NodeId id = 0; id < static_cast<NodeId>(model.graph.nodes().size()); ++id) {
    const Node& node = model.graph.node(id);
    rewriter.copy(id);
    if (node.op != Op::kMul) continue;
    const ValueId codes = rewriter.add(Op::kQuantizeInt16, node.name + ".quantize", node.layer,
                                       {rewriter(node.output())}, QuantizeAttributes{0.1F});
    rewriter.replace(node.output(), rewriter.add(Op::kDequantize, node.name + ".dequantize",
                                                 node.layer, {codes}, DequantizeAttributes{}));
  }
  const Graph graph = std::move(rewriter).finish();
  const ScratchFolder folder;
  EXPECT_EQ(error_of([&] { export_model(folder.path(), graph, model.info, {}); }),
            "[onnx] the graph has operators without a form in ONNX: QuantizeInt16 (2)");
  EXPECT_TRUE(fs::is_empty(folder.path()));
  const FamilyModel untied = family_in_codes("llama_rope");
  EXPECT_EQ(error_of([&] {
              export_model(folder.path(), untied.graph, untied.info, {.shared_embeddings = true});
            }),
            "[onnx] shared_embeddings: the head of this model is a weight of its own");
  EXPECT_EQ(error_of([&] {
              export_model(folder.path(), model.graph, model.info, {.shared_embeddings = true});
            }),
            "[onnx] shared_embeddings: expected a head in codes, lm_head stays float");
  const FamilyModel odd = make_family("llama_biased", 12);
  EXPECT_EQ(error_of([&] { export_model(folder.path(), odd.graph, odd.info, {}); }),
            "[onnx] model.layers.0.self_attn: heads of 12: ONNX Runtime's attention wants a "
            "multiple of 8");
  EXPECT_EQ(error_of([] { find_onnx_provider("rocm"); }),
            "[onnx] expected an execution provider of cpu, cuda, dml, webgpu, got \"rocm\"");
}

}  // namespace
}  // namespace tandem
