// How weights lie in ONNX: group codes as MatMulNBits (com.microsoft) reads them, float ones as MatMul
// does, [k, n].
#pragma once

#include <cstdint>
#include <string>

#include "onnx/model_writer.h"
#include "tensor/row_source.h"
#include "tensor/weight.h"

namespace tandem {

// A weight as MatMulNBits reads it: codes U8 [n, k / block, block * bits / 8], the lower index in the
// low bits; scales [n * k / block]; zero points U8 [n * ceil(k / block * bits / 8)], packed row by row.
// Codes are moved as they are. Signed ones get the offset that makes them unsigned, and groups that are
// no block size become several blocks with one scale.
class NBitsWeight {
 public:
  // `name` is the module's, for messages. Throws kUnsupported if a group is not made of blocks of 16,
  // 32, 64, 128 or 256.
  NBitsWeight(GroupCodes codes, std::string name);

  const GroupCodes& codes() const noexcept { return codes_; }
  // Input channels in a block.
  std::int64_t block() const noexcept { return block_; }
  std::int64_t blocks() const noexcept { return codes_.k / block_; }
  bool has_zero_points() const noexcept { return !codes_.zero_points.empty(); }

  std::vector<std::int64_t> codes_shape() const;
  std::vector<std::int64_t> scales_shape() const;
  std::vector<std::int64_t> zero_points_shape() const;
  void write_codes(const ByteSink& sink) const;
  // As `type`; throws kUnsupported for a scale beyond its range.
  void write_scales(OnnxType type, const ByteSink& sink) const;
  void write_zero_points(const ByteSink& sink) const;

 private:
  GroupCodes codes_;
  std::string name_;
  std::int64_t block_ = 0;
};

// Values rounded to `type`: of a vector, a matrix [n, k] as it is, and the same as [k, n].
void write_values(std::span<const float> values, OnnxType type, const ByteSink& sink);
void write_rows(const RowSource& rows, OnnxType type, const ByteSink& sink);
void write_transposed(const RowSource& rows, OnnxType type, const ByteSink& sink);

// Int8 codes [n, k] as [k, n].
void write_transposed(const ChannelCodes& weight, const ByteSink& sink);

// Whether the output channels of both can stand in one weight.
bool can_join(const Weight& a, const Weight& b);

}  // namespace tandem
