#include "package/package_fixture.h"

#include <cstring>
#include <functional>
#include <map>
#include <random>

#include "graph/int8_nodes.h"

namespace tandem::testing {
namespace {

Tensor random_bytes(std::mt19937& random, DType dtype, const Shape& shape) {
  std::byte* data = nullptr;
  Tensor tensor = Tensor::allocate(dtype, shape, &data);
  // -128 is no code of int8 weights.
  std::uniform_int_distribution<int> code(dtype == DType::kI8 ? -127 : 0,
                                          dtype == DType::kI8 ? 127 : 255);
  for (std::size_t i = 0; i < tensor.bytes().size(); ++i)
    data[i] = static_cast<std::byte>(code(random));
  return tensor;
}

Tensor random_floats(std::mt19937& random, const Shape& shape, float low, float high) {
  std::uniform_real_distribution<float> uniform(low, high);
  std::vector<float> values(static_cast<std::size_t>(element_count(shape)));
  for (float& value : values) value = uniform(random);
  return Tensor::from_floats(values, shape);
}

// What both phases share, and the weights of each.
class TinyWeights {
 public:
  Tensor floats(const std::string& name, const Shape& shape, float low, float high) {
    auto [found, is_new] = floats_.try_emplace(name);
    if (is_new) found->second = random_floats(random_, shape, low, high);
    return found->second;
  }
  GroupCodes int4(std::int64_t n, std::int64_t k) {
    GroupCodes weight{.n = n, .k = k, .group = 64};
    weight.codes = random_bytes(random_, DType::kU8, {n, k / 2});
    weight.scales = random_floats(random_, {n, k / 64}, 0.001F, 0.01F);
    weight.zero_points = random_bytes(random_, DType::kU8, {n, (k / 64 + 1) / 2});
    return weight;
  }
  ChannelCodes int8(std::int64_t n, std::int64_t k) {
    return {n, k, random_bytes(random_, DType::kI8, {n, k}),
            random_floats(random_, {n}, 0.0001F, 0.001F)};
  }

 private:
  std::mt19937 random_{11};
  std::map<std::string, Tensor> floats_;
};

class TinyBuilder {
 public:
  TinyBuilder(TinyWeights& weights, bool is_int8) : weights_(weights), is_int8_(is_int8) {}

  Graph build() {
    const ValueId ids = graph_.add_input({.name = "input_ids", .dtype = DType::kI32, .width = 1});
    const ValueId selected = graph_.add_input({.name = "selected_rows",
                                               .dtype = DType::kI32,
                                               .rows = graph_.row_space("selected"),
                                               .width = 1});
    const Tensor table =
        weights_.floats("model.embed_tokens", {kTinyVocabulary, kTinyHidden}, -1, 1);
    ValueId x =
        graph_.add(Op::kEmbedding, "model.embed_tokens", -1, {ids}, EmbeddingAttributes{table, 1});
    for (layer_ = 0; layer_ < 2; ++layer_) x = block(x);
    layer_ = -1;
    x = graph_.add(Op::kSelectRows, "model.select_rows", -1, {x, selected});
    x = norm("model.norm", x);
    graph_.set_outputs(
        {graph_.add(Op::kLinear, "lm_head", -1, {x}, LinearAttributes{FloatWeight(table), {}})});
    return std::move(graph_);
  }

 private:
  ValueId block(ValueId x) {
    const std::string prefix = "model.layers." + std::to_string(layer_) + ".";
    const auto linear = [&](const char* name, ValueId from, std::int64_t n, bool bias = false) {
      return add_linear(prefix + name, from, n, bias);
    };
    ValueId y = norm(prefix + "input_layernorm", x);
    const ValueId q = linear("self_attn.q_proj", y, 64, true);
    const ValueId k = linear("self_attn.k_proj", y, 32);
    const ValueId v = linear("self_attn.v_proj", y, 32);
    const AttentionAttributes attention{.heads = 2, .kv_heads = 1, .head_dim = 32, .scale = 0.2F};
    y = graph_.add(Op::kGroupQueryAttention, prefix + "self_attn", layer_, {q, k, v}, attention);
    y = linear("self_attn.o_proj", y, 64);
    x = graph_.add(Op::kAdd, prefix + "attention_residual", layer_, {x, y});
    y = norm(prefix + "post_attention_layernorm", x);
    const ValueId gate = linear("mlp.gate_proj", y, kTinyInner);
    const ValueId up = linear("mlp.up_proj", y, kTinyInner);
    y = graph_.add(Op::kSilu, prefix + "mlp.act_fn", layer_, {gate});
    y = graph_.add(Op::kMul, prefix + "mlp.mul", layer_, {y, up});
    y = linear("mlp.down_proj", y, kTinyHidden);
    return graph_.add(Op::kAdd, prefix + "mlp_residual", layer_, {x, y});
  }

  ValueId norm(const std::string& name, ValueId x) {
    return graph_.add(
        Op::kRmsNorm, name, layer_, {x},
        RmsNormAttributes{weights_.floats(name, {kTinyHidden}, 0.9F, 1.1F), 1e-6F, 1});
  }

  ValueId add_linear(const std::string& name, ValueId x, std::int64_t n, bool with_bias) {
    const std::int64_t k = graph_.value(x).width;
    Tensor bias;
    if (with_bias) bias = weights_.floats(name + ".bias", {n}, -0.1F, 0.1F);
    if (!is_int8_)
      return graph_.add(Op::kLinear, name, layer_, {x},
                        LinearAttributes{weights_.int4(n, k), bias});
    auto [codes, is_new] = codes_.try_emplace(x, -1);
    if (is_new)
      codes->second = graph_.add(Op::kQuantize, graph_.value(x).name + ".quantize", layer_, {x},
                                 QuantizeAttributes{0.03F});
    return add_static_int8(graph_, name, layer_, codes->second, weights_.int8(n, k), bias);
  }

  TinyWeights& weights_;
  bool is_int8_;
  Graph graph_;
  std::int32_t layer_ = -1;
  std::map<ValueId, ValueId> codes_;
};

}  // namespace

TinyModel tiny_model() {
  TinyWeights weights;
  return {.info = {.model_type = "llama",
                   .hidden_size = kTinyHidden,
                   .intermediate_size = kTinyInner,
                   .layers = 2,
                   .heads = 2,
                   .kv_heads = 1,
                   .head_dim = 32,
                   .vocabulary = kTinyVocabulary,
                   .context_length = 256,
                   .tied_head = true,
                   .bos = 1,
                   .eos = {2, 3}},
          .prefill = TinyBuilder(weights, true).build(),
          .decode = TinyBuilder(weights, false).build()};
}

void write_tiny_package(const fs::path& folder) {
  const TinyModel model = tiny_model();
  ThreadPool pool(2);
  fs::create_directories(folder);
  write_bytes(folder / "config.json", "{\"model_type\": \"llama\"}\n");
  write_bytes(folder / "generation_config.json", "{\"temperature\": 0.5}\n");
  write_package(folder,
                {model.info, Json{{"temperature", 0.5}}, model.prefill, model.decode,
                 OrderedJson{{"chunk", 32}}},
                pool, silent());
}

}  // namespace tandem::testing
