// Weights of Linears: sizes, checks and dequantization.
#include "tensor/weight.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "base/error.h"
#include "tensor/packed_codes.h"

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

// Calls reject(index, value) for the first scale that `accept` rejects.
template <typename Accept, typename Reject>
void check_scales(const Tensor& scales, Accept&& accept, Reject&& reject) {
  std::array<float, 256> buffer;
  const std::int64_t count = scales.elements();
  for (std::int64_t begin = 0; begin < count; begin += std::ssize(buffer)) {
    const auto size = std::min<std::int64_t>(std::ssize(buffer), count - begin);
    const std::span<float> values(buffer.data(), static_cast<std::size_t>(size));
    scales.copy_floats(begin, values);
    const auto bad = std::ranges::find_if_not(values, accept);
    if (bad != values.end()) reject(begin + (bad - values.begin()), *bad);
  }
}

void validate_parts(const FloatWeight& w, const std::string& name) {
  if (w.rows == nullptr) fail(ErrorCode::kFormat, "[weight] {}: values are missing", name);
  expect_dimensions(w.rows->rows(), w.rows->columns(), name);
}

void validate_parts(const GroupCodes& w, const std::string& name) {
  expect_dimensions(w.n, w.k, name);
  if (w.bits != 4 && w.bits != 8)
    fail(ErrorCode::kFormat, "[weight] {}: expected codes of 4 or 8 bits, got {}", name, w.bits);
  if (w.group < 1 || w.group > w.k)
    fail(ErrorCode::kFormat, "[weight] {}: group: expected 1 to k = {}, got {}", name, w.k,
         w.group);
  if (w.k % w.group != 0)
    fail(ErrorCode::kFormat, "[weight] {}: k = {} is not a multiple of the group {}", name, w.k,
         w.group);
  expect(w.codes, w.bits == 8 && w.is_signed ? DType::kI8 : DType::kU8,
         {w.n, packed_bytes(w.k, w.bits)}, name, "codes");
  const DType dtype = w.scales.dtype();
  if (!w.scales.empty() && dtype != DType::kF16 && dtype != DType::kBF16 && dtype != DType::kF32)
    fail(ErrorCode::kFormat, "[weight] {}: scales: expected F16, BF16 or F32 {}, got {} {}", name,
         to_string(Shape{w.n, w.groups()}), to_string(dtype), to_string(w.scales.shape()));
  expect(w.scales, dtype, {w.n, w.groups()}, name, "scales");
  if (!w.zero_points.empty())
    expect(w.zero_points, DType::kU8, {w.n, packed_bytes(w.groups(), w.bits)}, name, "zero points");
  check_scales(
      w.scales, [](float s) { return std::isfinite(s); },
      [&](std::int64_t i, float) {
        fail(ErrorCode::kFormat, "[weight] {}: the scale of row {}, group {} is not finite", name,
             i / w.groups(), i % w.groups());
      });
}

// The parts of int4 codes in blocks.
void validate_blocks(const ChannelCodes& w, const std::string& name) {
  const Shape& shape = w.block_scales.shape();
  const std::int64_t blocks = shape.size() == 2 ? shape[1] : 0;
  if (blocks < 1 || w.k % blocks != 0 || !is_block_size(w.k / blocks))
    fail(ErrorCode::kFormat,
         "[weight] {}: block scales: expected one for every 16, 32 or 64 of k = {} columns, got {}",
         name, w.k, to_string(shape));
  expect(w.block_scales, DType::kU8, {w.n, blocks}, name, "block scales");
  expect(w.codes, DType::kU8, {w.n, packed_bytes(w.k, 4)}, name, "codes");
  const auto scales = w.block_scales.as<std::uint8_t>();
  const auto bad = std::ranges::find_if(scales, [](int s) { return s < 1 || s > kMaxBlockScale; });
  if (bad == scales.end()) return;
  const std::int64_t at = bad - scales.begin();
  fail(ErrorCode::kFormat, "[weight] {}: the scale of row {}, block {}: expected 1 to {}, got {}",
       name, at / blocks, at % blocks, kMaxBlockScale, int{*bad});
}

