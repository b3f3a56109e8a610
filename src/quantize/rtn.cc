// Round to nearest. The inner loops are plain arithmetic without calls: about 2.5 ns per weight and
// thread as scalar code, 1 ns if the compiler vectorises them. Each clamps a product before
// rounding it, which also keeps compilers from fusing the product with the addition that rounds it
// (near ties, one rounding instead of two gives different codes).
#include "quantize/rtn.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "tensor/half.h"
#include "tensor/packed_codes.h"

namespace tandem {
namespace {

// 2^-23, Quark's lower bound for every scale.
constexpr float kSmallestScale = FLT_EPSILON;
// Rows that are read at a time if reading computes them (see RowSource::read()).
constexpr std::int64_t kComputedRows = 64;

void require_scales(DType dtype) {
  if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBF16)
    fail(ErrorCode::kInvalidArgument, "[quantize] scales of type {}, expected F32, F16 or BF16",
         to_string(dtype));
}

// Nearest integer of |x| < 2^22, ties to even: a float has no fraction bits once 1.5 * 2^23 is
// added.
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
  // min(w, 0).
  float low = 0;
  // max(w, 0).
  float high = 0;
};

// Sixteen running minima and maxima, because a single one would be a dependency chain that can't be
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
// so it changes no result.
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

GroupCode asymmetric(std::span<const float> weights, DType dtype, float largest_code,
                     std::span<std::uint8_t> codes) {
  require_room(weights, codes);
  const Bounds bounds = bounds_with_zero(weights);
  require_scales(dtype);
  const float range = round_to(dtype, bounds.high - bounds.low);
  const float scale = std::max(round_to(dtype, range / largest_code), kSmallestScale);
  const float zero = -std::nearbyint(round_to(dtype, bounds.low / scale));
  const int zero_point = static_cast<int>(clamp(zero, 0.0F, largest_code));
  write_codes(weights, 1.0F / scale, zero_point, 0.0F, largest_code, codes);
  return {scale, zero_point};
}

GroupCode symmetric(std::span<const float> weights, DType dtype, float divisor, float low,
                    float high, std::span<std::int8_t> codes) {
  require_room(weights, codes);
  require_scales(dtype);
  const Bounds bounds = bounds_with_zero(weights);
  const float largest = std::max(-bounds.low, bounds.high);
  const float scale = std::max(round_to(dtype, largest / divisor), kSmallestScale);
  write_codes(weights, 1.0F / scale, 0, low, high, codes);
  return {scale, 0};
}

bool all_finite(std::span<const float> values) noexcept {
  // Non-zero if some value has all exponent bits set.
  std::uint32_t infinite = 0;
  for (const float value : values) {
    const std::uint32_t exponent = std::bit_cast<std::uint32_t>(value) & 0x7F80'0000U;
    infinite |= exponent == 0x7F80'0000U ? 1U : 0U;
  }
  return infinite == 0;
}

void require_matrix(const RowSource& weight, const std::string& name) {
  if (weight.rows() < 1)
    fail(ErrorCode::kInvalidArgument, "[quantize] {}: expected a weight [n, k], got [{}, {}]", name,
         weight.rows(), weight.columns());
}

// The lowest row that a thread could not quantize; `n` if there is none.
class FirstBadRow {
 public:
  explicit FirstBadRow(std::int64_t n) : row_(n) {}
  void report(std::int64_t row) noexcept {
    std::int64_t known = row_.load(std::memory_order_relaxed);
    while (row < known && !row_.compare_exchange_weak(known, row, std::memory_order_relaxed)) {
    }
  }
  std::int64_t row() const noexcept { return row_; }

 private:
  std::atomic<std::int64_t> row_;
};

// Throws the reason why `row` could not be quantized with scales of type `dtype`.
[[noreturn]] void fail_row(const RowSource& weight, std::int64_t row, DType dtype,
                           const std::string& name) {
  std::vector<float> values(static_cast<std::size_t>(weight.columns()));
  weight.read(row, values);
  const auto bad =
      std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
  if (bad != values.end())
    fail(ErrorCode::kInvalidArgument,
         "[quantize] {}: row {}, column {}: expected a finite weight, got {}", name, row,
         bad - values.begin(), *bad);
  const Bounds bounds = bounds_with_zero(values);
  fail(ErrorCode::kInvalidArgument,
       "[quantize] {}: row {}: weights from {} to {} are beyond {}'s range: largest expected "
       "weight and spread of a group is {}",
       name, row, bounds.low, bounds.high,
       dtype == DType::kF16    ? "float16"
       : dtype == DType::kBF16 ? "bfloat16"
                               : "float32",
       dtype == DType::kF16    ? kLargestF16
       : dtype == DType::kBF16 ? bf16_to_float(0x7F7F)
                               : FLT_MAX);
}

