// The table of kernels: arithmetic on spans of memory, without allocation, threads or graphs.
//
// One table per instruction set; select_kernels() picks one at startup. Two rules hold for every
// table:
//  * A row's result does not depend on how many rows run with it, nor on which tile it falls in.
//    A prompt gives the same bits in one chunk, in many chunks and with a padded tail.
//  * Integer sums are exact. `linear_int4`, `linear_int8` and `linear_float` also round like ref/
//    to the last bit: each output is one chain of operations in the order stated below. Of the
//    products only `linear_float_fast` differs between tables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/cpu_features.h"
#include "base/thread_pool.h"
#include "kernels/fixed_point.h"
#include "kernels/panels.h"

namespace tandem {

// Operands of a matrix product y = x · wᵀ (+ bias) over whole panels of 64 output channels.
struct LinearOutput {
  // [rows, n], rows `stride` floats apart.
  float* y = nullptr;
  std::int64_t stride = 0;
  // [n] or null; added last.
  const float* bias = nullptr;
};

// Activations in int8 with one scale per tensor (static): x = code * scale.
struct StaticInt8Rows {
  // [rows, stride], zeros between k and padded_k(k).
  const std::int8_t* codes = nullptr;
  // In bytes: at least padded_k(k), a multiple of 64.
  std::int64_t stride = 0;
  // [rows]: sum of each row's codes.
  const std::int32_t* sums = nullptr;
  float scale = 0;
};

// Activations in int8 with one scale per row and group of k (dynamic).
struct GroupInt8Rows {
  // [rows, stride].
  const std::int8_t* codes = nullptr;
  // In bytes: at least k, a multiple of 64.
  std::int64_t stride = 0;
  // [rows, k / group].
  const float* scales = nullptr;
  // [rows, k / group]: sum of each group's codes.
  const std::int32_t* sums = nullptr;
};

// One layer's K and V of a sequence. A block holds 64 tokens in float16, float32 or as int8 codes:
// keys [kv_heads][head_dim][64], then values [kv_heads][64][head_dim].
inline constexpr int kKvBlockTokens = 64;
constexpr std::int64_t kv_block_bytes(std::int64_t kv_heads, std::int64_t head_dim,
                                      DType dtype) noexcept {
  const std::int64_t bytes = dtype == DType::kF32 ? 4 : dtype == DType::kI8 ? 1 : 2;
  return 2 * kv_heads * head_dim * kKvBlockTokens * bytes;
}

// Of int8 codes in [-127, 127]: x = code * scale, with a scale for each channel, [kv_heads *
// head_dim] of keys and of values. Null for floats.
struct KvScales {
  const float* k = nullptr;
  const float* v = nullptr;
};

struct AttentionArgs {
  // [rows, heads * head_dim], rows q_stride apart; RoPE already applied.
  const float* q = nullptr;
  std::int64_t q_stride = 0;
  // Same layout as q.
  float* out = nullptr;
  std::int64_t out_stride = 0;
  // Position of row 0. Row r is at p = first_position + r and attends to tokens
  // [max(0, p - window + 1), p].
  std::int64_t first_position = 0;
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  // Applied to q · k.
  float scale = 0;
  // Sliding window in tokens; 0: none.
  std::int64_t window = 0;
  // If > 0: s = cap * tanh(s / cap).
  float softcap = 0;
  // One pointer per 64 tokens.
  const std::byte* const* blocks = nullptr;
  // Bytes from that pointer to this layer's part of the block.
  std::int64_t block_offset = 0;
  // Element type of the blocks: F16, F32 or I8.
  DType kv_dtype = DType::kF16;
  // With I8: the query is multiplied by the scales of keys, and the sum by those of values, so that
  // codes stay codes.
  KvScales kv_scales;
};

// Which columns of a context the new rows attend to, as data. Row r is column first_position + r.
struct AttentionMask {
  // [rows]: the first column.
  const std::int64_t* first = nullptr;
  // [rows][words]: of the new columns those whose bit is set, the row's own among them and none
  // behind it. Null: all up to its own.
  const std::uint64_t* visible = nullptr;
  std::int64_t words = 0;
};

// Attention in integers throughout, on an int8 cache (devices/npu/npu_device.h has the contract).
struct IntAttentionArgs {
  // [rows, heads * head_dim]: codes of rotated queries times the scales of keys, rows q_stride
  // apart.
  const std::int16_t* q = nullptr;
  std::int64_t q_stride = 0;
  // The same layout.
  float* out = nullptr;
  std::int64_t out_stride = 0;
  std::int64_t first_position = 0;
  // head_dim at most kMaxIntHeadDim.
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  AttentionMask mask;
  // From differences of scores to octaves in units of 2^-15.
  FixedMultiplier octaves;
  // [kv_heads * head_dim].
  const float* v_scales = nullptr;
  // As in AttentionArgs, int8.
  const std::byte* const* blocks = nullptr;
  std::int64_t block_offset = 0;
};
// Sums of so many products of 16 by 8 bits are exact in int32; and of so many probabilities by 8 bits
// in float32 (softmax16.h).
inline constexpr std::int64_t kMaxIntHeadDim = 512;
inline constexpr std::int64_t kMaxIntColumns = 65536;

struct Kernels {
  // "ref", "avx2", "avx512", "avx512_vnni", …
  std::string_view name;

