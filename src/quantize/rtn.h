// Round to nearest: int4 and int8 in groups and int8 per channel, by AMD Quark's integer formulas
// (exports match Quark's value for value), and int4 in blocks as Qualcomm's tools do (LPBQ).
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/thread_pool.h"
#include "tensor/weight.h"

namespace tandem {

// The scale and zero point of one group of consecutive weights.
struct GroupCode {
  // A value of the scale's dtype.
  float scale = 0;
  // 0…15 (asymmetric uint4), 0…255 (asymmetric uint8), 0 (symmetric).
  int zero_point = 0;
};

// Asymmetric uint4 of one group. Every step of scale and zero point is rounded to `dtype` (F32, F16
// or BF16), R(·): lo = min(w, 0), hi = max(w, 0), d = R(hi - lo), scale = max(R(d / 15), 2^-23),
// zero_point = clamp(-rint(R(lo / scale)), 0, 15); code = clamp(rint(w * (1 / scale)) + zero_point,
// 0, 15) in float32, ties to even. `weights` are values of `dtype`.
GroupCode quantize_group_uint4(std::span<const float> weights, DType dtype,
                               std::span<std::uint8_t> codes);
// The same with 255 instead of 15.
GroupCode quantize_group_uint8(std::span<const float> weights, DType dtype,
                               std::span<std::uint8_t> codes);

// Symmetric int4: scale = max|w| / 7.5, codes -8…7. Symmetric int8: scale = max|w| / 127.5, codes
// -128…127.
GroupCode quantize_group_int4_symmetric(std::span<const float> weights, DType dtype,
                                        std::span<std::int8_t> codes);
GroupCode quantize_group_int8_symmetric(std::span<const float> weights, DType dtype,
                                        std::span<std::int8_t> codes);

// As ONNX Runtime rounds a model to MatMulNBits (MLAS). Symmetric, with h = 2^(bits - 1) and m the
// weight of the largest magnitude: scale = -m / h, code = clamp(round(w / scale + h), 0, 2 h - 1) - h,
// so that m itself loses nothing. Asymmetric: scale = (max(w, 0) - min(w, 0)) / (2 h - 1), zero point =
// clamp(round(-min(w, 0) / scale)), code = clamp(round(w / scale + zero point)). Ties away from zero;
// the scale is rounded to `dtype`.
GroupCode quantize_group_onnx_symmetric(std::span<const float> weights, int bits, DType dtype,
                                        std::span<std::int8_t> codes);
GroupCode quantize_group_onnx(std::span<const float> weights, int bits, DType dtype,
                              std::span<std::uint8_t> codes);

// Whose formulas.
enum class GroupFormula : std::uint8_t { kQuark, kOnnx };

// How the codes of a group are stored.
struct GroupFormat {
  // 4 or 8.
  int bits = 4;
  // True: symmetric codes in two's complement without zero points; false: asymmetric codes with
  // zero points.
  bool is_signed = false;
  // Group size in input channels, a divisor of k; k itself means one scale per row.
  std::int64_t group = 128;
  // F16, BF16 or F32. Weights are first rounded to this type, as by a tool that loads its model in
  // it.
  DType scales = DType::kF16;
  GroupFormula formula = GroupFormula::kQuark;
};

// Quantizes a whole weight [n, k], every group by the formula above for its format (asymmetric
// 8-bit codes: that of uint4 with 255 instead of 15). Rows are processed in parallel and read in
// pieces. Throws kInvalidArgument for a group size that does not divide k ("[quantize]
// model.layers.0.mlp.down_proj: K = 100 is not a multiple of the group size 128"), an invalid
// format, a row with a non-finite weight, and a row whose weights or scales are beyond the range of
// the scales' type.
GroupCodes quantize_group_codes(const RowSource& weight, const GroupFormat& format,
                                const std::string& name, ThreadPool& pool);

// Symmetric int8 with one scale per output channel: scale = max|row| / 127 (1 for a row of zeros),
// codes in [-127, 127]. Throws kInvalidArgument for a row with a non-finite weight.
ChannelCodes quantize_channel_codes(const RowSource& weight, const std::string& name,
                                    ThreadPool& pool);

// Low power block quantization of one row: s_b = max|block| / 7, scale = max(s_b) / 16,
// block_scales[b] = clamp(rint(s_b / scale), 1, 16), codes = clamp(rint(w / (block scale * scale)),
// -7, 7) in float32, ties to even. Returns the scale: 1 for a row of zeros. `block` divides the row.
float quantize_row_blocks(std::span<const float> weights, std::int64_t block,
                          std::span<std::int8_t> codes,
                          std::span<std::uint8_t> block_scales) noexcept;

// The same for a whole weight. Throws kInvalidArgument for a block that is not 16, 32 or 64 or does
// not divide k, and a row with a non-finite weight.
ChannelCodes quantize_block_codes(const RowSource& weight, std::int64_t block,
                                  const std::string& name, ThreadPool& pool);

}  // namespace tandem
