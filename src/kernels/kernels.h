// The table of kernels: arithmetic on spans of memory, without allocation, threads or graphs.
//
// One table per instruction set; select_kernels() picks one at start. Two rules hold for every
// table:
//  * A row's result does not depend on how many rows run with it, nor on which tile it falls in.
//    A prompt gives the same bits in one chunk, in many chunks and with a padded tail.
//  * Integer sums are exact. `linear_int4`, `linear_int8` and `linear_float` also round like ref/
//    to the last bit: each output is one chain of operations in the order that is stated below.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/cpu_features.h"
#include "base/thread_pool.h"
#include "kernels/panels.h"

namespace tandem {

// Operands of a matrix product y = x · wᵀ (+ bias) over whole panels of 64 output channels.
struct LinearOutput {
  float* y = nullptr;  // [rows, n], rows `stride` floats apart
  std::int64_t stride = 0;
  const float* bias = nullptr;  // [n] or null; added last
};

// Activations in int8 with one scale for all (static): x = code * scale.
struct StaticInt8Rows {
  const std::int8_t* codes = nullptr;  // [rows, stride], zeros between k and padded_k(k)
  std::int64_t stride = 0;             // bytes, at least padded_k(k), a multiple of 64
  const std::int32_t* sums = nullptr;  // [rows]: sum of a row's codes
  float scale = 0;
};

// Activations in int8 with one scale per row and group of k (dynamic).
struct GroupInt8Rows {
  const std::int8_t* codes = nullptr;  // [rows, stride]
  std::int64_t stride = 0;             // bytes, at least k, a multiple of 64
  const float* scales = nullptr;       // [rows, k / group]
  const std::int32_t* sums = nullptr;  // [rows, k / group]: sum of a group's codes
};

// One layer's K and V of a sequence. A block holds 64 tokens in float16 or float32:
// keys [kv_heads][head_dim][64], then values [kv_heads][64][head_dim].
inline constexpr int kKvBlockTokens = 64;
constexpr std::int64_t kv_block_bytes(std::int64_t kv_heads, std::int64_t head_dim,
                                      DType dtype) noexcept {
  return 2 * kv_heads * head_dim * kKvBlockTokens * (dtype == DType::kF32 ? 4 : 2);
}

struct AttentionArgs {
  const float* q = nullptr;  // [rows, heads * head_dim], rows q_stride apart; RoPE applied
  std::int64_t q_stride = 0;
  float* out = nullptr;  // like q
  std::int64_t out_stride = 0;
  // Of row 0. Row r is at p = first_position + r and attends to tokens [max(0, p - window + 1), p].
  std::int64_t first_position = 0;
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 0;                           // applied to q · k
  std::int64_t window = 0;                   // sliding window in tokens; 0: none
  float softcap = 0;                         // s = cap * tanh(s / cap) when > 0
  const std::byte* const* blocks = nullptr;  // one per 64 tokens
  DType kv_dtype = DType::kF16;              // of the blocks: F16 or F32
};

struct Kernels {
  std::string_view name;  // "ref", "avx2", "avx512", "avx512_vnni", …

  // y[r][c] over the panels of `range`, y as [rows, n]. x is [rows, x_stride] floats.
  // acc = 0; for k: acc = fma(x[k], w[k], acc); y = acc (+ bias).
  void (*linear_float)(const PanelLayout&, const std::byte* panels, Range range, const float* x,
                       std::int64_t x_stride, std::int64_t rows, const LinearOutput&) noexcept;
  // y = float(sum_k x[k] * w[k]) * (x.scale * w.scale[c]) (+ bias); the sum in int32, exact for
  // k <= 65536.
  void (*linear_int8)(const PanelLayout&, const std::byte* panels, Range range,
                      const StaticInt8Rows&, std::int64_t rows, const LinearOutput&) noexcept;
  // The int32 sums themselves, [rows, n] with `stride` elements between rows.
  void (*linear_int8_sums)(const PanelLayout&, const std::byte* panels, Range range,
                           const StaticInt8Rows&, std::int64_t rows, std::int32_t* sums,
                           std::int64_t stride) noexcept;
  // acc = 0; for each group:
  // acc = fma(float(sum_k code * x - zero_point * x.sum), x.scale * w.scale, acc); (+ bias).
  void (*linear_int4)(const PanelLayout&, const std::byte* panels, Range range,
                      const GroupInt8Rows&, std::int64_t rows, const LinearOutput&) noexcept;

  // codes = clamp(round_half_even(x / scale), -128, 127), zero-padded to padded_k(k); sums of
  // codes.
  void (*quantize_static)(const float* x, std::int64_t k, float scale, std::int8_t* codes,
                          std::int32_t* sum) noexcept;
  // Per group: scale = max|x| / 127 (0 for a group of zeros, or where that is below the normal
  // floats), codes = round_half_even(x * (1 / scale)).
  void (*quantize_groups)(const float* x, std::int64_t k, std::int64_t group, std::int8_t* codes,
                          float* scales, std::int32_t* sums) noexcept;

  // y = x / sqrt(mean(x²) + epsilon) * weight, over one row of n.
  void (*rms_norm)(const float* x, const float* weight, float epsilon, std::int64_t n,
                   float* y) noexcept;
  // Rotates the halves of the first `rotary_dim` elements of each head of one row in place; cos and
  // sin: [rotary_dim / 2].
  void (*rope)(float* x, std::int64_t heads, std::int64_t head_dim, std::int64_t rotary_dim,
               const float* cos, const float* sin) noexcept;
  void (*silu)(const float* x, std::int64_t n, float* y) noexcept;  // x / (1 + exp(-x))
  // x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x³))), as models trained with it compute GELU.
  void (*gelu)(const float* x, std::int64_t n, float* y) noexcept;
  void (*softcap)(const float* x, float cap, std::int64_t n,
                  float* y) noexcept;  // cap * tanh(x / cap)
  void (*add)(const float* a, const float* b, std::int64_t n, float* y) noexcept;
  void (*mul)(const float* a, const float* b, std::int64_t n, float* y) noexcept;

  // Writes one token's K and V rows ([kv_heads * head_dim] floats each) as token `slot` (0…63) of a
  // block of `dtype` (F16, rounded to nearest even, or F32).
  void (*store_kv)(const float* k, const float* v, std::int64_t kv_heads, std::int64_t head_dim,
                   std::int64_t slot, std::byte* block, DType dtype) noexcept;
  // Attention of the query heads that share `kv_head`, for rows [range), with an online softmax
  // over blocks in order. scratch: attention_scratch_floats() floats, 64-byte aligned.
  void (*attention)(const AttentionArgs&, std::int64_t kv_head, Range rows,
                    float* scratch) noexcept;

  // Runs `iterations` of this table's densest int8 multiply-add loop in registers; returns the
  // operations done (2 per multiply-add). `sink` keeps the result alive. For measuring the
  // machine's int8 peak.
  std::int64_t (*int8_peak_loop)(std::int64_t iterations, std::int32_t* sink) noexcept;
};

std::int64_t attention_scratch_floats(std::int64_t heads, std::int64_t kv_heads,
                                      std::int64_t head_dim) noexcept;

// The fastest table that `features` allows; all tables that it allows, slowest first ("ref" is
// always there).
const Kernels& select_kernels(const CpuFeatures& features) noexcept;
// The fastest that needs no matrix unit (AMX): what a vector machine of the same kind would run.
const Kernels& select_vector_kernels(const CpuFeatures& features) noexcept;
std::vector<const Kernels*> available_kernels(const CpuFeatures& features);

}  // namespace tandem
