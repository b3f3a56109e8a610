// Packing weights into panels. Each loop fills a few KiB of the panel from all of its 64 rows, so
// that the strided side stays in the L1 cache.
#include "kernels/panels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "tensor/half.h"

namespace tandem {

namespace {

// [k][64] of T, from row-major [n, k].
template <typename T>
void pack_float_panel(const T* values, std::int64_t k, std::int64_t columns, std::byte* out) {
  constexpr std::int64_t kStep = 16;
  T* panel = reinterpret_cast<T*>(out);
  for (std::int64_t begin = 0; begin < k; begin += kStep) {
    const std::int64_t end = std::min(begin + kStep, k);
    if (columns < kPanelColumns)
      std::memset(panel + begin * kPanelColumns, 0,
                  static_cast<std::size_t>((end - begin) * kPanelColumns) * sizeof(T));
    for (std::int64_t c = 0; c < columns; ++c)
      for (std::int64_t i = begin; i < end; ++i) panel[i * kPanelColumns + c] = values[c * k + i];
  }
}

// Packs the values of a weight whose rows are not in memory as they are, computing them for one
// panel.
void pack_computed_panel(const Weight& weight, PanelKind kind, std::int64_t first,
                         std::int64_t columns, std::byte* out) {
  const std::int64_t k = input_channels(weight);
  const std::vector<float> values = dequantize_rows(weight, first, columns);
  if (kind == PanelKind::kF32) return pack_float_panel(values.data(), k, columns, out);
  std::vector<std::uint16_t> halves(values.size());
  std::ranges::transform(values, halves.begin(),
                         kind == PanelKind::kF16 ? float_to_f16 : float_to_bf16);
  pack_float_panel(halves.data(), k, columns, out);
}

void pack_panel(const FloatWeight& weight, PanelKind kind, std::int64_t first, std::int64_t columns,
                std::byte* out) {
  const Tensor* stored = weight.rows->stored();
  const std::int64_t k = weight.rows->columns();
  if (stored == nullptr) return pack_computed_panel(weight, kind, first, columns, out);
  if (kind == PanelKind::kF32)
    pack_float_panel(stored->as<float>().data() + first * k, k, columns, out);
  else
    pack_float_panel(stored->as<std::uint16_t>().data() + first * k, k, columns, out);
}

void pack_panel(const ChannelCodes& weight, PanelKind kind, std::int64_t first,
                std::int64_t columns, std::byte* out) {
  if (kind != PanelKind::kInt8) return pack_computed_panel(weight, kind, first, columns, out);
  constexpr std::int64_t kStep = 64;
  const std::int64_t k = weight.k;
  std::int8_t row[kStep];
  auto* panel = reinterpret_cast<std::uint8_t*>(out);
  for (std::int64_t begin = 0; begin < padded_k(k); begin += kStep) {
    std::uint8_t* block = panel + begin / kInt8StepK * kStepBytes;
    std::memset(block, kInt8Offset, static_cast<std::size_t>(kStep / kInt8StepK * kStepBytes));
    const std::int64_t count = std::min(kStep, k - begin);
    for (std::int64_t c = 0; c < columns; ++c) {
      read_codes(weight, first + c, begin, {row, static_cast<std::size_t>(count)});
      for (std::int64_t i = 0; i < count; ++i)
        block[i / kInt8StepK * kStepBytes + c * kInt8StepK + i % kInt8StepK] =
            static_cast<std::uint8_t>(static_cast<int>(row[i]) + kInt8Offset);
    }
  }
  const auto given = weight.scales.as<float>();
  float scales[kPanelColumns] = {};
  for (std::int64_t c = 0; c < columns; ++c)
    scales[c] = given.size() == 1 ? given[0] : given[static_cast<std::size_t>(first + c)];
  static_assert(sizeof(scales) == kInt8ScaleBytes);
  std::memcpy(panel + int8_code_bytes(k), scales, sizeof(scales));
}

// The group size of int4 panels; 0 if they can't hold the weight.
std::int64_t int4_group(const GroupCodes& weight) {
  if (weight.bits != 4) return 0;
  for (const std::int64_t group : {128, 64, 32})
    if (weight.group % group == 0) return group;
  return 0;
}

// Of rows [first, first + rows).
std::vector<std::uint16_t> f16_scales(const GroupCodes& weight, std::int64_t first,
                                      std::int64_t rows) {
  const std::int64_t groups = weight.groups();
  std::vector<float> scales(static_cast<std::size_t>(rows * groups));
  weight.scales.copy_floats(first * groups, scales);
  std::vector<std::uint16_t> halves(scales.size());
  std::ranges::transform(scales, halves.begin(), float_to_f16);
  return halves;
}

// Two's complement becomes offset binary, for codes and zero points alike; missing zero points
// become 8.
void pack_int4_panel(const GroupCodes& weight, std::int64_t first, std::int64_t columns,
                     std::byte* out) {
  constexpr std::uint8_t kMiddle = 8;
  const std::int64_t groups = weight.groups();
  const std::int64_t group = int4_group(weight);
  const std::int64_t steps = group / kInt4StepK;
  const std::int64_t row_bytes = weight.k / 2;
  const std::int64_t zero_bytes = (groups + 1) / 2;
  const auto flip = static_cast<std::uint8_t>(weight.is_signed ? kMiddle | kMiddle << 4 : 0);
  const std::uint8_t* codes = weight.codes.as<std::uint8_t>().data() + first * row_bytes;
  const std::vector<std::uint16_t> scales = f16_scales(weight, first, columns);
  const std::uint8_t* zeros = weight.zero_points.as<std::uint8_t>().data();
  auto* panel = reinterpret_cast<std::uint8_t*>(out);
  for (std::int64_t begin = 0; begin < weight.k; begin += group, panel += int4_group_bytes(group)) {
    const std::int64_t g = begin / weight.group;
    std::uint8_t* end = panel + int4_code_bytes(group);
    std::memset(panel, 0, static_cast<std::size_t>(int4_group_bytes(group)));
    for (std::int64_t c = 0; c < columns; ++c) {
      const std::uint8_t* source = codes + c * row_bytes + begin / 2;
      for (std::int64_t i = 0; i < steps; ++i, source += 4) {
        std::uint8_t* step = panel + i * kStepBytes + c * 4;
        step[0] = static_cast<std::uint8_t>(((source[0] & 15) | (source[2] << 4)) ^ flip);
        step[1] = static_cast<std::uint8_t>(((source[0] >> 4) | (source[2] & 0xF0)) ^ flip);
        step[2] = static_cast<std::uint8_t>(((source[1] & 15) | (source[3] << 4)) ^ flip);
        step[3] = static_cast<std::uint8_t>(((source[1] >> 4) | (source[3] & 0xF0)) ^ flip);
      }
      std::memcpy(int4_scales(end) + 2 * c, &scales[static_cast<std::size_t>(c * groups + g)], 2);
      std::uint8_t zero = kMiddle;
      if (zeros != nullptr) {
        const int pair = zeros[(first + c) * zero_bytes + g / 2] ^ flip;
        zero = static_cast<std::uint8_t>(g % 2 == 0 ? pair & 15 : pair >> 4);
      }
      int4_zeros(end)[c] = zero;
    }
  }
}

void pack_panel(const GroupCodes& weight, PanelKind kind, std::int64_t first, std::int64_t columns,
                std::byte* out) {
  if (kind == PanelKind::kInt4) return pack_int4_panel(weight, first, columns, out);
  pack_computed_panel(weight, kind, first, columns, out);
}

PanelKind panel_kind(const FloatWeight& weight) {
  switch (weight.rows->dtype()) {
    case DType::kF16:
      return PanelKind::kF16;
    case DType::kBF16:
      return PanelKind::kBF16;
    default:
      return PanelKind::kF32;
  }
}

// True if F16 has every scale, or with `times` the largest value behind it, without becoming 0 or
// infinite.
bool fit_f16(const GroupCodes& weight, float times) {
  const auto fits = [&](float scale) {
    const bool vanishes = scale != 0 && f16_to_float(float_to_f16(scale)) == 0;
    return !vanishes && std::isfinite(f16_to_float(float_to_f16(scale * times)));
  };
  return std::ranges::all_of(weight.scales.to_floats(), fits);
}

PanelKind panel_kind(const GroupCodes& weight) {
  if (int4_group(weight) > 0)
    return weight.scales.dtype() == DType::kF16 || fit_f16(weight, 1) ? PanelKind::kInt4
                                                                      : PanelKind::kF32;
  return fit_f16(weight, weight.bits == 4 ? 15 : 255) ? PanelKind::kF16 : PanelKind::kF32;
}

PanelKind panel_kind(const ChannelCodes&) { return PanelKind::kInt8; }

}  // namespace

std::int64_t PanelLayout::panel_bytes() const noexcept {
  switch (kind) {
    case PanelKind::kF32:
      return k * kPanelColumns * 4;
    case PanelKind::kF16:
    case PanelKind::kBF16:
      return k * kPanelColumns * 2;
    case PanelKind::kInt8:
      return int8_code_bytes(k) + kInt8ScaleBytes;
    case PanelKind::kInt4:
      return k / group * int4_group_bytes(group);
  }
  return 0;
}

PanelLayout panel_layout(const Weight& weight) {
  PanelLayout layout;
  layout.kind = std::visit([](const auto& w) { return panel_kind(w); }, weight);
  layout.n = output_channels(weight);
  layout.k = input_channels(weight);
  if (layout.kind == PanelKind::kInt4) layout.group = int4_group(std::get<GroupCodes>(weight));
  return layout;
}

void pack_panels(const Weight& weight, const PanelLayout& layout, Range range, std::byte* out) {
  for (std::int64_t p = range.begin; p < range.end; ++p) {
    const std::int64_t first = p * kPanelColumns;
    const std::int64_t columns = std::min(kPanelColumns, layout.n - first);
    std::byte* panel = out + p * layout.panel_bytes();
    std::visit([&](const auto& w) { pack_panel(w, layout.kind, first, columns, panel); }, weight);
  }
}

}  // namespace tandem
