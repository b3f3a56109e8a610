// Integer matrix products with AMX tiles: tdpbsud multiplies 16 rows x 64 signed activations by 64
// x 16 columns of unsigned weights, whose layout in a panel is already that of a tile (rows of 4 k
// x 16 columns, 256 bytes apart).
//
// Two tiles of activations and two of weights make four tiles of sums, 32 rows x 32 columns, so
// that each load feeds two multiplications. A number of rows that is not a multiple of 32 is
// covered by overlapping tiles: rows computed twice give the same result.
#include "kernels/x86/amx_tiles.h"
#include "kernels/x86/int4_groups.h"
#include "kernels/x86/layers.h"
#include "kernels/x86/prefetch.h"

namespace tandem {

namespace {

constexpr std::int64_t kBlockRows = 2 * kTileRows;
// Fewer rows than a tile holds are left to the VNNI kernels.
constexpr std::int64_t kFewestRows = kTileRows;

// Where the two activation tiles of a block begin.
struct BlockRows {
  std::int64_t first, second;
};

// Calls body(rows) for blocks that cover [0, rows); rows must be at least 16.
template <typename Body>
TANDEM_INLINE inline void for_blocks(std::int64_t rows, const Body& body) {
  for (std::int64_t r = 0; r < rows; r += kBlockRows) {
    if (r + kBlockRows <= rows)
      body(BlockRows{r, r + kTileRows});
    else if (rows >= kBlockRows)
      body(BlockRows{rows - kBlockRows, rows - kTileRows});
    else
      body(BlockRows{0, rows - kTileRows});
  }
}

// raw [2][16][64] = codes x weights (u8 [steps * k_bytes / 4][64][4], steps of four k) for the two
// tiles of rows. Each step prefetches `lines` cache lines of the data that comes next.
void multiply(const std::uint8_t* weights, std::int64_t steps, std::int64_t k_bytes,
              const std::int8_t* codes, std::int64_t stride, const BlockRows& rows,
              std::int32_t* raw, const std::byte* next, std::int64_t lines) {
  const std::int8_t* first = codes + rows.first * stride;
  const std::int8_t* second = codes + rows.second * stride;
  const std::int64_t step_bytes = k_bytes / kInt8StepK * kStepBytes;
  for (std::int64_t c = 0; c < kColumns; c += 32) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (std::int64_t i = 0; i < steps; ++i) {
      const std::uint8_t* w = weights + i * step_bytes + c * kInt8StepK;
      _tile_loadd(4, first + i * k_bytes, static_cast<long>(stride));
      _tile_loadd(6, w, kStepBytes);
      _tile_loadd(5, second + i * k_bytes, static_cast<long>(stride));
      _tile_loadd(7, w + kTileBytes, kStepBytes);
      _tile_dpbsud(0, 4, 6);
      _tile_dpbsud(1, 4, 7);
      _tile_dpbsud(2, 5, 6);
      _tile_dpbsud(3, 5, 7);
      for (std::int64_t l = 0; l < lines; ++l, next += 64)
        _mm_prefetch(reinterpret_cast<const char*>(next), _MM_HINT_T1);
    }
    constexpr long kRowBytes = kColumns * 4;
    _tile_stored(0, raw + c, kRowBytes);
    _tile_stored(1, raw + c + 16, kRowBytes);
    _tile_stored(2, raw + kTileRows * kColumns + c, kRowBytes);
    _tile_stored(3, raw + kTileRows * kColumns + c + 16, kRowBytes);
  }
}

// Cache lines that each of the `steps` of a block, in two halves, prefetches of the next `bytes`.
std::int64_t lines_to_prefetch(std::int64_t bytes, std::int64_t steps, std::int64_t rows) {
  const std::int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
  return (bytes / 64 + 2 * steps * blocks - 1) / (2 * steps * blocks);
}

template <typename Store>
TANDEM_INLINE inline void for_int8_blocks(const PanelLayout& layout, const std::byte* panels,
                                          Range range, const StaticInt8Rows& x, std::int64_t rows,
                                          const Store& store) {
  const Tiles tiles(kTileBytes);
  const std::int64_t panel_bytes = layout.panel_bytes();
  const std::int64_t steps = padded_k(layout.k) / kTileBytes;
  const std::int64_t lines = lines_to_prefetch(panel_bytes, steps, rows);
  alignas(64) std::int32_t raw[kBlockRows * kColumns];
  for (std::int64_t p = range.begin; p < range.end; ++p) {
    const std::byte* panel = panels + p * panel_bytes;
    const std::byte* next = panel + panel_bytes;
    const bool last = p + 1 == range.end;
    const auto* scales = reinterpret_cast<const float*>(panel + int8_code_bytes(layout.k));
    const std::int64_t left = layout.n - p * kColumns;
    const std::int64_t count = left < kColumns ? left : kColumns;
    for_blocks(rows, [&](const BlockRows& block) {
      multiply(reinterpret_cast<const std::uint8_t*>(panel), steps, kTileBytes, x.codes, x.stride,
               block, raw, next, last ? 0 : lines);
      next += 2 * steps * lines * 64;
      for (std::int64_t r = 0; r < kBlockRows; ++r)
        store(raw + r * kColumns, r < kTileRows ? block.first + r : block.second + r - kTileRows,
              p * kColumns, count, scales);
    });
  }
}

void linear_int8(const PanelLayout& layout, const std::byte* panels, Range range,
                 const StaticInt8Rows& x, std::int64_t rows, const LinearOutput& out) noexcept {
  if (rows < kFewestRows) {
    vnni_linear_int8(layout, panels, range, x, rows, out);
    return;
  }
  for_int8_blocks(layout, panels, range, x, rows,
                  [&](const std::int32_t* raw, std::int64_t row, std::int64_t column,
                      std::int64_t count, const float* scales) {
                    store_int8_row(raw, x.sums[row], x.scale, scales,
                                   out.bias ? out.bias + column : nullptr, count,
                                   out.y + row * out.stride + column);
                  });
}

void linear_int8_sums(const PanelLayout& layout, const std::byte* panels, Range range,
                      const StaticInt8Rows& x, std::int64_t rows, std::int32_t* sums,
                      std::int64_t stride) noexcept {
  if (rows < kFewestRows) {
    vnni_linear_int8_sums(layout, panels, range, x, rows, sums, stride);
    return;
  }
  for_int8_blocks(layout, panels, range, x, rows,
                  [&](const std::int32_t* raw, std::int64_t row, std::int64_t column,
                      std::int64_t count, const float*) {
                    store_int8_sums(raw, x.sums[row], count, sums + row * stride + column);
                  });
}

// acc += the sums of one group for rows [first, first + 16).
void add_tile(const std::int32_t* raw, const GroupEnd& end, const GroupRows& a, float* acc) {
  for (std::int64_t r = 0; r < kTileRows; ++r)
    unroll<4>([&](auto v) TANDEM_INLINE {
      float* to = acc + r * kColumns + v * 16;
      _mm512_store_ps(to,
                      add_group(_mm512_load_si512(raw + r * kColumns + v * 16), end, v,
                                a.sums[r * a.groups], a.scales[r * a.groups], _mm512_load_ps(to)));
    });
}

// One whole panel for up to kChunkRows rows. Rows covered by two blocks would count a group twice
// here, so the last block has its own accumulators: acc has room for whole blocks, and blocks
// overlap only in what they read.
void int4_panel(const std::uint8_t* panel, std::int64_t groups, std::int64_t group,
                const GroupInt8Rows& x, std::int64_t row, std::int64_t rows, float* acc) {
  const std::int64_t k_bytes = group < kTileBytes ? group : kTileBytes;
  const std::int64_t steps = group / k_bytes;
  const std::int64_t group_bytes = int4_group_bytes(group);
  const std::int64_t lines = lines_to_prefetch(group_bytes, steps, rows);
  alignas(64) std::uint8_t unpacked[kMaxGroup * kColumns];
  alignas(64) std::int32_t raw[kBlockRows * kColumns];
  for (std::int64_t g = 0; g < groups; ++g, panel += group_bytes) {
    unpack_group(panel, group, unpacked);
    __asm__ volatile("" : : "r"(unpacked) : "memory");  // tile loads don't say what they read
    const GroupEnd end(panel + int4_code_bytes(group));
    const auto* next = reinterpret_cast<const std::byte*>(panel + group_bytes);
    float* to = acc;
    for_blocks(rows, [&](const BlockRows& block) {
      multiply(unpacked, steps, k_bytes, x.codes + row * x.stride + g * group, x.stride, block, raw,
               next, lines);
      next += 2 * steps * lines * 64;
      add_tile(raw, end, group_rows(x, row + block.first, g, group, groups), to);
      add_tile(raw + kTileRows * kColumns, end, group_rows(x, row + block.second, g, group, groups),
               to + kTileRows * kColumns);
      to += kBlockRows * kColumns;
    });
  }
}

void linear_int4(const PanelLayout& layout, const std::byte* panels, Range range,
                 const GroupInt8Rows& x, std::int64_t rows, const LinearOutput& out) noexcept {
  if (rows < kFewestRows) {
    vnni_linear_int4(layout, panels, range, x, rows, out);
    return;
  }
  const Tiles tiles(layout.group < kTileBytes ? layout.group : kTileBytes);
  const std::int64_t panel_bytes = layout.panel_bytes();
  const std::int64_t groups = layout.k / layout.group;
  alignas(64) float acc[kChunkRows * kColumns];
  for (std::int64_t p = range.begin; p < range.end; ++p) {
    const auto* panel = reinterpret_cast<const std::uint8_t*>(panels + p * panel_bytes);
    for_row_blocks(rows, kChunkRows, [&](std::int64_t chunk, std::int64_t chunk_rows) {
      for (float& value : acc) value = 0;
      int4_panel(panel, groups, layout.group, x, chunk, chunk_rows, acc);
      const float* from = acc;
      for_blocks(chunk_rows, [&](const BlockRows& block) {
        for (const std::int64_t r : {block.first, block.second}) {
          store_rows(from, kTileRows, p * kColumns, layout.n, out,
                     out.y + (chunk + r) * out.stride);
          from += kTileRows * kColumns;
        }
      });
    });
  }
}

std::int64_t peak_loop(std::int64_t iterations, std::int32_t* sink) noexcept {
  const Tiles tiles(kTileBytes);
  alignas(64) std::int32_t data[kTileRows * 16];
  for (std::int32_t& value : data) value = *sink;
  __asm__ volatile("" : : "r"(data) : "memory");
  _tile_loadd(4, data, kTileBytes);
  _tile_loadd(6, data, kTileBytes);
  _tile_loadd(5, data, kTileBytes);
  _tile_loadd(7, data, kTileBytes);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  // Four chains are enough: a multiplication issues every 16 cycles and has a latency of 52.
  for (std::int64_t i = 0; i < iterations; ++i) {
    _tile_dpbsud(0, 4, 6);
    _tile_dpbsud(1, 4, 7);
    _tile_dpbsud(2, 5, 6);
    _tile_dpbsud(3, 5, 7);
  }
  _tile_stored(0, data, kTileBytes);
  *sink = data[0];
  return iterations * 4 * kTileRows * 16 * kTileBytes * 2;
}

}  // namespace

void use_linear_amx(Kernels& table) noexcept {
  table.linear_int8 = linear_int8;
  table.linear_int8_sums = linear_int8_sums;
  table.linear_int4 = linear_int4;
  table.int8_peak_loop = peak_loop;
}

}  // namespace tandem