// Calls visit(row, its values) for all rows, each thread with its own visitor from `make_visitor`.
// A visitor that returns false marks the row as bad and ends that thread's share; returns the
// lowest such row, or the number of rows.
template <typename MakeVisitor>
std::int64_t visit_rows(const RowSource& weight, ThreadPool& pool, MakeVisitor&& make_visitor) {
  const std::int64_t k = weight.columns();
  const std::int64_t at_once = weight.stored() != nullptr ? 1 : kComputedRows;
  FirstBadRow bad(weight.rows());
  pool.parallel_for(weight.rows(), at_once, [&](Range range) {
    auto visit = make_visitor();
    std::vector<float> buffer(static_cast<std::size_t>(std::min(at_once, range.size()) * k));
    for (std::int64_t first = range.begin; first < range.end; first += at_once) {
      const std::int64_t count = std::min(at_once, range.end - first);
      const std::span<float> values(buffer.data(), static_cast<std::size_t>(count * k));
      weight.read(first, values);
      for (std::int64_t r = 0; r < count; ++r) {
        const auto row =
            values.subspan(static_cast<std::size_t>(r * k), static_cast<std::size_t>(k));
        if (!visit(first + r, row)) return bad.report(first + r);
      }
    }
  });
  return bad.row();
}

GroupCode quantize_group(std::span<const float> weights, const GroupFormat& format,
                         std::span<std::uint8_t> codes) {
  const std::span<std::int8_t> signed_codes(reinterpret_cast<std::int8_t*>(codes.data()),
                                            codes.size());
  if (format.formula == GroupFormula::kOnnx)
    return format.is_signed
               ? quantize_group_onnx_symmetric(weights, format.bits, format.scales, signed_codes)
               : quantize_group_onnx(weights, format.bits, format.scales, codes);
  if (format.bits == 4)
    return format.is_signed ? quantize_group_int4_symmetric(weights, format.scales, signed_codes)
                            : quantize_group_uint4(weights, format.scales, codes);
  return format.is_signed ? quantize_group_int8_symmetric(weights, format.scales, signed_codes)
                          : quantize_group_uint8(weights, format.scales, codes);
}

// The memory of a GroupCodes being written.
struct GroupMemory {
  std::byte* codes = nullptr;
  std::byte* scales = nullptr;
  // Null if there are no zero points.
  std::byte* zeros = nullptr;
};

// Quantizes rows of one weight into its memory; one per thread.
class GroupRowWriter {
 public:
  GroupRowWriter(const GroupFormat& format, std::int64_t k, const GroupMemory& memory)
      : format_(format),
        memory_(memory),
        codes_(static_cast<std::size_t>(k)),
        zeros_(static_cast<std::size_t>(k / format.group)) {}

  // False if a value or a scale is not finite in the type of the scales.
  bool operator()(std::int64_t row, std::span<float> values) {
    round_all(format_.scales, values);
    if (!all_finite(values)) return false;
    const auto group = static_cast<std::size_t>(format_.group);
    const auto groups = static_cast<std::int64_t>(zeros_.size());
    for (std::size_t g = 0; g < zeros_.size(); ++g) {
      const GroupCode code = quantize_group(values.subspan(g * group, group), format_,
                                            std::span(codes_).subspan(g * group, group));
      if (!std::isfinite(code.scale)) return false;
      write_scale(row * groups + static_cast<std::int64_t>(g), code.scale);
      zeros_[g] = static_cast<std::uint8_t>(code.zero_point);
    }
    const auto k = static_cast<std::int64_t>(codes_.size());
    pack_codes(codes_, format_.bits, memory_.codes + row * packed_bytes(k, format_.bits));
    if (memory_.zeros != nullptr)
      pack_codes(zeros_, format_.bits, memory_.zeros + row * packed_bytes(groups, format_.bits));
    return true;
  }

 private:
  void write_scale(std::int64_t index, float scale) const {
    encode_floats({&scale, 1}, format_.scales,
                  memory_.scales + index * static_cast<std::int64_t>(size_of(format_.scales)));
  }

  const GroupFormat format_;
  const GroupMemory memory_;
  std::vector<std::uint8_t> codes_;
  std::vector<std::uint8_t> zeros_;
};