  // y[r][c] over the panels in `range`, y as [rows, n]. x is [rows, x_stride] floats.
  // acc = 0; for k: acc = fma(x[k], w[k], acc); y = acc (+ bias).
  void (*linear_float)(const PanelLayout&, const std::byte* panels, Range range, const float* x,
                       std::int64_t x_stride, std::int64_t rows, const LinearOutput&) noexcept;
  // The same to within float32's rounding, in whatever order is fastest; finite sums only. For
  // calibration and searches, which compare their own results with each other.
  void (*linear_float_fast)(const PanelLayout&, const std::byte* panels, Range range,
                            const float* x, std::int64_t x_stride, std::int64_t rows,
                            const LinearOutput&) noexcept;
  // y = float(sum_k x[k] * w[k]) * (x.scale * w.scale[c]) (+ bias); the sum in int32, exact for
  // k <= 65536.
  void (*linear_int8)(const PanelLayout&, const std::byte* panels, Range range,
                      const StaticInt8Rows&, std::int64_t rows, const LinearOutput&) noexcept;
  // The raw int32 sums, [rows, n] with `stride` elements between rows.
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
  // Of one row, what quantize_static() clips in the channels [hot], times their weights [hot, n] in
  // F16 or F32: y = 0; for h: y = fma(e, weight[h], y), where e is x less the value of its code if
  // x / scale rounds beyond [-128, 127], and else 0, which is skipped.
  void (*shadow_linear)(const float* x, float scale, const std::int32_t* channels, std::int64_t hot,
                        const std::byte* weight, DType dtype, std::int64_t n, float* y) noexcept;
  // Per group: scale = max|x| / 127 (0 for a group of zeros, or where that is below the normal
  // floats), codes = round_half_even(x * (1 / scale)).
  void (*quantize_groups)(const float* x, std::int64_t k, std::int64_t group, std::int8_t* codes,
                          float* scales, std::int32_t* sums) noexcept;
  // One row with its own scale (dynamic, symmetric): like quantize_groups() for a single group of
  // any k, with the codes zero-padded to padded_k(k).
  void (*quantize_dynamic)(const float* x, std::int64_t k, std::int8_t* codes, float* scale,
                           std::int32_t* sum) noexcept;

  // y[c] = float(sums[c]) * (row_scale * scale[c]) (+ bias[c]; null for none), with the rounding of
  // linear_int8. scales: [n], or [1] unless `per_channel`.
  void (*dequantize)(const std::int32_t* sums, std::int64_t n, const float* scales,
                     bool per_channel, float row_scale, const float* bias, float* y) noexcept;
  // Multiplies by 2^-shift, rounding half up (towards +infinity), then saturates:
  // (v + (1 << (shift - 1))) >> shift, exact as if v had 64 bits. Shift 0 only saturates; a
  // negative one shifts left by -shift, then saturates. This is bit for bit what Qualcomm's HTP
  // computes when every ratio is a power of two.
  void (*requantize_int8)(const std::int32_t* sums, std::int64_t n, int shift,
                          std::int8_t* y) noexcept;
  void (*requantize_int16)(const std::int32_t* sums, std::int64_t n, int shift,
                           std::int16_t* y) noexcept;

