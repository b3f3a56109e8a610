// Float matrix products with AMX tiles, which multiply bfloat16 and sum in float32. A float is cut
// into bfloat16 parts of eight bits each, the first the largest: three for a float32, two for a
// float16, one for a bfloat16, without any loss. Of the products of parts, those that are less than
// a float32's last bit are left out: three are left for a bfloat16 weight, five for a float16. For
// a float32 there would be six, which gain nothing over AVX-512.
#include "kernels/kernels.h"
#include "kernels/panels.h"
#include "kernels/x86/amx_tiles.h"
#include "kernels/x86/layers.h"
#include "kernels/x86/unroll.h"

namespace tandem {

namespace {

constexpr std::int64_t kColumns = kPanelColumns;
// Of x, and of a weight at most.
constexpr int kParts = 3;
constexpr int kWeightParts = 2;
// A part of a matrix at a time, 770 KiB on the stack: the rows of x; k, two of which make a row of
// a weight tile; and panels, which share the parts of x.
constexpr std::int64_t kRows = 128;
constexpr std::int64_t kSteps = 256;
constexpr std::int64_t kPanels = 16;
constexpr std::int64_t kTileSteps = 32;
constexpr std::int64_t kBlockRows = 2 * kTileRows;

struct Scratch {
  // x: [parts][rows][k].
  alignas(64) std::uint16_t x[kParts][kRows][kSteps];
  // A panel: [parts][k / 2][64 columns][2].
  alignas(64) std::uint32_t w[kWeightParts][kSteps / 2][kColumns];
  // Sums: [panels][rows][64].
  alignas(64) float sums[kPanels][kRows][kColumns];
};

constexpr int parts_of(PanelKind kind) { return kind == PanelKind::kF16 ? 2 : 1; }

// The bits of the next part, in the upper half of each lane; `rest` becomes what remains. What is
// not finite has no remainder.
TANDEM_INLINE inline __m512i take_part(__m512& rest) {
  const __m512i part =
      _mm512_and_si512(_mm512_castps_si512(rest), _mm512_set1_epi32(static_cast<int>(0xffff0000U)));
  constexpr int kNotFinite = 0x99;
  const __mmask16 finite = static_cast<__mmask16>(~_mm512_fpclass_ps_mask(rest, kNotFinite));
  rest = _mm512_maskz_sub_ps(finite, rest, _mm512_castsi512_ps(part));
  return part;
}

// Rows [0, rows) and steps [0, steps) of x; what is beyond, up to whole tiles, becomes zeros.
void split_rows(const float* x, std::int64_t x_stride, std::int64_t rows, std::int64_t steps,
                Scratch& scratch) {
  const std::int64_t all_rows = (rows + kBlockRows - 1) / kBlockRows * kBlockRows;
  const std::int64_t all_steps = (steps + kTileSteps - 1) / kTileSteps * kTileSteps;
  for (std::int64_t r = 0; r < all_rows; ++r)
    for (std::int64_t i = 0; i < all_steps; i += 16) {
      const std::int64_t left = r < rows && i < steps ? steps - i : 0;
      const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffff : (1U << left) - 1);
      __m512 rest = _mm512_maskz_loadu_ps(mask, x + r * x_stride + i);
      unroll<kParts>([&](auto part) TANDEM_INLINE {
        const __m512i bits = _mm512_srli_epi32(take_part(rest), 16);
        _mm256_store_si256(reinterpret_cast<__m256i*>(&scratch.x[part][r][i]),
                           _mm512_cvtepi32_epi16(bits));
      });
    }
}

template <PanelKind kKind>
TANDEM_INLINE inline __m512 load(const std::byte* panel, std::int64_t index) {
  const __m256i half = _mm256_loadu_si256(
      reinterpret_cast<const __m256i*>(reinterpret_cast<const std::uint16_t*>(panel) + index));
  if constexpr (kKind == PanelKind::kF16) return _mm512_cvtph_ps(half);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

// Steps [begin, begin + steps) of a panel; zeros up to whole tiles.
template <PanelKind kKind>
void split_panel(const std::byte* panel, std::int64_t begin, std::int64_t steps, Scratch& scratch) {
  const std::int64_t all_steps = (steps + kTileSteps - 1) / kTileSteps * kTileSteps;
  for (std::int64_t i = 0; i < all_steps; i += 2)
    for (std::int64_t c = 0; c < kColumns; c += 16) {
      __m512 even = _mm512_setzero_ps(), odd = even;
      if (i < steps) even = load<kKind>(panel, (begin + i) * kColumns + c);
      if (i + 1 < steps) odd = load<kKind>(panel, (begin + i + 1) * kColumns + c);
      unroll<parts_of(kKind)>([&](auto part) TANDEM_INLINE {
        const __m512i pairs =
            _mm512_or_si512(_mm512_srli_epi32(take_part(even), 16), take_part(odd));
        _mm512_store_si512(&scratch.w[part][i / 2][c], pairs);
      });
    }
}

// sums += x · w for the blocks of 32 rows that cover `rows`.
template <PanelKind kKind>
void multiply(std::int64_t rows, std::int64_t steps, const Scratch& scratch,
              float (*sums)[kColumns]) {
  constexpr long kSumStride = kColumns * 4, kRowStride = kSteps * 2, kPairStride = kColumns * 4;
  __asm__ volatile("" : : "r"(&scratch) : "memory");  // tile loads don't say what they read
  for (std::int64_t r = 0; r < rows; r += kBlockRows)
    for (std::int64_t c = 0; c < kColumns; c += 2 * kTileRows) {
      float* const first = &sums[r][c];
      float* const second = &sums[r + kTileRows][c];
      _tile_loadd(0, first, kSumStride);
      _tile_loadd(1, first + kTileRows, kSumStride);
      _tile_loadd(2, second, kSumStride);
      _tile_loadd(3, second + kTileRows, kSumStride);
      for (std::int64_t i = 0; i < steps; i += kTileSteps)
        unroll<parts_of(kKind)>([&](auto j) TANDEM_INLINE {
          _tile_loadd(6, &scratch.w[j][i / 2][c], kPairStride);
          _tile_loadd(7, &scratch.w[j][i / 2][c + kTileRows], kPairStride);
          unroll<kParts - j>([&](auto part) TANDEM_INLINE {
            _tile_loadd(4, &scratch.x[part][r][i], kRowStride);
            _tile_loadd(5, &scratch.x[part][r + kTileRows][i], kRowStride);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
          });
        });
      _tile_stored(0, first, kSumStride);
      _tile_stored(1, first + kTileRows, kSumStride);
      _tile_stored(2, second, kSumStride);
      _tile_stored(3, second + kTileRows, kSumStride);
    }
  __asm__ volatile("" : : "r"(sums) : "memory");
}

template <PanelKind kKind>
void add_block(const PanelLayout& layout, const std::byte* panels, Range range, std::int64_t begin,
               std::int64_t rows, std::int64_t steps, Scratch& scratch) {
  for (std::int64_t p = range.begin; p < range.end; ++p) {
    split_panel<kKind>(panels + p * layout.panel_bytes(), begin, steps, scratch);
    multiply<kKind>(rows, steps, scratch, scratch.sums[p - range.begin]);
  }
}

void store(const Scratch& scratch, Range range, std::int64_t rows, std::int64_t n,
           const LinearOutput& out, float* y) {
  for (std::int64_t p = range.begin; p < range.end; ++p)
    for (std::int64_t c = 0; c < kColumns && p * kColumns + c < n; c += 16) {
      const std::int64_t column = p * kColumns + c, left = n - column;
      const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffff : (1U << left) - 1);
      const __m512 bias =
          out.bias ? _mm512_maskz_loadu_ps(mask, out.bias + column) : _mm512_setzero_ps();
      for (std::int64_t r = 0; r < rows; ++r) {
        const __m512 sum = _mm512_load_ps(&scratch.sums[p - range.begin][r][c]);
        _mm512_mask_storeu_ps(y + r * out.stride + column, mask,
                              out.bias ? _mm512_add_ps(sum, bias) : sum);
      }
    }
}

void linear_float_fast(const PanelLayout& layout, const std::byte* panels, Range range,
                       const float* x, std::int64_t x_stride, std::int64_t rows,
                       const LinearOutput& out) noexcept {
  if (layout.kind == PanelKind::kF32) {
    avx512_linear_float(layout, panels, range, x, x_stride, rows, out);
    return;
  }
  const Tiles tiles(kTileBytes);
  Scratch scratch;
  for (std::int64_t row = 0; row < rows; row += kRows) {
    const std::int64_t count = rows - row < kRows ? rows - row : kRows;
    for (std::int64_t p = range.begin; p < range.end; p += kPanels) {
      const Range some{p, p + kPanels < range.end ? p + kPanels : range.end};
      for (std::int64_t i = 0; i < some.size(); ++i)
        for (auto& sums : scratch.sums[i])
          for (float& sum : sums) sum = 0;
      for (std::int64_t begin = 0; begin < layout.k; begin += kSteps) {
        const std::int64_t steps = layout.k - begin < kSteps ? layout.k - begin : kSteps;
        split_rows(x + row * x_stride + begin, x_stride, count, steps, scratch);
        if (layout.kind == PanelKind::kF16)
          add_block<PanelKind::kF16>(layout, panels, some, begin, count, steps, scratch);
        else
          add_block<PanelKind::kBF16>(layout, panels, some, begin, count, steps, scratch);
      }
      store(scratch, some, count, layout.n, out, out.y + row * out.stride);
    }
  }
}

}  // namespace

void use_floats_amx(Kernels& table) noexcept { table.linear_float_fast = linear_float_fast; }

}  // namespace tandem
