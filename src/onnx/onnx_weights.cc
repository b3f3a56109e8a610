// Weights as bytes, piece by piece.
#include "onnx/onnx_weights.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "tensor/half.h"
#include "tensor/packed_codes.h"

namespace tandem {
namespace {

constexpr std::int64_t kSmallestBlock = 16;
constexpr std::int64_t kLargestBlock = 256;

DType dtype_of(OnnxType type) { return type == OnnxType::kFloat16 ? DType::kF16 : DType::kF32; }

// The largest power of two that divides `group`.
std::int64_t block_of(std::int64_t group, const std::string& name) {
  const auto power = std::int64_t{1} << std::countr_zero(static_cast<std::uint64_t>(group));
  if (power < kSmallestBlock)
    fail(ErrorCode::kUnsupported,
         "[onnx] {}: groups of {} input channels: expected multiples of {}, which MatMulNBits has "
         "as blocks",
         name, group, kSmallestBlock);
  return std::min(power, kLargestBlock);
}

// Two's complement becomes an offset of half the range when the highest bit of each code is turned.
void write_unsigned(const Tensor& codes, const GroupCodes& weight, const ByteSink& sink) {
  if (!weight.is_signed) return sink(codes.bytes());
  const auto turned = std::byte{weight.bits == 4 ? std::uint8_t{0x88} : std::uint8_t{0x80}};
  constexpr std::size_t kAtOnce = std::size_t{1} << 20;
  std::vector<std::byte> piece;
  for (auto rest = codes.bytes(); !rest.empty(); rest = rest.subspan(piece.size())) {
    const auto some = rest.first(std::min(kAtOnce, rest.size()));
    piece.assign(some.begin(), some.end());
    for (std::byte& byte : piece) byte ^= turned;
    sink(piece);
  }
}

}  // namespace

NBitsWeight::NBitsWeight(GroupCodes codes, std::string name)
    : codes_(std::move(codes)), name_(std::move(name)), block_(block_of(codes_.group, name_)) {}

std::vector<std::int64_t> NBitsWeight::codes_shape() const {
  return {codes_.n, blocks(), packed_bytes(block_, codes_.bits)};
}

std::vector<std::int64_t> NBitsWeight::scales_shape() const { return {codes_.n * blocks()}; }

std::vector<std::int64_t> NBitsWeight::zero_points_shape() const {
  return {codes_.n * packed_bytes(blocks(), codes_.bits)};
}

void NBitsWeight::write_codes(const ByteSink& sink) const {
  write_unsigned(codes_.codes, codes_, sink);
}

void NBitsWeight::write_scales(OnnxType type, const ByteSink& sink) const {
  const std::int64_t groups = codes_.groups();
  const auto repeats = static_cast<std::size_t>(codes_.group / block_);
  std::vector<float> scales(static_cast<std::size_t>(groups));
  std::vector<float> repeated;
  for (std::int64_t row = 0; row < codes_.n; ++row) {
    codes_.scales.copy_floats(row * groups, scales);
    repeated.clear();
    for (const float scale : scales) {
      if (!std::isfinite(round_to(dtype_of(type), scale)))
        fail(ErrorCode::kUnsupported, "[onnx] {}: row {}: the scale {} is beyond float16", name_,
             row, scale);
      repeated.insert(repeated.end(), repeats, scale);
    }
    write_values(repeated, type, sink);
  }
}

void NBitsWeight::write_zero_points(const ByteSink& sink) const {
  // Groups whose number is odd leave half a byte, whose content nobody reads.
  if (codes_.group == block_) return write_unsigned(codes_.zero_points, codes_, sink);
  const int offset = codes_.is_signed ? 1 << (codes_.bits - 1) : 0;
  const auto repeats = static_cast<std::size_t>(codes_.group / block_);
  const std::int64_t row_bytes = packed_bytes(codes_.groups(), codes_.bits);
  std::vector<std::uint8_t> repeated;
  std::vector<std::byte> packed(static_cast<std::size_t>(packed_bytes(blocks(), codes_.bits)));
  for (std::int64_t row = 0; row < codes_.n; ++row) {
    const std::byte* zeros = codes_.zero_points.bytes().data() + row * row_bytes;
    repeated.clear();
    for (std::int64_t g = 0; g < codes_.groups(); ++g)
      repeated.insert(repeated.end(), repeats,
                      static_cast<std::uint8_t>(packed_code(zeros, codes_.bits, g) ^ offset));
    pack_codes(repeated, codes_.bits, packed.data());
    sink(packed);
  }
}

void write_values(std::span<const float> values, OnnxType type, const ByteSink& sink) {
  std::vector<std::byte> bytes(values.size() * static_cast<std::size_t>(size_of(type)));
  encode_floats(values, dtype_of(type), bytes.data());
  sink(bytes);
}

void write_rows(const RowSource& rows, OnnxType type, const ByteSink& sink) {
  visit_rows(rows, 0, rows.rows(), [&](std::int64_t, std::span<const float> values) {
    write_values(values, type, sink);
  });
}

void write_transposed(const RowSource& rows, OnnxType type, const ByteSink& sink) {
  const auto n = static_cast<std::size_t>(rows.rows());
  const auto k = static_cast<std::size_t>(rows.columns());
  const auto size = static_cast<std::size_t>(size_of(type));
  std::vector<std::byte> bytes(n * k * size);
  std::vector<float> column;
  visit_rows(rows, 0, rows.rows(), [&](std::int64_t first, std::span<const float> values) {
    column.resize(values.size() / k);
    for (std::size_t c = 0; c < k; ++c) {
      for (std::size_t r = 0; r < column.size(); ++r) column[r] = values[r * k + c];
      encode_floats(column, dtype_of(type),
                    bytes.data() + (c * n + static_cast<std::size_t>(first)) * size);
    }
  });
  sink(bytes);
}

void write_transposed(const ChannelCodes& weight, const ByteSink& sink) {
  const auto n = static_cast<std::size_t>(weight.n), k = static_cast<std::size_t>(weight.k);
  std::vector<std::byte> bytes(n * k);
  std::vector<std::int8_t> row(k);
  for (std::size_t r = 0; r < n; ++r) {
    read_codes(weight, static_cast<std::int64_t>(r), 0, row);
    for (std::size_t c = 0; c < k; ++c) bytes[c * n + r] = static_cast<std::byte>(row[c]);
  }
  sink(bytes);
}

bool can_join(const Weight& a, const Weight& b) {
  if (a.index() != b.index() || input_channels(a) != input_channels(b)) return false;
  const auto* x = std::get_if<GroupCodes>(&a);
  const auto* y = std::get_if<GroupCodes>(&b);
  if (x == nullptr) return std::holds_alternative<FloatWeight>(a);
  return x->bits == y->bits && x->group == y->group && x->is_signed == y->is_signed &&
         x->scales.dtype() == y->scales.dtype() && x->zero_points.empty() == y->zero_points.empty();
}

}  // namespace tandem
