// Packing of weights into panels. Each loop fills a few KiB of the panel from all of its 64 rows,
// so that the strided side stays in the first-level cache.
#include "kernels/panels.h"

#include <algorithm>
#include <cstring>

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

void pack_int8_panel(const Int8Channels& weight, std::int64_t first, std::int64_t columns,
                     std::byte* out) {
  constexpr std::int64_t kStep = 64;
  const std::int64_t k = weight.k;
  const std::int8_t* codes = weight.codes.as<std::int8_t>().data() + first * k;
  auto* panel = reinterpret_cast<std::uint8_t*>(out);
  const std::int64_t padded = padded_k(k);
  for (std::int64_t begin = 0; begin < padded; begin += kStep) {
    std::uint8_t* block = panel + begin * kPanelColumns;
    std::memset(block, 128, static_cast<std::size_t>(kStep * kPanelColumns));
    const std::int64_t count = std::min(kStep, k - begin);
    for (std::int64_t c = 0; c < columns; ++c) {
      const std::int8_t* row = codes + c * k + begin;
      for (std::int64_t i = 0; i < count; ++i)
        block[i / 4 * (4 * kPanelColumns) + c * 4 + i % 4] =
            static_cast<std::uint8_t>(static_cast<int>(row[i]) + 128);
    }
  }
  const auto given = weight.scales.as<float>();
  float scales[kPanelColumns] = {};
  for (std::int64_t c = 0; c < columns; ++c)
    scales[c] = given.size() == 1 ? given[0] : given[static_cast<std::size_t>(first + c)];
  std::memcpy(panel + padded * kPanelColumns, scales, sizeof(scales));
}

void pack_int4_panel(const Int4Groups& weight, std::int64_t first, std::int64_t columns,
                     std::byte* out) {
  const std::int64_t groups = weight.k / weight.group;
  const std::int64_t steps = weight.group / 8;
  const std::int64_t code_bytes = weight.k / 2;
  const std::int64_t zero_bytes = (groups + 1) / 2;
  const std::uint8_t* codes = weight.codes.as<std::uint8_t>().data() + first * code_bytes;
  const std::uint16_t* scales = weight.scales.as<std::uint16_t>().data() + first * groups;
  const std::uint8_t* zeros = weight.zero_points.as<std::uint8_t>().data() + first * zero_bytes;
  auto* panel = reinterpret_cast<std::uint8_t*>(out);
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::int64_t group_bytes = steps * 4 * kPanelColumns;
    std::memset(panel, 0, static_cast<std::size_t>(group_bytes + 3 * kPanelColumns));
    for (std::int64_t c = 0; c < columns; ++c) {
      const std::uint8_t* source = codes + c * code_bytes + g * weight.group / 2;
      for (std::int64_t i = 0; i < steps; ++i, source += 4) {
        std::uint8_t* step = panel + i * 4 * kPanelColumns + c * 4;
        step[0] = static_cast<std::uint8_t>((source[0] & 15) | (source[2] << 4));
        step[1] = static_cast<std::uint8_t>((source[0] >> 4) | (source[2] & 0xF0));
        step[2] = static_cast<std::uint8_t>((source[1] & 15) | (source[3] << 4));
        step[3] = static_cast<std::uint8_t>((source[1] >> 4) | (source[3] & 0xF0));
      }
      const std::uint8_t pair = zeros[c * zero_bytes + g / 2];
      std::memcpy(panel + group_bytes + 2 * c, scales + c * groups + g, 2);
      panel[group_bytes + 2 * kPanelColumns + c] =
          static_cast<std::uint8_t>(g % 2 == 0 ? pair & 15 : pair >> 4);
    }
    panel += group_bytes + 3 * kPanelColumns;
  }
}

}  // namespace

std::int64_t PanelLayout::panel_bytes() const noexcept {
  switch (kind) {
    case PanelKind::kF32:
      return k * kPanelColumns * 4;
    case PanelKind::kF16:
    case PanelKind::kBF16:
      return k * kPanelColumns * 2;
    case PanelKind::kInt8:
      return padded_k(k) * kPanelColumns + kPanelColumns * 4;
    case PanelKind::kInt4:
      return k / group * (group / 2 * kPanelColumns + 3 * kPanelColumns);
  }
  return 0;
}

PanelLayout panel_layout(const Weight& weight) {
  PanelLayout layout;
  layout.n = output_channels(weight);
  layout.k = input_channels(weight);
  if (const auto* real = std::get_if<FloatWeight>(&weight)) {
    layout.kind = real->values.dtype() == DType::kF16    ? PanelKind::kF16
                  : real->values.dtype() == DType::kBF16 ? PanelKind::kBF16
                                                         : PanelKind::kF32;
  } else if (const auto* int4 = std::get_if<Int4Groups>(&weight)) {
    layout.kind = PanelKind::kInt4;
    layout.group = int4->group;
  } else {
    layout.kind = PanelKind::kInt8;
  }
  return layout;
}

void pack_panels(const Weight& weight, const PanelLayout& layout, Range range, std::byte* out) {
  for (std::int64_t p = range.begin; p < range.end; ++p) {
    const std::int64_t first = p * kPanelColumns;
    const std::int64_t columns = std::min(kPanelColumns, layout.n - first);
    std::byte* panel = out + p * layout.panel_bytes();
    if (const auto* real = std::get_if<FloatWeight>(&weight)) {
      if (layout.kind == PanelKind::kF32)
        pack_float_panel(real->values.as<float>().data() + first * layout.k, layout.k, columns,
                         panel);
      else
        pack_float_panel(real->values.as<std::uint16_t>().data() + first * layout.k, layout.k,
                         columns, panel);
    } else if (const auto* int4 = std::get_if<Int4Groups>(&weight)) {
      pack_int4_panel(*int4, first, columns, panel);
    } else {
      pack_int8_panel(std::get<Int8Channels>(weight), first, columns, panel);
    }
  }
}

}  // namespace tandem
