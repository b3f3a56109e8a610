// Codes of one group at a time, and back.
#include "quantize/fake_quantize.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "quantize/rtn.h"
#include "tensor/half.h"

namespace tandem {
namespace {

// int8 with one float32 scale: 127 codes on each side (see quantize_channel_codes()).
void quantize_row(std::span<float> weights) {
  float largest = 0;
  for (const float w : weights) largest = std::max(largest, std::abs(w));
  const float scale = largest > 0 ? largest / 127.0F : 1.0F;
  for (float& w : weights) w = std::clamp(std::nearbyint(w / scale), -127.0F, 127.0F) * scale;
}

}  // namespace

FakeQuantizer::FakeQuantizer(const Scheme& scheme, std::int64_t columns)
    : scheme_(scheme), group_(scheme.group > 0 ? scheme.group : columns) {
  if (columns % group_ != 0)
    fail(ErrorCode::kInvalidArgument, "[quantize] K = {} is not a multiple of the group size {}",
         columns, group_);
}

void FakeQuantizer::quantize_group(std::span<float> weights, std::span<std::uint8_t> codes) const {
  if (scheme_.weights == WeightType::kFloat) return;
  if (scheme_.activations != ActivationType::kFloat) {
    quantize_row(weights);
    return;
  }
  const DType dtype = scheme_.scales;
  round_all(dtype, weights);
  const std::span<std::int8_t> signed_codes(reinterpret_cast<std::int8_t*>(codes.data()),
                                            codes.size());
  GroupCode group;
  switch (scheme_.weights) {
    case WeightType::kUint4:
      group = quantize_group_uint4(weights, dtype, codes);
      break;
    case WeightType::kUint8:
      group = quantize_group_uint8(weights, dtype, codes);
      break;
    case WeightType::kInt4:
      group = quantize_group_int4_symmetric(weights, dtype, signed_codes);
      break;
    default:
      group = quantize_group_int8_symmetric(weights, dtype, signed_codes);
      break;
  }
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const int code =
        is_signed(scheme_.weights) ? int{signed_codes[i]} : int{codes[i]} - group.zero_point;
    weights[i] = static_cast<float>(code) * group.scale;
  }
  round_all(dtype, weights);
}

std::vector<float> FakeQuantizer::quantize_rows(const RowSource& rows, ThreadPool& pool) const {
  const std::int64_t columns = rows.columns();
  std::vector<float> values(static_cast<std::size_t>(rows.rows() * columns));
  if (scheme_.group == kWholeTensor) {
    rows.read(0, values);
    std::vector<std::uint8_t> codes(values.size());
    quantize_group(values, codes);
    return values;
  }
  pool.parallel_for(rows.rows(), 1, [&](Range range) {
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(group_));
    const std::span<float> out =
        std::span(values).subspan(static_cast<std::size_t>(range.begin * columns),
                                  static_cast<std::size_t>(range.size() * columns));
    rows.read(range.begin, out);
    for (std::size_t at = 0; at < out.size(); at += codes.size())
      quantize_group(out.subspan(at, codes.size()), codes);
  });
  return values;
}

}  // namespace tandem
