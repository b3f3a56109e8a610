// config.json translated to GGUF's keys.
#include <cmath>
#include <numbers>

#include "base/error.h"
#include "base/printable.h"
#include "checkpoint/gguf/gguf_export.h"

namespace tandem {
namespace {

constexpr std::int64_t kMost = std::int64_t{1} << 31;

std::uint32_t size_of_key(const JsonObject& config, std::string_view key) {
  return static_cast<std::uint32_t>(config.get_int(key, 1, kMost));
}

// The rope settings in either spelling: rope_scaling next to rope_theta, or rope_parameters with
// both.
struct Rope {
  std::optional<JsonObject> settings;
  std::string type = "default";
  double theta = 10000.0;
};

// The object that says the scaling; every type but "default" was read from one.
const JsonObject& scaling_of(const Rope& rope) {
  if (!rope.settings) fail(ErrorCode::kInternal, "[gguf] rope type {} without settings", rope.type);
  return *rope.settings;
}

Rope read_rope(const JsonObject& config) {
  Rope rope;
  rope.theta = config.get_number_or("rope_theta", rope.theta);
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (!config.has(key)) continue;
    rope.settings = config.child(key);
    rope.type =
        rope.settings->get_string_or("rope_type", rope.settings->get_string_or("type", "default"));
    rope.theta = rope.settings->get_number_or("rope_theta", rope.theta);
    break;
  }
  return rope;
}

std::vector<float> read_floats(const JsonObject& object, std::string_view key) {
  const Json& list = object.at(key);
  std::vector<float> values;
  if (list.is_array())
    for (const Json& value : list)
      if (value.is_number() && std::isfinite(value.get<float>()))
        values.push_back(value.get<float>());
  if (values.empty() || values.size() != list.size())
    fail(ErrorCode::kFormat, "[gguf] {}: {}: expected an array of finite numbers", object.where(),
         key);
  return values;
}

std::uint32_t head_dim(const JsonObject& config) {
  if (config.has("head_dim")) return size_of_key(config, "head_dim");
  return size_of_key(config, "hidden_size") / size_of_key(config, "num_attention_heads");
}

std::uint32_t rotary_dim(const JsonObject& config) {
  return static_cast<std::uint32_t>(head_dim(config) *
                                    config.get_number_or("partial_rotary_factor", 1.0));
}

// The divisor of each inverse frequency in Llama 3.1's scaling: 1 for short wavelengths, `factor`
// for those beyond the original context, and a smooth transition in between.
std::vector<float> llama3_factors(const JsonObject& config, const Rope& rope) {
  const double factor = scaling_of(rope).get_number("factor");
  const double low = scaling_of(rope).get_number("low_freq_factor");
  const double high = scaling_of(rope).get_number("high_freq_factor");
  const double context = scaling_of(rope).get_number("original_max_position_embeddings");
  const std::uint32_t dim = head_dim(config);
  std::vector<float> factors;
  for (std::uint32_t i = 0; i < dim; i += 2) {
    const double wavelength = 2 * std::numbers::pi * std::pow(rope.theta, double(i) / dim);
    if (wavelength < context / high) {
      factors.push_back(1);
    } else if (wavelength > context / low) {
      factors.push_back(static_cast<float>(factor));
    } else {
      const double smooth = (context / wavelength - low) / (high - low);
      factors.push_back(static_cast<float>(1 / ((1 - smooth) / factor + smooth)));
    }
  }
  return factors;
}

class SizeWriter {
 public:
  SizeWriter(GgufMetadata& metadata, const GgufArchitecture& architecture, const JsonObject& config,
             Observer& observer)
      : metadata_(metadata), architecture_(architecture), config_(config), observer_(observer) {}

  void write() {
    if (architecture_.name == "chatglm") return write_chatglm();
    copy("context_length", "max_position_embeddings");
    copy("embedding_length", "hidden_size");
    copy("block_count", "num_hidden_layers");
    copy("feed_forward_length", "intermediate_size");
    copy("attention.head_count", "num_attention_heads");
    copy("attention.head_count_kv",
         config_.has("num_key_value_heads") ? "num_key_value_heads" : "num_attention_heads");
    copy("vocab_size", "vocab_size");
    put("attention.key_length", head_dim(config_));
    put("attention.value_length", head_dim(config_));
    put("rope.dimension_count", rotary_dim(config_));
    put_float("attention.layer_norm_rms_epsilon", config_.get_number("rms_norm_eps"));
    // In Qwen2 and 3 the key applies only if use_sliding_window is true.
    if (config_.has("sliding_window") && config_.get_bool_or("use_sliding_window", true)) {
      copy("attention.sliding_window", "sliding_window");
      warn_about_window();
    }
    if (architecture_.name == "gemma2") check_attention_scale();
    if (architecture_.name == "smollm3") check_rope_layers();
    for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"})
      if (config_.has(key)) put_float(key, config_.get_number(key));
    write_rope();
  }

 private:
  void put(std::string_view key, std::uint32_t value) {
    metadata_.add_uint32(fmt::format("{}.{}", architecture_.name, key), value);
  }
  void put_float(std::string_view key, double value) {
    metadata_.add_float(fmt::format("{}.{}", architecture_.name, key), static_cast<float>(value));
  }
  void copy(std::string_view key, std::string_view from) { put(key, size_of_key(config_, from)); }
  void put_type(std::string_view type) {
    metadata_.add_string(fmt::format("{}.rope.scaling.type", architecture_.name), type);
  }

