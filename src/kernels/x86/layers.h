// Each function adds the kernels of one file to a table. It is compiled for that file's instruction
// set, so it may only be called on a processor that supports it.
#pragma once

#include "kernels/kernels.h"

namespace tandem {

void use_floats_avx2(Kernels& table) noexcept;
void use_linear_avx2(Kernels& table) noexcept;
void use_attention_avx2(Kernels& table) noexcept;

void use_floats_avx512(Kernels& table) noexcept;
void use_attention_avx512(Kernels& table) noexcept;

void use_linear_vnni(Kernels& table) noexcept;

// The products of use_linear_vnni(), which other layers fall back to for few rows.
void vnni_linear_int8(const PanelLayout&, const std::byte* panels, Range range,
                      const StaticInt8Rows&, std::int64_t rows, const LinearOutput&) noexcept;
void vnni_linear_int8_sums(const PanelLayout&, const std::byte* panels, Range range,
                           const StaticInt8Rows&, std::int64_t rows, std::int32_t* sums,
                           std::int64_t stride) noexcept;
void vnni_linear_int4(const PanelLayout&, const std::byte* panels, Range range,
                      const GroupInt8Rows&, std::int64_t rows, const LinearOutput&) noexcept;

// The product of use_floats_avx512(), which is as fast as tiles for float32 weights.
void avx512_linear_float(const PanelLayout&, const std::byte* panels, Range range, const float* x,
                         std::int64_t x_stride, std::int64_t rows, const LinearOutput&) noexcept;

void use_linear_amx(Kernels& table) noexcept;
void use_floats_amx(Kernels& table) noexcept;

}  // namespace tandem
