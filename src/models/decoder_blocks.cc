// The forward pass of a decoder, node by node. In shapes, t is the number of tokens and d the
// hidden size.
#include "models/decoder_blocks.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "base/error.h"
#include "graph/int8_nodes.h"
#include "graph/shadow.h"
#include "models/families.h"

namespace tandem {
namespace {

class DecoderBuilder {
 public:
  DecoderBuilder(const DecoderConfig& config, const WeightSource& weights)
      : config_(config), info_(config.info), weights_(weights) {}

  Graph build() {
    const ValueId ids =
        graph_.add_input({.name = "input_ids", .dtype = DType::kI32, .rows = kTokens, .width = 1});
    const ValueId selected = graph_.add_input({.name = "selected_rows",
                                               .dtype = DType::kI32,
                                               .rows = graph_.row_space("selected"),
                                               .width = 1});
    const Tensor table =
        weights_.tensor("model.embed_tokens.weight", {info_.vocabulary, info_.hidden_size});
    ValueId x = graph_.add(Op::kEmbedding, "model.embed_tokens", -1, {ids},
                           EmbeddingAttributes{table, config_.embedding_scale});  // [t, d]
    if (std::ranges::find(config_.rotates, true) != config_.rotates.end())
      angles_ =
          graph_.add(Op::kRotaryAngles, "model.rotary_angles", -1, {ids},
                     RotaryAnglesAttributes{.inverse_frequencies = config_.rope.inverse_frequencies,
                                            .attention_factor = config_.rope.attention_factor,
                                            .extension = config_.rope.extension});
    for (layer_ = 0; layer_ < info_.layers; ++layer_) {
      prefix_ = "model.layers." + std::to_string(layer_) + ".";
      x = block(x);
    }
    layer_ = -1;
    prefix_ = "model.";
    x = graph_.add(Op::kSelectRows, "model.select_rows", -1, {x, selected});
    x = norm("norm", x);
    x = add_linear("lm_head", x, head(table), {});
    if (config_.logit_softcap > 0)
      x = graph_.add(Op::kSoftcap, "lm_head.softcap", -1, {x},
                     SoftcapAttributes{config_.logit_softcap});
    graph_.set_outputs({x});
    verify_decoder(graph_);
    return std::move(graph_);
  }