void validate_parts(const ChannelCodes& w, const std::string& name) {
  expect_dimensions(w.n, w.k, name);
  if (w.block_scales.empty()) {
    expect(w.codes, DType::kI8, {w.n, w.k}, name, "codes");
  } else {
    validate_blocks(w, name);
  }
  const bool per_tensor = w.scales.shape() == Shape{1};
  expect(w.scales, DType::kF32, {per_tensor ? 1 : w.n}, name, "scales");
  check_scales(
      w.scales, [](float s) { return std::isfinite(s) && s >= 0; },
      [&](std::int64_t i, float scale) {
        fail(ErrorCode::kFormat,
             "[weight] {}: scale {}: expected a finite number from 0 up, got {}", name, i, scale);
      });
}

// Value `i` of packed codes or zero points.
int packed_value(const GroupCodes& w, const std::byte* row, std::int64_t i) {
  const int code = packed_code(row, w.bits, i);
  const int sign = 1 << (w.bits - 1);
  return w.is_signed ? (code ^ sign) - sign : code;
}

void dequantize(const FloatWeight& w, std::int64_t begin, std::span<float> out) {
  w.rows->read(begin, out);
}

void dequantize(const GroupCodes& w, std::int64_t begin, std::span<float> out) {
  const std::int64_t groups = w.groups();
  const std::byte* codes = w.codes.bytes().data();
  const std::byte* zeros = w.zero_points.bytes().data();
  std::vector<float> scales(static_cast<std::size_t>(groups));
  const std::int64_t end = begin + static_cast<std::int64_t>(out.size()) / w.k;
  float* to = out.data();
  for (std::int64_t row = begin; row < end; ++row) {
    w.scales.copy_floats(row * groups, scales);
    const std::byte* row_codes = codes + row * packed_bytes(w.k, w.bits);
    for (std::int64_t g = 0; g < groups; ++g) {
      int zero = w.is_signed ? 0 : 1 << (w.bits - 1);
      if (zeros != nullptr) zero = packed_value(w, zeros + row * packed_bytes(groups, w.bits), g);
      const float scale = scales[static_cast<std::size_t>(g)];
      for (std::int64_t c = g * w.group; c < (g + 1) * w.group; ++c)
        *to++ = static_cast<float>(packed_value(w, row_codes, c) - zero) * scale;
    }
  }
}

void dequantize(const ChannelCodes& w, std::int64_t begin, std::span<float> out) {
  const auto k = static_cast<std::size_t>(w.k);
  const auto scales = w.scales.as<float>();
  std::vector<std::int8_t> codes(k);
  for (std::size_t first = 0; first < out.size(); first += k) {
    const std::int64_t row = begin + static_cast<std::int64_t>(first / k);
    read_codes(w, row, 0, codes);
    const float scale = scales[scales.size() == 1 ? 0 : static_cast<std::size_t>(row)];
    for (std::size_t c = 0; c < k; ++c) out[first + c] = static_cast<float>(codes[c]) * scale;
  }
}

// The quantized weight whose tensors are `pick` of this one's: rows of every part that has one row
// per output channel.
template <typename Pick>
Weight pick_rows(GroupCodes w, std::int64_t count, const Pick& pick) {
  w.n = count;
  w.codes = pick(w.codes);
  w.scales = pick(w.scales);
  if (!w.zero_points.empty()) w.zero_points = pick(w.zero_points);
  return w;
}

template <typename Pick>
Weight pick_rows(ChannelCodes w, std::int64_t count, const Pick& pick) {
  w.n = count;
  w.codes = pick(w.codes);
  if (w.scales.elements() != 1) w.scales = pick(w.scales);
  if (!w.block_scales.empty()) w.block_scales = pick(w.block_scales);
  return w;
}

std::string kind_of(const FloatWeight& w) {
  std::string name(to_string(w.rows->dtype()));
  std::ranges::transform(name, name.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
  return name;
}

std::string kind_of(const GroupCodes& w) {
  const char* note = w.zero_points.empty() ? " symmetric" : w.is_signed ? " signed" : "";
  return fmt::format("int{} g{}{}", w.bits, w.group, note);
}

std::string kind_of(const ChannelCodes& w) {
  if (!w.block_scales.empty()) return fmt::format("int4 block {}", w.block());
  return w.scales.elements() == 1 && w.n != 1 ? "int8 per tensor" : "int8";
}

// Whether their rows can be those of one weight.
bool has_form_of(const Weight& a, const Weight& b) {
  if (a.index() != b.index() || input_channels(a) != input_channels(b)) return false;
  if (const auto* x = std::get_if<GroupCodes>(&a)) {
    const auto& y = std::get<GroupCodes>(b);
    return x->bits == y.bits && x->is_signed == y.is_signed && x->group == y.group &&
           x->scales.dtype() == y.scales.dtype() && x->zero_points.empty() == y.zero_points.empty();
  }
  if (const auto* x = std::get_if<ChannelCodes>(&a)) {
    const auto& y = std::get<ChannelCodes>(b);
    return x->scales.elements() == x->n && y.scales.elements() == y.n && x->block() == y.block();
  }
  return true;
}

}  // namespace

