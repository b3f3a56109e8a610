// Weights of Linears: sizes, checks, and the plain float values behind the codes.
#include "tensor/weight.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "base/error.h"
#include "tensor/half.h"

namespace tandem {
namespace {

template <typename... Visitors>
struct Overload : Visitors... {
  using Visitors::operator()...;
};

void expect(const Tensor& tensor, DType dtype, const Shape& shape, const std::string& name,
            std::string_view part) {
  if (tensor.empty()) fail(ErrorCode::kFormat, "[weight] {}: {} are missing", name, part);
  if (tensor.dtype() != dtype || tensor.shape() != shape)
    fail(ErrorCode::kFormat, "[weight] {}: {}: expected {} {}, got {} {}", name, part,
         to_string(dtype), to_string(shape), to_string(tensor.dtype()), to_string(tensor.shape()));
}

void expect_dimensions(std::int64_t n, std::int64_t k, const std::string& name) {
  if (n < 1 || k < 1) fail(ErrorCode::kFormat, "[weight] {}: [{}, {}] is not a matrix", name, n, k);
}

void validate_parts(const FloatWeight& w, const std::string& name) {
  if (w.values.empty()) fail(ErrorCode::kFormat, "[weight] {}: values are missing", name);
  if (w.values.shape().size() != 2)
    fail(ErrorCode::kFormat, "[weight] {}: expected [n, k], got {}", name,
         to_string(w.values.shape()));
  expect_dimensions(w.values.dim(0), w.values.dim(1), name);
  const DType dtype = w.values.dtype();
  if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBF16)
    fail(ErrorCode::kFormat, "[weight] {}: expected F32, F16 or BF16, got {}", name,
         to_string(dtype));
}

void validate_parts(const Int4Groups& w, const std::string& name) {
  expect_dimensions(w.n, w.k, name);
  if (w.group != 32 && w.group != 64 && w.group != 128)
    fail(ErrorCode::kFormat, "[weight] {}: group: expected 32, 64 or 128, got {}", name, w.group);
  if (w.k % w.group != 0)
    fail(ErrorCode::kFormat, "[weight] {}: k = {} is not a multiple of the group {}", name, w.k,
         w.group);
  const std::int64_t groups = w.k / w.group;
  expect(w.codes, DType::kU8, {w.n, w.k / 2}, name, "codes");
  expect(w.scales, DType::kF16, {w.n, groups}, name, "scales");
  expect(w.zero_points, DType::kU8, {w.n, (groups + 1) / 2}, name, "zero points");
  const auto scales = w.scales.as<std::uint16_t>();
  const auto bad =
      std::ranges::find_if(scales, [](std::uint16_t s) { return (s & 0x7c00) == 0x7c00; });
  if (bad != scales.end())
    fail(ErrorCode::kFormat, "[weight] {}: the scale of row {}, group {} is not finite", name,
         (bad - scales.begin()) / groups, (bad - scales.begin()) % groups);
}

void validate_parts(const Int8Channels& w, const std::string& name) {
  expect_dimensions(w.n, w.k, name);
  expect(w.codes, DType::kI8, {w.n, w.k}, name, "codes");
  const bool per_tensor = w.scales.shape() == Shape{1};
  expect(w.scales, DType::kF32, {per_tensor ? 1 : w.n}, name, "scales");
  const auto codes = w.codes.as<std::int8_t>();
  if (std::ranges::min(codes) < -127)
    fail(ErrorCode::kFormat, "[weight] {}: expected codes in [-127, 127], got -128", name);
  const auto scales = w.scales.as<float>();
  const auto bad = std::ranges::find_if(scales, [](float s) { return !std::isfinite(s) || s < 0; });
  if (bad != scales.end())
    fail(ErrorCode::kFormat, "[weight] {}: scale {}: expected a finite number from 0 up, got {}",
         name, bad - scales.begin(), *bad);
  if (!std::isfinite(w.input_scale) || w.input_scale < 0)
    fail(ErrorCode::kFormat, "[weight] {}: input scale: expected a finite number from 0 up, got {}",
         name, w.input_scale);
}

void dequantize(const FloatWeight& w, std::int64_t begin, std::span<float> out) {
  w.values.copy_floats(begin * w.values.dim(1), out);
}

void dequantize(const Int4Groups& w, std::int64_t begin, std::span<float> out) {
  const std::int64_t groups = w.k / w.group;
  const auto codes = w.codes.as<std::uint8_t>();
  const auto zeros = w.zero_points.as<std::uint8_t>();
  const auto scales = w.scales.as<std::uint16_t>();
  // Value `i` of a packed row: two a byte, the lower index in the low nibble.
  const auto nibble = [](std::span<const std::uint8_t> row, std::int64_t i) {
    return (row[static_cast<std::size_t>(i / 2)] >> (i % 2 * 4)) & 15;
  };
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::int64_t row = begin + static_cast<std::int64_t>(i) / w.k;
    const std::int64_t column = static_cast<std::int64_t>(i) % w.k;
    const std::int64_t g = column / w.group;
    const int code = nibble(codes.subspan(static_cast<std::size_t>(row * (w.k / 2))), column);
    const int zero = nibble(zeros.subspan(static_cast<std::size_t>(row * ((groups + 1) / 2))), g);
    out[i] = static_cast<float>(code - zero) *
             f16_to_float(scales[static_cast<std::size_t>(row * groups + g)]);
  }
}

