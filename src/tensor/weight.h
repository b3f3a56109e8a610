// The weight of a Linear: float, int4 in groups, or int8; logical shape [n, k] = [output channels,
// input channels].
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "tensor/tensor.h"

namespace tandem {

struct FloatWeight {
  Tensor values;  // [n, k], F32, F16 or BF16
};

// w = (code - zero_point) * scale, one scale and zero point per `group` consecutive input channels.
// The layout is that of ONNX's MatMulNBits: two codes a byte along k, the lower index in the low
// nibble.
struct Int4Groups {
  std::int64_t n = 0;
  std::int64_t k = 0;      // a multiple of group
  std::int64_t group = 0;  // 32, 64 or 128
  Tensor codes;            // U8 [n, k / 2]
  Tensor scales;           // F16 [n, k / group]
  Tensor zero_points;      // U8 [n, ceil(k / group / 2)], nibbles like the codes
};

// w = code * scale[row]; symmetric, codes in [-127, 127].
struct Int8Channels {
  std::int64_t n = 0;
  std::int64_t k = 0;
  Tensor codes;           // I8 [n, k]
  Tensor scales;          // F32 [n], or [1] for one scale per tensor
  float input_scale = 0;  // static: x = code * input_scale, codes in [-127, 127]
};

using Weight = std::variant<FloatWeight, Int4Groups, Int8Channels>;

std::int64_t output_channels(const Weight& weight);  // n
std::int64_t input_channels(const Weight& weight);   // k
std::int64_t stored_bytes(const Weight& weight);     // codes, scales and zero points
std::string describe(const Weight& weight);          // "int4 g128 [2048, 8192]"

// Float32 values of rows [begin, begin + rows), row-major [rows, k].
std::vector<float> dequantize_rows(const Weight& weight, std::int64_t begin, std::int64_t rows);

// Output channels [begin, begin + count) of a weight, sharing its memory.
Weight slice_rows(const Weight& weight, std::int64_t begin, std::int64_t count);
// A copy of the given output channels, in their order.
Weight gather_rows(const Weight& weight, std::span<const std::int64_t> rows);

// Throws kFormat naming `name` if the parts do not fit together (sizes, dtypes, group, code range
// of scales).
void validate(const Weight& weight, const std::string& name);

}  // namespace tandem