std::int64_t output_channels(const Weight& weight) {
  return std::visit(
      Overload{[](const FloatWeight& w) { return w.rows == nullptr ? 0 : w.rows->rows(); },
               [](const auto& w) { return w.n; }},
      weight);
}

std::int64_t input_channels(const Weight& weight) {
  return std::visit(
      Overload{[](const FloatWeight& w) { return w.rows == nullptr ? 0 : w.rows->columns(); },
               [](const auto& w) { return w.k; }},
      weight);
}

std::int64_t stored_bytes(const Weight& weight) {
  const auto size = [](const Tensor& t) { return static_cast<std::int64_t>(t.bytes().size()); };
  return std::visit(
      Overload{
          [&](const FloatWeight& w) {
            return output_channels(w) * input_channels(w) *
                   static_cast<std::int64_t>(w.rows == nullptr ? 0 : size_of(w.rows->dtype()));
          },
          [&](const GroupCodes& w) { return size(w.codes) + size(w.scales) + size(w.zero_points); },
          [&](const ChannelCodes& w) {
            return size(w.codes) + size(w.scales) + size(w.block_scales);
          }},
      weight);
}

std::vector<Tensor> parts_of(const Weight& weight) {
  return std::visit(
      Overload{[](const FloatWeight& w) {
                 const Tensor* stored = w.rows == nullptr ? nullptr : w.rows->stored();
                 return stored == nullptr ? std::vector<Tensor>() : std::vector{*stored};
               },
               [](const GroupCodes& w) {
                 return w.zero_points.empty() ? std::vector{w.codes, w.scales}
                                              : std::vector{w.codes, w.scales, w.zero_points};
               },
               [](const ChannelCodes& w) {
                 return w.block_scales.empty() ? std::vector{w.codes, w.scales}
                                               : std::vector{w.codes, w.scales, w.block_scales};
               }},
      weight);
}

std::string describe(const Weight& weight) {
  const auto* floats = std::get_if<FloatWeight>(&weight);
  if (floats != nullptr && floats->rows == nullptr) return "no weight";
  return fmt::format("{} [{}, {}]", std::visit([](const auto& w) { return kind_of(w); }, weight),
                     output_channels(weight), input_channels(weight));
}

void read_codes(const ChannelCodes& weight, std::int64_t row, std::int64_t begin,
                std::span<std::int8_t> out) {
  const std::int64_t block = weight.block();
  if (block == 0) {
    std::copy_n(weight.codes.as<std::int8_t>().data() + row * weight.k + begin, out.size(),
                out.data());
    return;
  }
  const auto* codes = weight.codes.as<std::uint8_t>().data() + (row * weight.k + begin) / 2;
  const auto* scales = weight.block_scales.as<std::uint8_t>().data() + row * (weight.k / block);
  const auto signed_code = [](int nibble) { return (nibble ^ 8) - 8; };
  const std::int64_t end = begin + std::ssize(out);
  for (std::int8_t* to = out.data(); begin < end;) {
    const std::int64_t pairs = (std::min(end, (begin / block + 1) * block) - begin) / 2;
    const int scale = scales[begin / block];
    for (std::int64_t i = 0; i < pairs; ++i) {
      to[2 * i] = static_cast<std::int8_t>(signed_code(codes[i] & 15) * scale);
      to[2 * i + 1] = static_cast<std::int8_t>(signed_code(codes[i] >> 4) * scale);
    }
    to += 2 * pairs;
    codes += pairs;
    begin += 2 * pairs;
  }
}

Weight slice_rows(const Weight& weight, std::int64_t begin, std::int64_t count) {
  const auto pick = [&](const Tensor& part) { return part.rows(begin, count); };
  return std::visit(Overload{[&](const FloatWeight& w) -> Weight {
                               return FloatWeight(slice_rows(w.rows, begin, count));
                             },
                             [&](const auto& w) -> Weight { return pick_rows(w, count, pick); }},
                    weight);
}

