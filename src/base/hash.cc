// Content hashes, computed with xxHash.
#include "base/hash.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace tandem {
namespace {

// Large enough that the start-up cost of a piece is negligible, small enough that a shard keeps all
// threads busy.
constexpr std::size_t kPieceBytes = std::size_t{16} << 20;

std::string hex(XXH128_hash_t hash) {
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

// `done` is called with each piece once it has been read.
template <typename Done>
std::string hash_pieces(std::span<const std::byte> bytes, ThreadPool& pool, Done&& done) {
  const std::size_t pieces = (bytes.size() + kPieceBytes - 1) / kPieceBytes;
  // The canonical form is the same for any byte order.
  std::vector<XXH128_canonical_t> hashes(pieces);
  pool.parallel_for(static_cast<std::int64_t>(pieces), 1, [&](Range range) {
    for (auto i = static_cast<std::size_t>(range.begin); i < static_cast<std::size_t>(range.end);
         ++i) {
      const auto piece =
          bytes.subspan(i * kPieceBytes, std::min(kPieceBytes, bytes.size() - i * kPieceBytes));
      XXH128_canonicalFromHash(&hashes[i], XXH3_128bits(piece.data(), piece.size()));
      done(piece);
    }
  });
  // Seeding with the size tells the tree hash of no pieces from the plain hash of empty content.
  return hex(XXH3_128bits_withSeed(hashes.data(), hashes.size() * sizeof(XXH128_canonical_t),
                                   bytes.size() + 1));
}

}  // namespace

std::string content_hash(std::span<const std::byte> bytes) {
  return hex(XXH3_128bits(bytes.data(), bytes.size()));
}

std::string content_hash(std::string_view text) {
  return content_hash(std::as_bytes(std::span(text)));
}

std::string content_hash_tree(std::span<const std::byte> bytes, ThreadPool& pool) {
  return hash_pieces(bytes, pool, [](std::span<const std::byte>) {});
}

std::string content_hash_tree(const MappedFile& file, ThreadPool& pool) {
  return hash_pieces(file.bytes(), pool,
                     [&](std::span<const std::byte> piece) { file.release(piece); });
}

}  // namespace tandem
