// Where each byte of interleaved rows belongs.
#include "checkpoint/gguf/interleaved_rows.h"

#include "base/error.h"
#include "checkpoint/gguf/block_tensors.h"

namespace tandem {
namespace {

constexpr std::int64_t kBlockBytes = 18;
constexpr std::int64_t kScaleBytes = 2;
constexpr std::int64_t kCodeBytes = kBlockBytes - kScaleBytes;
// Turns both codes of a byte from 0 ... 15 to two's complement, and back.
constexpr std::byte kSigns{0x88};

// Calls visit(separate, interleaved, is_code) with the two places of every byte.
template <typename Visit>
void for_each_byte(Interleaving by, std::int64_t size, std::int64_t k, Visit visit) {
  const std::int64_t blocks = k / kGgmlBlock;
  const std::int64_t turn = by.rows * by.bytes;
  for (std::int64_t at = 0; at < size; at += by.rows * kBlockBytes) {
    // Block `at` of the interleaved ones: its first row, and its place in that.
    const std::int64_t index = at / (by.rows * kBlockBytes);
    const std::int64_t first = index / blocks * by.rows;
    const auto separate = [&](std::int64_t row) {
      return ((first + row) * blocks + index % blocks) * kBlockBytes;
    };
    for (std::int64_t i = 0; i < by.rows * kScaleBytes; ++i)
      visit(separate(i / kScaleBytes) + i % kScaleBytes, at + i, false);
    for (std::int64_t i = 0; i < by.rows * kCodeBytes; ++i)
      visit(separate(i % turn / by.bytes) + kScaleBytes + i / turn * by.bytes + i % by.bytes,
            at + by.rows * kScaleBytes + i, true);
  }
}

}  // namespace

std::optional<Interleaving> interleaving_of(GgmlType type) noexcept {
  switch (type) {
    case GgmlType::kQ4_0_4_4:
      return Interleaving{4, 4};
    case GgmlType::kQ4_0_4_8:
      return Interleaving{4, 8};
    case GgmlType::kQ4_0_8_8:
      return Interleaving{8, 8};
    default:
      return std::nullopt;
  }
}

std::vector<std::byte> interleave_rows(GgmlType type, std::span<const std::byte> bytes,
                                       std::int64_t k) {
  std::vector<std::byte> out(bytes.size());
  for_each_byte(*interleaving_of(type), std::ssize(bytes), k,
                [&](std::int64_t separate, std::int64_t interleaved, bool is_code) {
                  const std::byte value = bytes[static_cast<std::size_t>(separate)];
                  out[static_cast<std::size_t>(interleaved)] = is_code ? value ^ kSigns : value;
                });
  return out;
}

Tensor separate_rows(GgmlType type, const Shape& shape, std::span<const std::byte> bytes,
                     const std::string& place) {
  const Interleaving by = *interleaving_of(type);
  if (shape.size() != 2 || shape[0] % by.rows != 0 || shape[1] % kGgmlBlock != 0)
    fail(ErrorCode::kFormat, "{}: {} has {} rows interleaved: expected a matrix of them, got {}",
         place, to_string(type), by.rows, to_string(shape));
  std::byte* out = nullptr;
  Tensor result = Tensor::allocate(DType::kU8, {std::ssize(bytes)}, &out);
  for_each_byte(by, std::ssize(bytes), shape[1],
                [&](std::int64_t separate, std::int64_t interleaved, bool is_code) {
                  const std::byte value = bytes[static_cast<std::size_t>(interleaved)];
                  out[separate] = is_code ? value ^ kSigns : value;
                });
  return result;
}

}  // namespace tandem