Weight join_rows(std::span<const Weight> parts) {
  if (parts.empty()) fail(ErrorCode::kInvalidArgument, "[weight] expected weights, got none");
  const Weight& first = parts.front();
  std::int64_t n = 0;
  for (const Weight& part : parts) {
    n += output_channels(part);
    if (!has_form_of(part, first))
      fail(ErrorCode::kInvalidArgument, "[weight] {} and {}: expected one form", describe(first),
           describe(part));
  }
  if (std::holds_alternative<FloatWeight>(first)) {
    std::vector<Rows> rows;
    for (const Weight& part : parts) rows.push_back(std::get<FloatWeight>(part).rows);
    return FloatWeight(join_rows(std::move(rows)));
  }
  // Of each weight, the tensors that make it up.
  const auto join = [&](std::size_t tensor) {
    std::vector<Tensor> pieces;
    for (const Weight& part : parts) pieces.push_back(parts_of(part)[tensor]);
    return Tensor::join_rows(pieces);
  };
  Weight joined = first;
  std::visit(Overload{[](FloatWeight&) {},
                      [&](GroupCodes& w) {
                        w.n = n;
                        w.codes = join(0);
                        w.scales = join(1);
                        if (!w.zero_points.empty()) w.zero_points = join(2);
                      },
                      [&](ChannelCodes& w) {
                        w.n = n;
                        w.codes = join(0);
                        w.scales = join(1);
                        if (!w.block_scales.empty()) w.block_scales = join(2);
                      }},
             joined);
  return joined;
}

Weight gather_rows(const Weight& weight, std::span<const std::int64_t> rows) {
  const auto pick = [&](const Tensor& part) { return part.gather_rows(rows); };
  const auto count = static_cast<std::int64_t>(rows.size());
  return std::visit(Overload{[&](const FloatWeight& w) -> Weight {
                               return FloatWeight(gather_rows(
                                   w.rows, std::vector<std::int64_t>(rows.begin(), rows.end())));
                             },
                             [&](const auto& w) -> Weight { return pick_rows(w, count, pick); }},
                    weight);
}

std::vector<float> dequantize_rows(const Weight& weight, std::int64_t begin, std::int64_t rows) {
  const std::int64_t n = output_channels(weight);
  if (begin < 0 || rows < 0 || begin > n || rows > n - begin)
    fail(ErrorCode::kInvalidArgument, "[weight] {} rows from {} on: {} does not have them", rows,
         begin, describe(weight));
  std::vector<float> values(static_cast<std::size_t>(rows * input_channels(weight)));
  dequantize_rows(weight, begin, values);
  return values;
}

void dequantize_rows(const Weight& weight, std::int64_t begin, std::span<float> out) {
  const std::int64_t n = output_channels(weight);
  const std::int64_t k = std::max<std::int64_t>(1, input_channels(weight));
  const auto size = static_cast<std::int64_t>(out.size());
  if (size % k != 0 || begin < 0 || begin > n || size / k > n - begin)
    fail(ErrorCode::kInvalidArgument, "[weight] {} values from row {} on: {} does not have them",
         size, begin, describe(weight));
  if (size > 0) std::visit([&](const auto& w) { dequantize(w, begin, out); }, weight);
}

void validate(const Weight& weight, const std::string& name) {
  std::visit([&](const auto& w) { validate_parts(w, name); }, weight);
}

void validate_codes(const Weight& weight, const std::string& name) {
  const auto* channels = std::get_if<ChannelCodes>(&weight);
  if (channels == nullptr) return;
  const std::int64_t k = channels->k;
  if (channels->block() == 0) {
    const auto codes = channels->codes.as<std::int8_t>();
    // A minimum over everything vectorises; a search that stops at the first does not.
    if (codes.empty() || std::ranges::min(codes) >= -127) return;
    fail(ErrorCode::kFormat, "[weight] {}: row {}: expected codes in [-127, 127], got -128", name,
         (std::ranges::find(codes, std::int8_t{-128}) - codes.begin()) / k);
  }
  const auto pairs = channels->codes.as<std::uint8_t>();
  const auto bad = std::ranges::find_if(
      pairs, [](int pair) { return (pair & 0x0F) == 0x08 || (pair & 0xF0) == 0x80; });
  if (bad != pairs.end())
    fail(ErrorCode::kFormat, "[weight] {}: row {}: expected codes in [-{}, {}], got -8", name,
         (bad - pairs.begin()) * 2 / k, kMaxBlockCode, kMaxBlockCode);
}

}  // namespace tandem
