// Round to nearest. The inner loops are plain arithmetic without calls: about 2.5 ns a weight and
// thread as scalar code, 1 ns where the compiler vectorises them. Each clamps a product before
// rounding it, which also keeps compilers from fusing the product with the addition that rounds it
// (near ties, one rounding in place of two gives other codes).
#include "quantize/rtn.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cfloat>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "tensor/half.h"

namespace tandem {
namespace {

constexpr std::int64_t kLargestGroup = 128;
constexpr std::int64_t kPieceFloats = 256;     // of a row on the stack at once: 1 KiB
constexpr float kSmallestScale = FLT_EPSILON;  // 2^-23, where Quark floors every scale

float round_to(DType dtype, float x) {
  switch (dtype) {
    case DType::kF32:
      return x;
    case DType::kF16:
      return f16_to_float(float_to_f16(x));
    case DType::kBF16:
      return bf16_to_float(float_to_bf16(x));
    default:
      fail(ErrorCode::kInvalidArgument, "[quantize] scales of type {}, expected F32, F16 or BF16",
           to_string(dtype));
  }
}

// Nearest float16 value, ties to even, infinity beyond the range; NaN stays NaN. Same values as a
// round trip through float_to_f16, in a form that vectorises.
inline float nearest_f16(float x) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = bits & 0x8000'0000U;
  const std::uint32_t magnitude = bits & 0x7FFF'FFFFU;
  // Normal: drop 13 of the 23 fraction bits.
  const std::uint32_t dropped = (magnitude + 0x0FFFU + ((magnitude >> 13) & 1U)) & 0xFFFF'E000U;
  const std::uint32_t normal = dropped >= 0x4780'0000U ? 0x7F80'0000U : dropped;  // 65536 and more
  // Below 2^-14 float16 has steps of 2^-24, which is the step of float32 in [0.5, 1).
  const float small = (std::bit_cast<float>(magnitude) + 0.5F) - 0.5F;
  std::uint32_t rounded = magnitude < 0x3880'0000U ? std::bit_cast<std::uint32_t>(small) : normal;
  rounded = magnitude > 0x7F80'0000U ? magnitude : rounded;
  return std::bit_cast<float>(sign | rounded);
}

// Nearest integer, ties to even, of |x| < 2^22: added to 1.5 * 2^23 a float keeps no fraction bits.
inline float nearest_integer(float x) noexcept {
  constexpr float kShift = 12582912.0F;
  return (x + kShift) - kShift;
}

// NaN gives `low`.
inline float clamp(float x, float low, float high) noexcept {
  const float above = x > low ? x : low;
  return above < high ? above : high;
}

struct Bounds {
  float low = 0;   // min(w, 0)
  float high = 0;  // max(w, 0)
};

// Sixteen running minima and maxima, because a single one would be a chain that can't be
// vectorised.
Bounds bounds_with_zero(std::span<const float> weights) noexcept {
  constexpr std::size_t kLanes = 16;
  std::array<float, kLanes> low{};
  std::array<float, kLanes> high{};
  std::size_t i = 0;
  for (; i + kLanes <= weights.size(); i += kLanes)
    for (std::size_t j = 0; j < kLanes; ++j) {
      const float w = weights[i + j];
      low[j] = w < low[j] ? w : low[j];
      high[j] = w > high[j] ? w : high[j];
    }
  Bounds bounds;
  for (; i < weights.size(); ++i) {
    bounds.low = std::min(bounds.low, weights[i]);
    bounds.high = std::max(bounds.high, weights[i]);
  }
  for (std::size_t j = 0; j < kLanes; ++j) {
    bounds.low = std::min(bounds.low, low[j]);
    bounds.high = std::max(bounds.high, high[j]);
  }
  return bounds;
}

// codes = clamp(rint(w * inverse) + zero_point, low, high). The first clamp is wider than any code,
// so it changes none.
template <typename Code>
void write_codes(std::span<const float> weights, float inverse, int zero_point, float low,
                 float high, std::span<Code> codes) noexcept {
  constexpr float kWide = 1024.0F;
  const float zero = static_cast<float>(zero_point);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const float nearest = nearest_integer(clamp(weights[i] * inverse, -kWide, kWide));
    codes[i] = static_cast<Code>(static_cast<int>(clamp(nearest + zero, low, high)));
  }
}

template <typename Code>
void require_room(std::span<const float> weights, std::span<Code> codes) {
  if (codes.size() < weights.size())
    fail(ErrorCode::kInvalidArgument, "[quantize] room for {} codes, expected {}", codes.size(),
         weights.size());
}

