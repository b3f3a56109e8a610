// The products are computed when rows are read, in pieces that stay in the L1 cache.
#include "tensor/low_rank_rows.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"

namespace tandem {
namespace {

// Columns of `down` that are used for all rows before the next ones: with a rank of 16, 32 KiB.
constexpr std::int64_t kColumnsAtOnce = 512;

class LowRankRows : public RowSource {
 public:
  LowRankRows(Rows source, Tensor up, Tensor down, double scale)
      : RowSource(source->rows(), source->columns(), DType::kF32),
        source_(std::move(source)),
        up_(std::move(up)),
        down_(std::move(down)),
        scale_(scale) {}

  void release() const noexcept override { source_->release(); }

 private:
  void read_rows(std::int64_t first, std::span<float> out) const override {
    source_->read(first, out);
    const std::int64_t rank = down_.dim(0);
    const std::int64_t rows = static_cast<std::int64_t>(out.size()) / columns();
    std::vector<float> up(static_cast<std::size_t>(rows * rank));
    up_.copy_floats(first * rank, up);
    std::vector<float> down(static_cast<std::size_t>(rank * std::min(kColumnsAtOnce, columns())));
    for (std::int64_t begin = 0; begin < columns(); begin += kColumnsAtOnce) {
      const std::int64_t width = std::min(kColumnsAtOnce, columns() - begin);
      for (std::int64_t i = 0; i < rank; ++i)
        down_.copy_floats(i * columns() + begin,
                          std::span(down).subspan(static_cast<std::size_t>(i * width),
                                                  static_cast<std::size_t>(width)));
      for (std::int64_t row = 0; row < rows; ++row)
        add(up.data() + row * rank, down.data(), width, out.data() + row * columns() + begin);
    }
  }

  // out [width] += scale · up [r] · down [r, width].
  void add(const float* up, const float* down, std::int64_t width, float* out) const {
    double sums[kColumnsAtOnce] = {};
    for (std::int64_t i = 0; i < down_.dim(0); ++i) {
      const double factor = up[i];
      for (std::int64_t c = 0; c < width; ++c) sums[c] += factor * down[i * width + c];
    }
    for (std::int64_t c = 0; c < width; ++c) out[c] = static_cast<float>(out[c] + scale_ * sums[c]);
  }

  Rows source_;
  Tensor up_;
  Tensor down_;
  double scale_;
};

class NormedRows : public RowSource {
 public:
  NormedRows(Rows source, std::vector<float> norms)
      : RowSource(source->rows(), source->columns(), DType::kF32),
        source_(std::move(source)),
        norms_(std::move(norms)) {}

  void release() const noexcept override { source_->release(); }

 private:
  void read_rows(std::int64_t first, std::span<float> out) const override {
    source_->read(first, out);
    const auto width = static_cast<std::size_t>(columns());
    for (std::size_t row = 0; row * width < out.size(); ++row) {
      const std::span<float> values = out.subspan(row * width, width);
      double squares = 0;
      for (const float value : values) squares += static_cast<double>(value) * value;
      if (squares == 0) continue;
      const double factor = norms_[static_cast<std::size_t>(first) + row] / std::sqrt(squares);
      for (float& value : values) value = static_cast<float>(factor * value);
    }
  }

  Rows source_;
  std::vector<float> norms_;
};

bool is_plain_matrix(const Tensor& tensor) {
  const DType dtype = tensor.dtype();
  return !tensor.empty() && tensor.shape().size() == 2 &&
         (dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16);
}

}  // namespace

Rows add_low_rank(const Rows& source, Tensor up, Tensor down, double scale) {
  const bool fits = source != nullptr && is_plain_matrix(up) && is_plain_matrix(down) &&
                    up.dim(0) == source->rows() && down.dim(1) == source->columns() &&
                    up.dim(1) == down.dim(0) && std::isfinite(scale);
  if (!fits)
    fail(ErrorCode::kInvalidArgument,
         "[rows] expected factors [rows, r] and [r, columns] of a matrix and a finite scale, got "
         "{}, {} and {}",
         to_string(up.shape()), to_string(down.shape()), scale);
  return std::make_shared<LowRankRows>(source, std::move(up), std::move(down), scale);
}

Rows set_row_norms(const Rows& source, std::vector<float> norms) {
  const bool fits = source != nullptr &&
                    static_cast<std::int64_t>(norms.size()) == source->rows() &&
                    std::ranges::all_of(norms, [](float norm) { return std::isfinite(norm); });
  if (!fits)
    fail(ErrorCode::kInvalidArgument,
         "[rows] expected a matrix and one finite norm for each of its rows, got {} norms",
         norms.size());
  return std::make_shared<NormedRows>(source, std::move(norms));
}

}  // namespace tandem
