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

// Int4 in blocks: of a row, or of a block alone as if it were one.
void quantize_blocks(std::span<float> weights, std::int64_t block, std::span<std::int8_t> codes,
                     std::vector<std::uint8_t>& block_scales) {
  const auto size = static_cast<std::size_t>(block);
  block_scales.resize(weights.size() / size);
  const float scale = quantize_row_blocks(weights, block, codes, block_scales);
  for (std::size_t i = 0; i < weights.size(); ++i)
    weights[i] = static_cast<float>(codes[i] * int{block_scales[i / size]}) * scale;
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
  const std::span<std::int8_t> signed_codes(reinterpret_cast<std::int8_t*>(codes.data()),
                                            codes.size());
  if (has_blocks(scheme_)) {
    std::vector<std::uint8_t> block_scale;
    quantize_blocks(weights, group_, signed_codes, block_scale);
    return;
  }
  if (scheme_.activations != ActivationType::kFloat) {
    quantize_row(weights);
    return;
  }
  const DType dtype = scheme_.scales;
  round_all(dtype, weights);
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
    if (has_blocks(scheme_)) {
      std::vector<std::int8_t> row_codes(static_cast<std::size_t>(columns));
      std::vector<std::uint8_t> block_scales;
      for (std::size_t at = 0; at < out.size(); at += row_codes.size())
        quantize_blocks(out.subspan(at, row_codes.size()), group_, row_codes, block_scales);
      return;
    }
    for (std::size_t at = 0; at < out.size(); at += codes.size())
      quantize_group(out.subspan(at, codes.size()), codes);
  });
  return values;
}

}  // namespace tandem