void require_format(const GroupFormat& format, std::int64_t k, const std::string& name) {
  if (format.bits != 4 && format.bits != 8)
    fail(ErrorCode::kInvalidArgument, "[quantize] {}: expected codes of 4 or 8 bits, got {}", name,
         format.bits);
  if (format.scales != DType::kF16 && format.scales != DType::kBF16 && format.scales != DType::kF32)
    fail(ErrorCode::kInvalidArgument, "[quantize] {}: scales of type {}, expected F32, F16 or BF16",
         name, to_string(format.scales));
  if (format.group < 1)
    fail(ErrorCode::kInvalidArgument, "[quantize] {}: group size {}, expected a divisor of K = {}",
         name, format.group, k);
  if (k % format.group != 0)
    fail(ErrorCode::kInvalidArgument,
         "[quantize] {}: K = {} is not a multiple of the group size {}", name, k, format.group);
}

}  // namespace

GroupCode quantize_group_onnx_symmetric(std::span<const float> weights, int bits, DType dtype,
                                        std::span<std::int8_t> codes) {
  require_room(weights, codes);
  require_scales(dtype);
  const Bounds bounds = bounds_with_zero(weights);
  const auto levels = static_cast<float>(1 << (bits - 1));
  const float extreme = -bounds.low > bounds.high ? bounds.low : bounds.high;
  const float scale = round_to(dtype, extreme / -levels);
  const float inverse = scale == 0 ? 0 : 1.0F / scale;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const float unsigned_code = clamp(std::round(weights[i] * inverse + levels), 0, 2 * levels - 1);
    codes[i] = static_cast<std::int8_t>(unsigned_code - levels);
  }
  return {scale, 0};
}

GroupCode quantize_group_onnx(std::span<const float> weights, int bits, DType dtype,
                              std::span<std::uint8_t> codes) {
  require_room(weights, codes);
  require_scales(dtype);
  const Bounds bounds = bounds_with_zero(weights);
  const auto largest = static_cast<float>((1 << bits) - 1);
  const float scale = round_to(dtype, (bounds.high - bounds.low) / largest);
  const float inverse = scale == 0 ? 0 : 1.0F / scale;
  const float zero = clamp(std::round(-bounds.low * inverse), 0, largest);
  for (std::size_t i = 0; i < weights.size(); ++i)
    codes[i] =
        static_cast<std::uint8_t>(clamp(std::round(weights[i] * inverse + zero), 0, largest));
  return {scale, static_cast<int>(zero)};
}

GroupCode quantize_group_uint4(std::span<const float> weights, DType dtype,
                               std::span<std::uint8_t> codes) {
  return asymmetric(weights, dtype, 15.0F, codes);
}

GroupCode quantize_group_uint8(std::span<const float> weights, DType dtype,
                               std::span<std::uint8_t> codes) {
  return asymmetric(weights, dtype, 255.0F, codes);
}

GroupCode quantize_group_int4_symmetric(std::span<const float> weights, DType dtype,
                                        std::span<std::int8_t> codes) {
  return symmetric(weights, dtype, 7.5F, -8.0F, 7.0F, codes);
}

GroupCode quantize_group_int8_symmetric(std::span<const float> weights, DType dtype,
                                        std::span<std::int8_t> codes) {
  return symmetric(weights, dtype, 127.5F, -128.0F, 127.0F, codes);
}

GroupCodes quantize_group_codes(const RowSource& weight, const GroupFormat& format,
                                const std::string& name, ThreadPool& pool) {
  require_matrix(weight, name);
  const std::int64_t n = weight.rows();
  const std::int64_t k = weight.columns();
  require_format(format, k, name);
  const std::int64_t groups = k / format.group;
  GroupMemory memory;
  GroupCodes result{
      .n = n, .k = k, .bits = format.bits, .is_signed = format.is_signed, .group = format.group};
  result.codes = Tensor::allocate(format.bits == 8 && format.is_signed ? DType::kI8 : DType::kU8,
                                  {n, packed_bytes(k, format.bits)}, &memory.codes);
  result.scales = Tensor::allocate(format.scales, {n, groups}, &memory.scales);
  if (!format.is_signed)
    result.zero_points =
        Tensor::allocate(DType::kU8, {n, packed_bytes(groups, format.bits)}, &memory.zeros);
  const std::int64_t bad =
      visit_rows(weight, pool, [&] { return GroupRowWriter(format, k, memory); });
  if (bad < n) fail_row(weight, bad, format.scales, name);
  return result;
}

