// The tiles of a matrix product with AMX: tiles 0 to 3 are sums, 4 and 5 activations, 6 and 7
// weights.
#pragma once

#include <cstdint>

#include "kernels/x86/intrinsics.h"

namespace tandem {
namespace {

constexpr std::int64_t kTileRows = 16;
constexpr std::int64_t kTileBytes = 64;

// The tile configuration for `k_bytes` of k per step; released at the end of the scope.
class Tiles {
 public:
  explicit Tiles(std::int64_t k_bytes) {
    struct alignas(64) {
      std::uint8_t palette = 1;
      std::uint8_t start_row = 0;
      std::uint8_t reserved[14] = {};
      std::uint16_t row_bytes[16] = {};
      std::uint8_t rows[16] = {};
    } config;
    const auto set = [&](int tile, std::int64_t rows, std::int64_t row_bytes) {
      config.rows[tile] = static_cast<std::uint8_t>(rows);
      config.row_bytes[tile] = static_cast<std::uint16_t>(row_bytes);
    };
    for (int tile = 0; tile < 4; ++tile) set(tile, kTileRows, kTileBytes);
    for (int tile = 4; tile < 6; ++tile) set(tile, kTileRows, k_bytes);
    for (int tile = 6; tile < 8; ++tile) set(tile, k_bytes / 4, kTileBytes);
    __asm__ volatile("" : : "r"(&config) : "memory");  // the intrinsic names only its first bytes
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

}  // namespace
}  // namespace tandem