 private:
  // [t, d] -> [t, d]
  ValueId block(ValueId x) {
    ValueId y = attention(norm("input_layernorm", x));
    // In a block with four norms, the second norm's name belongs to the one after attention.
    if (config_.post_norms) y = norm("post_attention_layernorm", y);
    x = add("attention_residual", x, y);
    y = mlp(norm(config_.post_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm", x));
    if (config_.post_norms) y = norm("post_feedforward_layernorm", y);
    return add("mlp_residual", x, y);
  }

  // [t, d] -> [t, d]
  ValueId attention(ValueId x) {
    const std::int64_t width = info_.heads * info_.head_dim;
    const std::int64_t kv_width = info_.kv_heads * info_.head_dim;
    const std::string module = prefix_ + "self_attn";
    ValueId q = linear(module + ".q_proj", x, width, config_.qkv_bias);
    ValueId k = linear(module + ".k_proj", x, kv_width, config_.qkv_bias);
    const ValueId v = linear(module + ".v_proj", x, kv_width, config_.qkv_bias);
    if (config_.qk_norm) {
      q = head_norm("self_attn.q_norm", q, info_.heads);
      k = head_norm("self_attn.k_norm", k, info_.kv_heads);
    }
    if (config_.rotates[static_cast<std::size_t>(layer_)]) {
      q = rotate(module + ".q_rotary", q, info_.heads);
      k = rotate(module + ".k_rotary", k, info_.kv_heads);
    }
    const double scale = config_.attention_scale > 0
                             ? config_.attention_scale
                             : 1 / std::sqrt(static_cast<double>(info_.head_dim));
    const AttentionAttributes attributes{
        .heads = info_.heads,
        .kv_heads = info_.kv_heads,
        .head_dim = info_.head_dim,
        .scale = static_cast<float>(scale),
        .window = config_.windows[static_cast<std::size_t>(layer_)],
        .softcap = config_.attention_softcap};
    const ValueId context =
        graph_.add(Op::kGroupQueryAttention, module, layer_, {q, k, v}, attributes);
    return linear(module + ".o_proj", context, info_.hidden_size, config_.output_bias);
  }

  // [t, d] -> [t, d]
  ValueId mlp(ValueId x) {
    const std::string module = prefix_ + "mlp";
    const std::int64_t inner = info_.intermediate_size;
    const ValueId gate = linear(module + ".gate_proj", x, inner, config_.mlp_bias);
    const ValueId up = linear(module + ".up_proj", x, inner, config_.mlp_bias);
    const Op activation = config_.activation == Activation::kSilu ? Op::kSilu : Op::kGelu;
    const ValueId opened = graph_.add(activation, module + ".act_fn", layer_, {gate});
    const ValueId product = graph_.add(Op::kMul, module + ".mul", layer_, {opened, up});
    return linear(module + ".down_proj", product, info_.hidden_size, config_.mlp_bias);
  }

  ValueId add(const std::string& name, ValueId a, ValueId b) {
    return graph_.add(Op::kAdd, prefix_ + name, layer_, {a, b});
  }

  ValueId norm(const std::string& name, ValueId x) { return head_norm(name, x, 1); }

  // Normalises each of the `heads` parts of a row, with one weight for all.
  ValueId head_norm(const std::string& name, ValueId x, std::int64_t heads) {
    const std::string module = prefix_ + name;
    const std::int64_t width = graph_.value(x).width / heads;
    std::vector<float> weight = weights_.tensor(module + ".weight", {width}).to_floats();
    for (float& value : weight) value += config_.norm_offset;
    return graph_.add(
        Op::kRmsNorm, module, layer_, {x},
        RmsNormAttributes{Tensor::from_floats(weight, {width}), config_.epsilon, heads});
  }

  ValueId linear(const std::string& module, ValueId x, std::int64_t n, bool with_bias) {
    // A vector of any float type, as float32: it is small, and read for every row.
    Tensor bias;
    if (with_bias)
      bias = Tensor::from_floats(weights_.tensor(module + ".bias", {n}).to_floats(), {n});
    return add_linear(module, x, weights_.linear(module, n, graph_.value(x).width),
                      std::move(bias));
  }

  ValueId add_linear(const std::string& module, ValueId x, Weight weight, Tensor bias) {
    // An int8 weight runs on int8 activations: with the checkpoint's static scale if it has one,
    // else with one scale per token.
    if (auto* codes = std::get_if<ChannelCodes>(&weight)) {
      std::optional<ShadowLinearAttributes> shadow;
      if (weights_.has_unclipped_input(module)) shadow = make_whole_shadow(*codes);
      return int8_.add(module, layer_, x, weights_.input_scale(module), std::move(*codes),
                       std::move(bias), std::move(shadow));
    }
    return graph_.add(Op::kLinear, module, layer_, {x},
                      LinearAttributes{std::move(weight), std::move(bias)});
  }

  ValueId rotate(const std::string& name, ValueId x, std::int64_t heads) {
    return graph_.add(Op::kRotaryEmbedding, name, layer_, {x, angles_},
                      RotaryAttributes{.heads = heads, .head_dim = info_.head_dim});
  }

  Weight head(const Tensor& table) const {
    if (info_.tied_head && !weights_.has("lm_head.weight")) return FloatWeight(table);
    return weights_.linear("lm_head", info_.vocabulary, info_.hidden_size);
  }

  const DecoderConfig& config_;
  const ModelInfo& info_;
  const WeightSource& weights_;
  Graph graph_;
  ValueId angles_ = -1;
  Int8Linears<Graph> int8_{graph_};
  std::int32_t layer_ = -1;
  // Prefix of the current block's modules, "model.layers.0."
  std::string prefix_;
};

Activation read_activation(const JsonObject& config) {
  const char* key = config.has("hidden_activation") ? "hidden_activation" : "hidden_act";
  const std::string name = config.get_string_or(key, "silu");
  // Each activation has two names.
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new") return Activation::kGelu;
  fail(ErrorCode::kUnsupported,
       "[models] {}: {}: expected \"silu\" or \"gelu_pytorch_tanh\", got \"{}\"", config.where(),
       key, name.substr(0, 64));
}

}  // namespace

DecoderConfig read_decoder_config(const JsonObject& config, const Family& family) {
  const FamilyDefaults& defaults = family.defaults;
  DecoderConfig decoder;
  decoder.info = read_renamed_info(config, family);
  decoder.activation = read_activation(config);
  const double epsilon = config.get_number_or("rms_norm_eps", defaults.epsilon);
  if (!(epsilon >= 0 && epsilon <= 1))
    fail(ErrorCode::kFormat, "[models] {}: rms_norm_eps: expected a number in [0, 1], got {}",
         config.where(), epsilon);
  decoder.epsilon = static_cast<float>(epsilon);
  const RopeParameters rope =
      read_rope_parameters(config, read_max_positions(config, defaults), defaults.rope_theta);
  decoder.rope = make_rope(rope, decoder.info.head_dim, config.where());
  const auto layers = static_cast<std::size_t>(decoder.info.layers);
  decoder.rotates.assign(layers, true);
  decoder.windows.assign(layers, 0);
  return decoder;
}

Graph build_decoder(const DecoderConfig& config, const WeightSource& weights) {
  return DecoderBuilder(config, weights).build();
}

}  // namespace tandem
