// The scalar kernels: the reference that every other table is tested against, and the fallback on
// any other processor.
#pragma once

#include "kernels/kernels.h"

namespace tandem::ref {

void linear_float(const PanelLayout&, const std::byte* panels, Range range, const float* x,
                  std::int64_t x_stride, std::int64_t rows, const LinearOutput&) noexcept;
void linear_int8(const PanelLayout&, const std::byte* panels, Range range, const StaticInt8Rows&,
                 std::int64_t rows, const LinearOutput&) noexcept;
void linear_int8_sums(const PanelLayout&, const std::byte* panels, Range range,
                      const StaticInt8Rows&, std::int64_t rows, std::int32_t* sums,
                      std::int64_t stride) noexcept;
void linear_int4(const PanelLayout&, const std::byte* panels, Range range, const GroupInt8Rows&,
                 std::int64_t rows, const LinearOutput&) noexcept;
void int_attention(const IntAttentionArgs&, std::int64_t kv_head, Range rows,
                   std::byte* scratch) noexcept;
std::int64_t int8_peak_loop(std::int64_t iterations, std::int32_t* sink) noexcept;

void quantize_static(const float* x, std::int64_t k, float scale, std::int8_t* codes,
                     std::int32_t* sum) noexcept;
// x less the value of the code that quantize_static() clips it to; 0 for what it does not clip, and
// for NaN.
float clipped_part(float x, float scale) noexcept;
void shadow_linear(const float* x, float scale, const std::int32_t* channels, std::int64_t hot,
                   const std::byte* weight, DType dtype, std::int64_t n, float* y) noexcept;
void quantize_groups(const float* x, std::int64_t k, std::int64_t group, std::int8_t* codes,
                     float* scales, std::int32_t* sums) noexcept;
void quantize_dynamic(const float* x, std::int64_t k, std::int8_t* codes, float* scale,
                      std::int32_t* sum) noexcept;
void dequantize(const std::int32_t* sums, std::int64_t n, const float* scales, bool per_channel,
                float row_scale, const float* bias, float* y) noexcept;
void requantize_int8(const std::int32_t* sums, std::int64_t n, int shift, std::int8_t* y) noexcept;
void requantize_int16(const std::int32_t* sums, std::int64_t n, int shift,
                      std::int16_t* y) noexcept;

void hadamard(float* x, std::int64_t n) noexcept;
void mix(const float* x, const float* factor, std::int64_t m, std::int64_t n, float* y) noexcept;
void rms_norm(const float* x, const float* weight, float epsilon, std::int64_t n,
              float* y) noexcept;
void rope(float* x, std::int64_t heads, std::int64_t head_dim, std::int64_t rotary_dim,
          const float* cos, const float* sin) noexcept;
void silu(const float* x, std::int64_t n, float* y) noexcept;
void gelu(const float* x, std::int64_t n, float* y) noexcept;
void softcap(const float* x, float cap, std::int64_t n, float* y) noexcept;
void add(const float* a, const float* b, std::int64_t n, float* y) noexcept;
void mul(const float* a, const float* b, std::int64_t n, float* y) noexcept;

void store_kv(const float* k, const float* v, std::int64_t kv_heads, std::int64_t head_dim,
              std::int64_t slot, std::byte* block, DType dtype, const KvScales& scales) noexcept;
void attention(const AttentionArgs&, std::int64_t kv_head, Range rows, float* scratch) noexcept;

}  // namespace tandem::ref