GroupCode symmetric(std::span<const float> weights, DType dtype, float divisor, float low,
                    float high, std::span<std::int8_t> codes) {
  require_room(weights, codes);
  const Bounds bounds = bounds_with_zero(weights);
  const float largest = std::max(-bounds.low, bounds.high);
  const float scale = std::max(round_to(dtype, largest / divisor), kSmallestScale);
  write_codes(weights, 1.0F / scale, 0, low, high, codes);
  return {scale, 0};
}

bool all_finite(std::span<const float> values) noexcept {
  std::uint32_t infinite = 0;  // some value has all exponent bits set
  for (const float value : values) {
    const std::uint32_t exponent = std::bit_cast<std::uint32_t>(value) & 0x7F80'0000U;
    infinite |= exponent == 0x7F80'0000U ? 1U : 0U;
  }
  return infinite == 0;
}

void require_matrix(const Tensor& weight, const std::string& name) {
  if (weight.empty() || weight.shape().size() != 2 || weight.elements() == 0)
    fail(ErrorCode::kInvalidArgument, "[quantize] {}: expected a weight [n, k], got shape {}", name,
         to_string(weight.shape()));
  if (!is_float(weight.dtype()))
    fail(ErrorCode::kInvalidArgument,
         "[quantize] {}: expected a float weight, got {} (is it quantized already?)", name,
         to_string(weight.dtype()));
}

// Lowest row that some thread could not quantize; `n` while there is none.
class FirstBadRow {
 public:
  explicit FirstBadRow(std::int64_t n) : row_(n), n_(n) {}
  void report(std::int64_t row) noexcept {
    std::int64_t known = row_.load(std::memory_order_relaxed);
    while (row < known && !row_.compare_exchange_weak(known, row, std::memory_order_relaxed)) {
    }
  }
  bool any() const noexcept { return row_ < n_; }
  std::int64_t row() const noexcept { return row_; }

 private:
  std::atomic<std::int64_t> row_;
  std::int64_t n_;
};

// Explains why `row` could not be quantized.
[[noreturn]] void fail_row(const Tensor& weight, std::int64_t row, const std::string& name) {
  const std::int64_t k = weight.dim(1);
  std::vector<float> values(static_cast<std::size_t>(k));
  weight.copy_floats(row * k, values);
  const auto bad =
      std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
  if (bad != values.end())
    fail(ErrorCode::kInvalidArgument,
         "[quantize] {}: row {}, column {}: expected a finite weight, got {}", name, row,
         bad - values.begin(), *bad);
  const Bounds bounds = bounds_with_zero(values);
  fail(ErrorCode::kInvalidArgument,
       "[quantize] {}: row {}: weights from {} to {} are beyond float16's range: largest expected "
       "weight and spread of a group is 65504",
       name, row, bounds.low, bounds.high);
}

// One group of a row: to float16, quantized, packed two codes a byte. False if a value is not
// finite there.
bool quantize_packed_group(const Tensor& weight, std::int64_t first, std::int64_t group,
                           std::byte* packed, GroupCode& result) {
  std::array<float, kLargestGroup> buffer;
  const std::span<float> weights(buffer.data(), static_cast<std::size_t>(group));
  weight.copy_floats(first, weights);
  for (float& w : weights) w = nearest_f16(w);
  if (!all_finite(weights)) return false;
  std::array<std::uint8_t, kLargestGroup> codes;
  result = quantize_group_uint4(weights, DType::kF16, codes);
  for (std::size_t i = 0; i < static_cast<std::size_t>(group) / 2; ++i)
    packed[i] = static_cast<std::byte>(codes[2 * i] | (codes[2 * i + 1] << 4));
  return std::isfinite(result.scale);
}

// Calls visit(piece of the row as floats, its first column) from left to right.
template <typename Visit>
void visit_row(const Tensor& weight, std::int64_t row, Visit&& visit) {
  const std::int64_t k = weight.dim(1);
  std::array<float, kPieceFloats> buffer;
  for (std::int64_t column = 0; column < k; column += kPieceFloats) {
    const std::span<float> piece(buffer.data(),
                                 static_cast<std::size_t>(std::min(kPieceFloats, k - column)));
    weight.copy_floats(row * k + column, piece);
    visit(std::span<const float>(piece), column);
  }
}

}  // namespace

GroupCode quantize_group_uint4(std::span<const float> weights, DType dtype,
                               std::span<std::uint8_t> codes) {
  require_room(weights, codes);
  const Bounds bounds = bounds_with_zero(weights);
  const float range = round_to(dtype, bounds.high - bounds.low);
  const float scale = std::max(round_to(dtype, range / 15.0F), kSmallestScale);
  const float zero = -std::nearbyint(round_to(dtype, bounds.low / scale));
  const int zero_point = static_cast<int>(clamp(zero, 0.0F, 15.0F));
  write_codes(weights, 1.0F / scale, zero_point, 0.0F, 15.0F, codes);
  return {scale, zero_point};
}

