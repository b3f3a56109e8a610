// The weight of a Linear: float rows, integer codes in groups along k, or int8 per output channel,
// whose codes may be stored as int4 in blocks.
// Its logical shape is [n, k] = [output channels, input channels].
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "tensor/row_source.h"
#include "tensor/tensor.h"

namespace tandem {

// Float values [n, k]: those of a tensor, or computed from one by a pass.
struct FloatWeight {
  Rows rows;

  FloatWeight() = default;
  // kFormat unless it is a float matrix (see stored_rows()).
  FloatWeight(Tensor values) : rows(stored_rows(std::move(values))) {}
  FloatWeight(Rows source) : rows(std::move(source)) {}
};

// w = (code - zero point) * scale, with one scale and zero point per `group` consecutive input
// channels. 4-bit codes are packed as in ONNX's MatMulNBits: two per byte along k, the lower index
// in the low nibble; every row starts at a byte boundary.
struct GroupCodes {
  std::int64_t n = 0;
  std::int64_t k = 0;
  // 4 or 8.
  int bits = 4;
  // Codes and zero points are in two's complement.
  bool is_signed = false;
  // A divisor of k; k itself means one scale for the whole row.
  std::int64_t group = 0;
  // U8 (I8 for signed 8-bit codes) [n, ceil(k * bits / 8)].
  Tensor codes;
  // F16, BF16 or F32 [n, k / group].
  Tensor scales;
  // U8 [n, ceil(k / group * bits / 8)], packed like the codes. If empty, the zero point is 0 for
  // signed codes and 2^(bits - 1) for unsigned ones, as in MatMulNBits.
  Tensor zero_points;

  std::int64_t groups() const noexcept { return k / group; }
};

// Low power block quantization (LPBQ): the largest |code| and block scale. Their product fits int8.
inline constexpr int kMaxBlockCode = 7;
inline constexpr int kMaxBlockScale = 16;
// Whether that many input channels can share a block scale.
constexpr bool is_block_size(std::int64_t size) noexcept {
  return size == 16 || size == 32 || size == 64;
}

// w = code * scale[row]; symmetric, codes in [-127, 127].
struct ChannelCodes {
  std::int64_t n = 0;
  std::int64_t k = 0;
  // I8 [n, k]. With block scales U8 [n, k / 2]: int4 codes in [-7, 7], packed as in GroupCodes, in
  // two's complement, which stand for the int8 codes that they give times the scale of their block.
  Tensor codes;
  // F32 [n], or [1] for one scale per tensor.
  Tensor scales;
  // U8 [n, k / block], 1…16; empty for int8.
  Tensor block_scales = {};

  // Input channels that share a block scale; 0 without block scales.
  std::int64_t block() const noexcept { return block_scales.empty() ? 0 : k / block_scales.dim(1); }
};

using Weight = std::variant<FloatWeight, GroupCodes, ChannelCodes>;

// The number of output channels, n.
std::int64_t output_channels(const Weight& weight);
// The number of input channels, k.
std::int64_t input_channels(const Weight& weight);
// The size of codes, scales and zero points, or of the values in the rows' type.
std::int64_t stored_bytes(const Weight& weight);
// "int4 g128 [2048, 8192]": bits and group size, followed by "symmetric" if there are no zero
// points, or "signed" if there are and codes are signed. "int4 block 32" has block scales.
std::string describe(const Weight& weight);

// The tensors that make up a weight: codes, scales, and zero points or block scales if there are
// any; or stored values; none if its values are computed.
std::vector<Tensor> parts_of(const Weight& weight);

// Float32 values of rows [begin, begin + rows), row-major [rows, k].
std::vector<float> dequantize_rows(const Weight& weight, std::int64_t begin, std::int64_t rows);
// The same into `out`, whose size is a multiple of k.
void dequantize_rows(const Weight& weight, std::int64_t begin, std::span<float> out);

// The int8 codes from column `begin` of a row on. Where they are stored as int4, `begin` and the
// size of `out` must be even.
void read_codes(const ChannelCodes& weight, std::int64_t row, std::int64_t begin,
                std::span<std::int8_t> out);

// Output channels [begin, begin + count) of a weight, sharing its memory.
Weight slice_rows(const Weight& weight, std::int64_t begin, std::int64_t count);
// The output channels of several weights, one after the other. Throws kInvalidArgument, naming two
// of them, unless they are of one kind and form.
Weight join_rows(std::span<const Weight> parts);
// A copy of the given output channels, in the given order; computed rows stay computed.
Weight gather_rows(const Weight& weight, std::span<const std::int64_t> rows);

// Throws kFormat naming `name` if the parts do not fit together (sizes, dtypes, group size) or a
// scale is not finite. Reads the scales, but no codes and no float values.
void validate(const Weight& weight, const std::string& name);

// Throws kFormat naming `name` and the row if a code is outside what its kind of weight allows
// (-128 in ChannelCodes, -8 of those stored as int4). Reads all codes: meant for files being
// verified and weights being packed.
void validate_codes(const Weight& weight, const std::string& name);

}  // namespace tandem