ChannelCodes quantize_channel_codes(const RowSource& weight, const std::string& name,
                                    ThreadPool& pool) {
  require_matrix(weight, name);
  const std::int64_t n = weight.rows();
  const std::int64_t k = weight.columns();
  std::byte* codes = nullptr;
  std::byte* scales = nullptr;
  ChannelCodes result{n, k, Tensor::allocate(DType::kI8, {n, k}, &codes),
                      Tensor::allocate(DType::kF32, {n}, &scales)};
  auto* bytes = reinterpret_cast<std::int8_t*>(codes);
  auto* row_scales = reinterpret_cast<float*>(scales);
  const auto quantize_row = [&](std::int64_t row, std::span<const float> values) {
    if (!all_finite(values)) return false;
    const Bounds bounds = bounds_with_zero(values);
    const float largest = std::max(-bounds.low, bounds.high);
    // The lower bound keeps the reciprocal finite for a row of tiny values.
    const float scale = largest == 0 ? 1.0F : std::max(largest / 127.0F, FLT_MIN);
    row_scales[row] = scale;
    write_codes(values, 1.0F / scale, 0, -127.0F, 127.0F,
                std::span<std::int8_t>(bytes + row * k, values.size()));
    return true;
  };
  const std::int64_t bad = visit_rows(weight, pool, [&] { return quantize_row; });
  if (bad < n) fail_row(weight, bad, DType::kF32, name);
  return result;
}

float quantize_row_blocks(std::span<const float> weights, std::int64_t block,
                          std::span<std::int8_t> codes,
                          std::span<std::uint8_t> block_scales) noexcept {
  const auto size = static_cast<std::size_t>(block);
  const auto largest_of = [](std::span<const float> values) {
    const Bounds bounds = bounds_with_zero(values);
    return std::max(-bounds.low, bounds.high);
  };
  constexpr auto kLargestCode = static_cast<float>(kMaxBlockCode);
  constexpr auto kLargestScale = static_cast<float>(kMaxBlockScale);
  const float largest = largest_of(weights);
  // The lower bound keeps quotients of a row of tiny values finite.
  const float scale =
      largest == 0 ? 1.0F : std::max(largest / kLargestCode / kLargestScale, FLT_MIN);
  for (std::size_t first = 0; first < weights.size(); first += size) {
    const auto part = weights.subspan(first, size);
    const float level =
        clamp(nearest_integer(largest_of(part) / kLargestCode / scale), 1.0F, kLargestScale);
    block_scales[first / size] = static_cast<std::uint8_t>(level);
    const float step = level * scale;
    for (std::size_t i = 0; i < size; ++i)
      codes[first + i] = static_cast<std::int8_t>(
          clamp(nearest_integer(part[i] / step), -kLargestCode, kLargestCode));
  }
  return scale;
}

ChannelCodes quantize_block_codes(const RowSource& weight, std::int64_t block,
                                  const std::string& name, ThreadPool& pool) {
  require_matrix(weight, name);
  const std::int64_t n = weight.rows();
  const std::int64_t k = weight.columns();
  if (!is_block_size(block) || k % block != 0)
    fail(ErrorCode::kInvalidArgument,
         "[quantize] {}: expected blocks of 16, 32 or 64 columns that divide K = {}, got {}", name,
         k, block);
  const std::int64_t blocks = k / block;
  std::byte *codes = nullptr, *block_scales = nullptr, *scales = nullptr;
  ChannelCodes result{.n = n, .k = k};
  result.codes = Tensor::allocate(DType::kU8, {n, packed_bytes(k, 4)}, &codes);
  result.scales = Tensor::allocate(DType::kF32, {n}, &scales);
  result.block_scales = Tensor::allocate(DType::kU8, {n, blocks}, &block_scales);
  auto* row_scales = reinterpret_cast<float*>(scales);
  auto* levels = reinterpret_cast<std::uint8_t*>(block_scales);
  const auto make_visitor = [&] {
    return [&, row_codes = std::vector<std::int8_t>(static_cast<std::size_t>(k))](
               std::int64_t row, std::span<const float> values) mutable {
      if (!all_finite(values)) return false;
      row_scales[row] = quantize_row_blocks(
          values, block, row_codes, {levels + row * blocks, static_cast<std::size_t>(blocks)});
      pack_codes({reinterpret_cast<const std::uint8_t*>(row_codes.data()), row_codes.size()}, 4,
                 codes + row * packed_bytes(k, 4));
      return true;
    };
  };
  const std::int64_t bad = visit_rows(weight, pool, make_visitor);
  if (bad < n) fail_row(weight, bad, DType::kF32, name);
  return result;
}

}  // namespace tandem