  // In place: x = H x / sqrt(n), n a power of two, H in natural (Sylvester) order:
  // H[i][j] = (-1)^popcount(i & j). The butterfly is in float32 with strides 1, 2, … n / 2; then
  // each value is multiplied by float(1 / sqrt(n)).
  void (*hadamard)(float* x, std::int64_t n) noexcept;
  // y = factorᵀ x for matrices x, y [m, n] that don't overlap, and factor [m, m]: y[j n + c] = sum_i
  // factor[i m + j] * x[i n + c], one fused multiply-add after the other from 0 on.
  void (*mix)(const float* x, const float* factor, std::int64_t m, std::int64_t n,
              float* y) noexcept;

  // y = x / sqrt(mean(x²) + epsilon) * weight, over one row of n.
  void (*rms_norm)(const float* x, const float* weight, float epsilon, std::int64_t n,
                   float* y) noexcept;
  // RoPE, in place: rotates the halves of the first `rotary_dim` elements of each head of one row;
  // cos and sin: [rotary_dim / 2].
  void (*rope)(float* x, std::int64_t heads, std::int64_t head_dim, std::int64_t rotary_dim,
               const float* cos, const float* sin) noexcept;
  // y = x / (1 + exp(-x)).
  void (*silu)(const float* x, std::int64_t n, float* y) noexcept;
  // y = x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x³))), the tanh approximation of GELU.
  void (*gelu)(const float* x, std::int64_t n, float* y) noexcept;
  // y = cap * tanh(x / cap).
  void (*softcap)(const float* x, float cap, std::int64_t n, float* y) noexcept;
  void (*add)(const float* a, const float* b, std::int64_t n, float* y) noexcept;
  void (*mul)(const float* a, const float* b, std::int64_t n, float* y) noexcept;

  // Writes one token's K and V rows ([kv_heads * head_dim] floats each) as token `slot` (0…63) of a
  // block of `dtype` (F16, rounded to nearest even, F32, or I8: x / scale rounded half to even and
  // clamped, NaN to the lowest code).
  void (*store_kv)(const float* k, const float* v, std::int64_t kv_heads, std::int64_t head_dim,
                   std::int64_t slot, std::byte* block, DType dtype,
                   const KvScales& scales) noexcept;
  // Attention of the query heads that share `kv_head`, for rows [range), with an online softmax
  // over the blocks in order. scratch: attention_scratch_floats() floats, 64-byte aligned.
  void (*attention)(const AttentionArgs&, std::int64_t kv_head, Range rows,
                    float* scratch) noexcept;

  // The same in integers: exact sums of q and keys, a softmax with probabilities p of 16 bits
  // (softmax16.h), exact sums of p and values; out = sum * (v_scale / 65536). scratch:
  // int_attention_scratch_bytes() bytes, 64-byte aligned.
  void (*int_attention)(const IntAttentionArgs&, std::int64_t kv_head, Range rows,
                        std::byte* scratch) noexcept;

  // Runs `iterations` of this table's densest int8 multiply-add loop in registers; returns the
  // number of operations (2 per multiply-add). `sink` keeps the result alive. Used to measure the
  // machine's int8 peak.
  std::int64_t (*int8_peak_loop)(std::int64_t iterations, std::int32_t* sink) noexcept;
};

std::int64_t attention_scratch_floats(std::int64_t heads, std::int64_t kv_heads,
                                      std::int64_t head_dim) noexcept;
// `columns`: at most as many in a context.
std::int64_t int_attention_scratch_bytes(std::int64_t heads, std::int64_t kv_heads,
                                         std::int64_t head_dim, std::int64_t columns) noexcept;

// The fastest table that `features` allows, and all tables it allows, slowest first ("ref" is
// always among them).
const Kernels& select_kernels(const CpuFeatures& features) noexcept;
// The fastest table that needs no matrix unit (AMX), for comparison with CPUs that have only vector
// units.
const Kernels& select_vector_kernels(const CpuFeatures& features) noexcept;
std::vector<const Kernels*> available_kernels(const CpuFeatures& features);

}  // namespace tandem
