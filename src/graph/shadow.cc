// Reads a weight some rows at a time and keeps a few of its columns, transposed.
#include "graph/shadow.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "tensor/half.h"

namespace tandem {
namespace {

constexpr std::int64_t kRowsAtOnce = 64;

Tensor to_tensor(std::span<const float> values, Shape shape) {
  const bool fits =
      std::ranges::all_of(values, [](float value) { return std::abs(value) <= kLargestF16; });
  if (!fits) return Tensor::from_floats(values, std::move(shape));
  std::byte* data = nullptr;
  Tensor tensor = Tensor::allocate(DType::kF16, std::move(shape), &data);
  encode_floats(values, DType::kF16, data);
  return tensor;
}

}  // namespace

ShadowLinearAttributes make_shadow(const Weight& weight, std::span<const std::int32_t> channels) {
  const std::int64_t n = output_channels(weight);
  const std::int64_t k = input_channels(weight);
  const auto hot = static_cast<std::int64_t>(channels.size());
  std::vector<float> kept(static_cast<std::size_t>(hot * n));
  std::vector<float> rows;
  for (std::int64_t begin = 0; begin < n; begin += kRowsAtOnce) {
    const std::int64_t count = std::min(kRowsAtOnce, n - begin);
    rows.resize(static_cast<std::size_t>(count * k));
    dequantize_rows(weight, begin, rows);
    for (std::int64_t row = 0; row < count; ++row)
      for (std::size_t h = 0; h < channels.size(); ++h)
        kept[h * static_cast<std::size_t>(n) + static_cast<std::size_t>(begin + row)] =
            rows[static_cast<std::size_t>(row * k + channels[h])];
  }
  std::byte* numbers = nullptr;
  ShadowLinearAttributes shadow;
  shadow.channels = Tensor::allocate(DType::kI32, {hot}, &numbers);
  std::ranges::copy(channels, reinterpret_cast<std::int32_t*>(numbers));
  shadow.weight = to_tensor(kept, {hot, n});
  return shadow;
}

ShadowLinearAttributes make_whole_shadow(const ChannelCodes& weight) {
  std::vector<std::int32_t> all(static_cast<std::size_t>(weight.k));
  std::iota(all.begin(), all.end(), 0);
  return make_shadow(weight, all);
}

}  // namespace tandem
