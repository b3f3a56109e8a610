// The forward pass of a decoder, node by node. Shapes in comments: t tokens, d hidden size.
#include "models/decoder_blocks.h"

#include <cmath>
#include <string>
#include <utility>

#include "base/error.h"
#include "models/rope.h"

namespace tandem {
namespace {

class DecoderBuilder {
 public:
  DecoderBuilder(const DecoderConfig& config, const WeightSource& weights)
      : config_(config), info_(config.info), weights_(weights) {}

  Graph build() {
    graph_.add_input("input_ids");
    const Tensor table =
        weights_.tensor("model.embed_tokens.weight", {info_.vocabulary, info_.hidden_size});
    ValueId x = graph_.add(Op::kEmbedding, "model.embed_tokens", -1, {graph_.input},
                           EmbeddingAttributes{table});  // [t, d]
    for (layer_ = 0; layer_ < info_.layers; ++layer_) {
      prefix_ = "model.layers." + std::to_string(layer_) + ".";
      x = add(prefix_ + "attention_residual", x, attention(norm("input_layernorm", x)));
      x = add(prefix_ + "mlp_residual", x, mlp(norm("post_attention_layernorm", x)));
    }
    layer_ = -1;
    prefix_ = "model.";
    x = graph_.add(Op::kSelectRows, "model.select_rows", -1, {x});
    x = norm("norm", x);
    graph_.output = graph_.add(Op::kLinear, "lm_head", -1, {x}, LinearAttributes{head(table), {}});
    return std::move(graph_);
  }

 private:
  // [t, d] -> [t, d]
  ValueId attention(ValueId x) {
    const std::int64_t width = info_.heads * info_.head_dim;
    const std::int64_t kv_width = info_.kv_heads * info_.head_dim;
    const std::string module = prefix_ + "self_attn";
    const ValueId q = linear(module + ".q_proj", x, width, config_.qkv_bias);
    const ValueId k = linear(module + ".k_proj", x, kv_width, config_.qkv_bias);
    const ValueId v = linear(module + ".v_proj", x, kv_width, config_.qkv_bias);
    const ValueId q_turned = rotate(module + ".q_rotary", q, info_.heads);
    const ValueId k_turned = rotate(module + ".k_rotary", k, info_.kv_heads);
    const AttentionAttributes attributes{
        .heads = info_.heads,
        .kv_heads = info_.kv_heads,
        .head_dim = info_.head_dim,
        .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(info_.head_dim))),
        .window = config_.windows[static_cast<std::size_t>(layer_)]};
    const ValueId context =
        graph_.add(Op::kGroupQueryAttention, module, layer_, {q_turned, k_turned, v}, attributes);
    return linear(module + ".o_proj", context, info_.hidden_size, config_.output_bias);
  }

  // [t, d] -> [t, d]
  ValueId mlp(ValueId x) {
    const std::string module = prefix_ + "mlp";
    const std::int64_t inner = info_.intermediate_size;
    const ValueId gate = linear(module + ".gate_proj", x, inner, config_.mlp_bias);
    const ValueId up = linear(module + ".up_proj", x, inner, config_.mlp_bias);
    const ValueId opened = graph_.add(Op::kSilu, module + ".act_fn", layer_, {gate});
    const ValueId product = graph_.add(Op::kMul, module + ".mul", layer_, {opened, up});
    return linear(module + ".down_proj", product, info_.hidden_size, config_.mlp_bias);
  }

  ValueId add(const std::string& name, ValueId a, ValueId b) {
    return graph_.add(Op::kAdd, name, layer_, {a, b});
  }

  ValueId norm(const std::string& name, ValueId x) {
    const std::string module = prefix_ + name;
    return graph_.add(
        Op::kRmsNorm, module, layer_, {x},
        RmsNormAttributes{floats(module + ".weight", info_.hidden_size), config_.epsilon});
  }

  ValueId linear(const std::string& module, ValueId x, std::int64_t n, bool with_bias) {
    LinearAttributes attributes{weights_.linear(module, n, graph_.value(x).width), {}};
    if (with_bias) attributes.bias = floats(module + ".bias", n);
    return graph_.add(Op::kLinear, module, layer_, {x}, std::move(attributes));
  }

  ValueId rotate(const std::string& name, ValueId x, std::int64_t heads) {
    return graph_.add(Op::kRotaryEmbedding, name, layer_, {x},
                      RotaryAttributes{.heads = heads,
                                       .head_dim = info_.head_dim,
                                       .inverse_frequencies = config_.inverse_frequencies});
  }

  Weight head(const Tensor& table) const {
    if (info_.tied_head && !weights_.has("lm_head.weight")) return FloatWeight{table};
    return weights_.linear("lm_head", info_.vocabulary, info_.hidden_size);
  }

  // A vector of any float type, as float32: small, and read for every row.
  Tensor floats(const std::string& name, std::int64_t width) const {
    return Tensor::from_floats(weights_.tensor(name, {width}).to_floats(), {width});
  }

  const DecoderConfig& config_;
  const ModelInfo& info_;
  const WeightSource& weights_;
  Graph graph_;
  std::int32_t layer_ = -1;
  std::string prefix_;  // of the current block's modules, "model.layers.0."
};

}  // namespace

DecoderConfig read_decoder_config(const JsonObject& config) {
  DecoderConfig decoder;
  decoder.info = read_model_info(config);
  const std::string activation = config.get_string_or("hidden_act", "silu");
  if (activation != "silu" && activation != "swish")  // two names of one function
    fail(ErrorCode::kUnsupported, "[models] {}: hidden_act: expected \"silu\", got \"{}\"",
         config.where(), activation.substr(0, 64));
  const double epsilon = config.get_number_or("rms_norm_eps", 1e-6);
  if (!(epsilon >= 0 && epsilon <= 1))
    fail(ErrorCode::kFormat, "[models] {}: rms_norm_eps: expected a number in [0, 1], got {}",
         config.where(), epsilon);
  decoder.epsilon = static_cast<float>(epsilon);
  decoder.inverse_frequencies = inverse_frequencies(
      read_rope_parameters(config, decoder.info.context_length), decoder.info.head_dim);
  decoder.windows.assign(static_cast<std::size_t>(decoder.info.layers), 0);
  return decoder;
}

Graph build_decoder(const DecoderConfig& config, const WeightSource& weights) {
  return DecoderBuilder(config, weights).build();
}

}  // namespace tandem
