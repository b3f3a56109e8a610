// The attributes of the operators. fields() lists every attribute once; reading and writing graphs
// goes through it.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "tensor/tensor.h"
#include "tensor/weight.h"

namespace tandem {

struct EmbeddingAttributes {
  // [vocabulary, hidden], any float type.
  Tensor table;
  // Factor applied to the rows.
  float scale = 1;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("table", self.table);
    visit("scale", self.scale);
  }
};

struct LinearAttributes {
  Weight weight;
  // F32 [n], or empty. An int8 Linear has none: the Dequantize after it adds it.
  Tensor bias;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("weight", self.weight);
    visit("bias", self.bias);
  }
};

struct RmsNormAttributes {
  // F32 [width / heads].
  Tensor weight;
  float epsilon = 0;
  // Parts of a row, each normalised separately.
  std::int64_t heads = 1;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("weight", self.weight);
    visit("epsilon", self.epsilon);
    visit("heads", self.heads);
  }
};

// LongRoPE and dynamic NTK: once a sequence is longer than the original context, all of its
// positions rotate at other frequencies, and every key in the cache is out of date
// (graph/rotary.h).
struct RotaryExtension {
  // In tokens; 0: the same frequencies at any length.
  std::int64_t original_context = 0;
  // LongRoPE: the frequencies of longer sequences.
  std::vector<float> inverse_frequencies;
  // Dynamic NTK: the base, which is scaled with the length.
  float theta = 0;
  float factor = 0;
};

struct RotaryAnglesAttributes {
  // [rotary_dim / 2], scaling applied; angle = position * inverse frequency.
  std::vector<float> inverse_frequencies;
  // Multiplies cos and sin (YaRN, LongRoPE).
  float attention_factor = 1;
  // For sequences longer than in training.
  RotaryExtension extension;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("inverse_frequencies", self.inverse_frequencies);
    visit("attention_factor", self.attention_factor);
    visit("original_context", self.extension.original_context);
    visit("extended_inverse_frequencies", self.extension.inverse_frequencies);
    visit("extended_theta", self.extension.theta);
    visit("extended_factor", self.extension.factor);
  }
};

struct RotaryAttributes {
  std::int64_t heads = 0;
  std::int64_t head_dim = 0;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("heads", self.heads);
    visit("head_dim", self.head_dim);
  }
};

struct AttentionAttributes {
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  // Scale of q · k.
  float scale = 0;
  // Sliding window in tokens; 0: none.
  std::int64_t window = 0;
  // 0: none.
  float softcap = 0;
  // F32 [kv_heads * head_dim] each, or both empty: what an int8 cache multiplies its codes of a
  // channel by. k is that after RoPE.
  Tensor k_scales;
  Tensor v_scales;

  // F32 [3], or empty: what an attention in integers (devices/npu/npu_device.h) multiplies int16
  // codes by: of q and of k before RoPE, and of rotated q times k_scales.
  Tensor int16_scales;

  bool has_kv_scales() const noexcept { return !k_scales.empty(); }

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("heads", self.heads);
    visit("kv_heads", self.kv_heads);
    visit("head_dim", self.head_dim);
    visit("scale", self.scale);
    visit("window", self.window);
    visit("softcap", self.softcap);
    visit("k_scales", self.k_scales);
    visit("v_scales", self.v_scales);
    visit("int16_scales", self.int16_scales);
  }
};

struct SoftcapAttributes {
  // Greater than 0.
  float cap = 0;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("cap", self.cap);
  }
};

struct QuantizeAttributes {
  // x = code * scale, with int8 or int16 codes.
  float scale = 0;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("scale", self.scale);
  }
};

struct DequantizeAttributes {
  // F32 [width], added to the values; or empty.
  Tensor bias;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("bias", self.bias);
  }
};

struct RequantizeAttributes {
  // The type of the codes: I8 or I16.
  DType dtype = DType::kI8;
  // [1] or one per column: code = sum * 2^-shift, rounded half up.
  std::vector<std::int64_t> shifts;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("dtype", self.dtype);
    visit("shifts", self.shifts);
  }
};

struct HadamardAttributes {
  // Columns that are transformed together: m times a power of two n, and a divisor of the width.
  std::int64_t block = 0;
  // M, F32 [m, m], in the matrix M ⊗ H of a block, where H is the Hadamard matrix of order n: y[j n
  // + c] = sum_i M[i][j] (x H)[i n + c]. Empty: 1.
  Tensor factor = {};

  std::int64_t m() const { return factor.empty() ? 1 : factor.dim(0); }

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("block", self.block);
    visit("factor", self.factor);
  }
};

struct ShadowLinearAttributes {
  // Of the int8 codes of x.
  float scale = 0;
  // I32 [h], ascending: the hot channels, whose excess over what a code can stand for is computed.
  Tensor channels;
  // F16 or F32 [h, n]: for each hot channel its weights of all output channels, next to each other
  // since they are multiplied by the same number.
  Tensor weight;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("scale", self.scale);
    visit("channels", self.channels);
    visit("weight", self.weight);
  }
};

// For operators without attributes.
struct NoAttributes {
  template <typename Self, typename Visit>
  static void fields(Self&, Visit&&) {}
};

using Attributes =
    std::variant<NoAttributes, EmbeddingAttributes, LinearAttributes, RmsNormAttributes,
                 RotaryAnglesAttributes, RotaryAttributes, AttentionAttributes, SoftcapAttributes,
                 QuantizeAttributes, DequantizeAttributes, RequantizeAttributes, HadamardAttributes,
                 ShadowLinearAttributes>;

}  // namespace tandem