  // The format cannot store the attention scale: llama.cpp derives it from the head dim and, for
  // the 27B model, recognised by its 46 layers, from hidden size / heads.
  void check_attention_scale() const {
    const std::uint32_t assumed =
        size_of_key(config_, "num_hidden_layers") == 46
            ? size_of_key(config_, "hidden_size") / size_of_key(config_, "num_attention_heads")
            : head_dim(config_);
    const double scalar = config_.get_number_or("query_pre_attn_scalar", 256);
    if (scalar != assumed)
      fail(ErrorCode::kUnsupported,
           "[gguf] {}: query_pre_attn_scalar: llama.cpp would take {}, got {}", config_.where(),
           assumed, scalar);
  }

  // Nor can it store which layers rotate positions: llama.cpp skips every fourth.
  void check_rope_layers() const {
    constexpr std::int64_t kInterval = 4;
    bool same = config_.get_int_or("no_rope_layer_interval", kInterval, 1, kMost) == kInterval;
    if (config_.has("no_rope_layers")) {
      const std::vector<std::int64_t> turned = config_.get_ints("no_rope_layers");
      same = true;
      for (std::size_t i = 0; i < turned.size(); ++i)
        same = same && (turned[i] == 0) == ((i + 1) % kInterval == 0);
    }
    if (!same)
      fail(ErrorCode::kUnsupported,
           "[gguf] {}: no_rope_layers: llama.cpp would leave out every {}th layer", config_.where(),
           kInterval);
  }

  // llama.cpp runs every layer of these with full attention.
  void warn_about_window() const {
    const bool ignored = architecture_.name != "gemma2";
    const std::uint32_t window = size_of_key(config_, "sliding_window");
    if (ignored && window < size_of_key(config_, "max_position_embeddings"))
      observer_.warn(fmt::format(
          "[gguf] {}: llama.cpp has no sliding window for {}: beyond {} tokens its answers differ",
          config_.where(), architecture_.name, window));
  }

  void write_rope() {
    const Rope rope = read_rope(config_);
    put_float("rope.freq_base", rope.theta);
    if (rope.type == "default" || rope.type == "llama3") return;
    if (rope.type == "linear") {
      put_type("linear");
      put_float("rope.scaling.factor", scaling_of(rope).get_number("factor"));
    } else if (rope.type == "yarn") {
      put_type("yarn");
      put_float("rope.scaling.factor", scaling_of(rope).get_number("factor"));
      put("rope.scaling.original_context_length",
          size_of_key(scaling_of(rope), "original_max_position_embeddings"));
      write_yarn(scaling_of(rope));
    } else if (rope.type == "longrope" || rope.type == "su") {
      write_longrope(rope);
    } else {
      fail(ErrorCode::kUnsupported, "[gguf] {}: rope type \"{}\" has no form in GGUF",
           config_.where(), printable(rope.type));
    }
  }

  // What differs from the defaults. llama.cpp multiplies attn_factor by 0.1 ln(factor) + 1.
  void write_yarn(const JsonObject& scaling) {
    for (const char* key : {"beta_fast", "beta_slow"})
      if (scaling.has(key))
        put_float(fmt::format("rope.scaling.yarn_{}", key), scaling.get_number(key));
    if (scaling.has("attention_factor"))
      put_float("rope.scaling.attn_factor",
                scaling.get_number("attention_factor") /
                    (1.0 + 0.1 * std::log(scaling.get_number("factor"))));
  }

  void write_longrope(const Rope& rope) {
    const JsonObject& owner =
        config_.has("original_max_position_embeddings") ? config_ : scaling_of(rope);
    const auto original = size_of_key(owner, "original_max_position_embeddings");
    put("rope.scaling.original_context_length", original);
    const double ratio = double(size_of_key(config_, "max_position_embeddings")) / original;
    const double attention =
        ratio <= 1 ? 1.0 : std::sqrt(1 + std::log(ratio) / std::log(double(original)));
    put_float("rope.scaling.attn_factor",
              scaling_of(rope).get_number_or("attention_factor", attention));
  }

  void write_chatglm() {
    copy("context_length", "seq_length");
    copy("embedding_length", "hidden_size");
    copy("block_count", config_.has("num_layers") ? "num_layers" : "num_hidden_layers");
    copy("feed_forward_length", "ffn_hidden_size");
    copy("attention.head_count", "num_attention_heads");
    copy("attention.head_count_kv", "multi_query_group_num");
    const std::uint32_t channels = size_of_key(config_, "kv_channels");
    put("attention.key_length", channels);
    put("attention.value_length", channels);
    put("rope.dimension_count", channels / 2);
    put_float("attention.layer_norm_rms_epsilon", config_.get_number("layernorm_epsilon"));
    put_float("rope.freq_base", 10000.0 * config_.get_number_or("rope_ratio", 1.0));
  }

  GgufMetadata& metadata_;
  const GgufArchitecture& architecture_;
  const JsonObject& config_;
  Observer& observer_;
};

}  // namespace

void add_gguf_sizes(GgufMetadata& metadata, const GgufArchitecture& architecture,
                    const JsonObject& config, Observer& observer) {
  SizeWriter(metadata, architecture, config, observer).write();
}

std::vector<std::pair<std::string, std::vector<float>>> gguf_rope_tables(
    const GgufArchitecture& architecture, const JsonObject& config) {
  if (architecture.name == "chatglm") return {};
  const Rope rope = read_rope(config);
  if (!rope.settings) return {};
  if (scaling_of(rope).has("frequency_factors"))
    return {{"rope_freqs.weight", read_floats(scaling_of(rope), "frequency_factors")}};
  if (rope.type == "llama3") return {{"rope_freqs.weight", llama3_factors(config, rope)}};
  if (rope.type == "longrope" || rope.type == "su")
    return {{"rope_factors_long.weight", read_floats(scaling_of(rope), "long_factor")},
            {"rope_factors_short.weight", read_floats(scaling_of(rope), "short_factor")}};
  return {};
}

}  // namespace tandem