GroupCode quantize_group_int4_symmetric(std::span<const float> weights, DType dtype,
                                        std::span<std::int8_t> codes) {
  return symmetric(weights, dtype, 7.5F, -8.0F, 7.0F, codes);
}

GroupCode quantize_group_int8_symmetric(std::span<const float> weights, DType dtype,
                                        std::span<std::int8_t> codes) {
  return symmetric(weights, dtype, 127.5F, -128.0F, 127.0F, codes);
}

Int4Groups quantize_uint4_per_group(const Tensor& weight, std::int64_t group,
                                    const std::string& name, ThreadPool& pool) {
  require_matrix(weight, name);
  if (group != 32 && group != 64 && group != 128)
    fail(ErrorCode::kInvalidArgument, "[quantize] {}: group size {}, expected 32, 64 or 128", name,
         group);
  const std::int64_t n = weight.dim(0);
  const std::int64_t k = weight.dim(1);
  if (k % group != 0)
    fail(ErrorCode::kInvalidArgument,
         "[quantize] {}: K = {} is not a multiple of the group size {}", name, k, group);
  const std::int64_t groups = k / group;
  const std::int64_t zero_bytes = (groups + 1) / 2;
  std::byte* codes = nullptr;
  std::byte* scales = nullptr;
  std::byte* zeros = nullptr;
  Int4Groups result{n,
                    k,
                    group,
                    Tensor::allocate(DType::kU8, {n, k / 2}, &codes),
                    Tensor::allocate(DType::kF16, {n, groups}, &scales),
                    Tensor::allocate(DType::kU8, {n, zero_bytes}, &zeros)};
  auto* half_scales = reinterpret_cast<std::uint16_t*>(scales);
  FirstBadRow bad(n);
  pool.parallel_for(n, 1, [&](Range rows) {
    for (std::int64_t row = rows.begin; row < rows.end; ++row) {
      std::fill_n(zeros + row * zero_bytes, zero_bytes, std::byte{0});
      for (std::int64_t g = 0; g < groups; ++g) {
        const std::int64_t first = row * k + g * group;
        GroupCode code;
        if (!quantize_packed_group(weight, first, group, codes + first / 2, code))
          return bad.report(row);
        half_scales[row * groups + g] = float_to_f16(code.scale);
        zeros[row * zero_bytes + g / 2] |=
            static_cast<std::byte>(code.zero_point << (g % 2 == 0 ? 0 : 4));
      }
    }
  });
  if (bad.any()) fail_row(weight, bad.row(), name);
  return result;
}

Int8Channels quantize_int8_per_channel(const Tensor& weight, const std::string& name,
                                       ThreadPool& pool) {
  require_matrix(weight, name);
  const std::int64_t n = weight.dim(0);
  const std::int64_t k = weight.dim(1);
  std::byte* codes = nullptr;
  std::byte* scales = nullptr;
  Int8Channels result{n, k, Tensor::allocate(DType::kI8, {n, k}, &codes),
                      Tensor::allocate(DType::kF32, {n}, &scales)};
  auto* bytes = reinterpret_cast<std::int8_t*>(codes);
  auto* row_scales = reinterpret_cast<float*>(scales);
  FirstBadRow bad(n);
  pool.parallel_for(n, 1, [&](Range rows) {
    for (std::int64_t row = rows.begin; row < rows.end; ++row) {
      float largest = 0;
      bool finite = true;
      visit_row(weight, row, [&](std::span<const float> piece, std::int64_t) {
        const Bounds bounds = bounds_with_zero(piece);
        largest = std::max({largest, -bounds.low, bounds.high});
        finite = finite && all_finite(piece);
      });
      if (!finite) return bad.report(row);
      // The floor keeps the reciprocal finite for a row of values that are next to nothing.
      const float scale = largest == 0 ? 1.0F : std::max(largest / 127.0F, FLT_MIN);
      row_scales[row] = scale;
      visit_row(weight, row, [&](std::span<const float> piece, std::int64_t column) {
        write_codes(piece, 1.0F / scale, 0, -127.0F, 127.0F,
                    std::span<std::int8_t>(bytes + row * k + column, piece.size()));
      });
    }
  });
  if (bad.any()) fail_row(weight, bad.row(), name);
  return result;
}

}  // namespace tandem
