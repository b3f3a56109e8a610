// Round to nearest: int4 in groups and int8 per channel or tensor, by the integer formulas of AMD
// Quark (which are also those of its exports, value for value).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "tensor/weight.h"

namespace tandem {

// What one group of consecutive weights becomes.
struct GroupCode {
  float scale = 0;     // a value of the scale's dtype
  int zero_point = 0;  // 0…15 (asymmetric), 0 (symmetric)
};

// Asymmetric uint4 of one group. Every step of scale and zero point is rounded to `dtype` (F32, F16
// or BF16), R(·): lo = min(w, 0), hi = max(w, 0), d = R(hi - lo), scale = max(R(d / 15), 2^-23),
// zero_point = clamp(-rint(R(lo / scale)), 0, 15); code = clamp(rint(w * (1 / scale)) + zero_point,
// 0, 15) in float32, ties to even. `weights` are values of `dtype`.
GroupCode quantize_group_uint4(std::span<const float> weights, DType dtype,
                               std::span<std::uint8_t> codes);

// Symmetric int4: scale = max|w| / 7.5, codes -8…7. Symmetric int8: scale = max|w| / 127.5, codes
// -128…127.
GroupCode quantize_group_int4_symmetric(std::span<const float> weights, DType dtype,
                                        std::span<std::int8_t> codes);
GroupCode quantize_group_int8_symmetric(std::span<const float> weights, DType dtype,
                                        std::span<std::int8_t> codes);

// A whole weight [n, k] in groups of 32, 64 or 128 along k, scales F16 (the dtype of a package;
// values beyond float16's range become infinite there: kInvalidArgument names the row). Rows in
// parallel. Throws kInvalidArgument ("[quantize] model.layers.0.mlp.down_proj: K = 100 is not a
// multiple of the group size 128").
Int4Groups quantize_uint4_per_group(const Tensor& weight, std::int64_t group,
                                    const std::string& name, ThreadPool& pool);

// Symmetric int8 with a scale per output channel: scale = max|row| / 127 (1 for a row of zeros),
// codes in [-127, 127].
Int8Channels quantize_int8_per_channel(const Tensor& weight, const std::string& name,
                                       ThreadPool& pool);

}  // namespace tandem