void dequantize(const Int8Channels& w, std::int64_t begin, std::span<float> out) {
  const auto codes = w.codes.as<std::int8_t>().subspan(static_cast<std::size_t>(begin * w.k));
  const auto scales = w.scales.as<float>();
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto row = static_cast<std::size_t>(begin) + i / static_cast<std::size_t>(w.k);
    out[i] = static_cast<float>(codes[i]) * scales[scales.size() == 1 ? 0 : row];
  }
}

// The weight whose tensors are `pick` of this one's: rows of every part with one row per output
// channel.
template <typename Pick>
Weight pick_rows(const Weight& weight, std::int64_t count, const Pick& pick) {
  return std::visit(
      Overload{[&](const FloatWeight& w) -> Weight { return FloatWeight{pick(w.values)}; },
               [&](const Int4Groups& w) -> Weight {
                 return Int4Groups{
                     count, w.k, w.group, pick(w.codes), pick(w.scales), pick(w.zero_points)};
               },
               [&](const Int8Channels& w) -> Weight {
                 const bool per_tensor = w.scales.elements() == 1;
                 return Int8Channels{count, w.k, pick(w.codes),
                                     per_tensor ? w.scales : pick(w.scales), w.input_scale};
               }},
      weight);
}

}  // namespace

std::int64_t output_channels(const Weight& weight) {
  return std::visit(Overload{[](const FloatWeight& w) { return w.values.dim(0); },
                             [](const auto& w) { return w.n; }},
                    weight);
}

std::int64_t input_channels(const Weight& weight) {
  return std::visit(Overload{[](const FloatWeight& w) { return w.values.dim(1); },
                             [](const auto& w) { return w.k; }},
                    weight);
}

std::int64_t stored_bytes(const Weight& weight) {
  const auto size = [](const Tensor& t) { return static_cast<std::int64_t>(t.bytes().size()); };
  return std::visit(Overload{[&](const FloatWeight& w) { return size(w.values); },
                             [&](const Int4Groups& w) {
                               return size(w.codes) + size(w.scales) + size(w.zero_points);
                             },
                             [&](const Int8Channels& w) { return size(w.codes) + size(w.scales); }},
                    weight);
}

std::string describe(const Weight& weight) {
  const std::string kind =
      std::visit(Overload{[](const FloatWeight& w) {
                            std::string name(to_string(w.values.dtype()));
                            std::ranges::transform(name, name.begin(), [](char c) {
                              return c >= 'A' && c <= 'Z' ? char(c + 32) : c;
                            });
                            return name;
                          },
                          [](const Int4Groups& w) { return fmt::format("int4 g{}", w.group); },
                          [](const Int8Channels& w) {
                            return std::string(
                                w.scales.elements() == 1 && w.n != 1 ? "int8 per tensor" : "int8");
                          }},
                 weight);
  return fmt::format("{} [{}, {}]", kind, output_channels(weight), input_channels(weight));
}

Weight slice_rows(const Weight& weight, std::int64_t begin, std::int64_t count) {
  return pick_rows(weight, count, [&](const Tensor& part) { return part.rows(begin, count); });
}

Weight gather_rows(const Weight& weight, std::span<const std::int64_t> rows) {
  return pick_rows(weight, static_cast<std::int64_t>(rows.size()),
                   [&](const Tensor& part) { return part.gather_rows(rows); });
}

std::vector<float> dequantize_rows(const Weight& weight, std::int64_t begin, std::int64_t rows) {
  const std::int64_t n = output_channels(weight);
  if (begin < 0 || rows < 0 || begin > n || rows > n - begin)
    fail(ErrorCode::kInvalidArgument, "[weight] {} rows from {} on: {} does not have them", rows,
         begin, describe(weight));
  std::vector<float> values(static_cast<std::size_t>(rows * input_channels(weight)));
  std::visit([&](const auto& w) { dequantize(w, begin, values); }, weight);
  return values;
}

void validate(const Weight& weight, const std::string& name) {
  std::visit([&](const auto& w) { validate_parts(w, name); }, weight);
}

}  // namespace tandem
