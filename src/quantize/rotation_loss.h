// What rounding costs once activations and weights are rotated, as a smooth function of the rotation
// almost everywhere, with its gradient: what learned rotations make small.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"

namespace tandem {

// How rows are rounded.
struct Rounding {
  enum class Scales : std::uint8_t {
    // One for all, which reaches the bound with the least error, or the largest |z|.
    kTensor,
    kTensorMax,
    // One for each group of columns, which reaches its largest |z|, or its smallest to its largest z.
    kGroups,
    kRanges,
  };
  Scales scales = Scales::kTensor;
  // From 0 to the bound, or from the smallest z to the largest.
  double steps = 127;
  // Columns; those of a row that are left at its end are a group, too.
  std::int64_t group = 0;
};

// The expected squared error of rounding z, rows of `width` columns: a twelfth of the squared step for
// every value, as if what is rounded off were uniformly distributed, and what lies beyond a bound. The
// scales follow z, so that the gradient by z, which is written, is that of few values: of those that
// are clipped, and of the largest, which make scales. It is exact where these are unique.
double rounding_error(std::span<const float> z, std::int64_t width, const Rounding& rounding,
                      std::span<float> gradient);

// A sum of rounding errors, each as a part of the squared length of what is rounded: of the inputs and
// of the weights of Linears that is the expected squared error of their outputs, relative to what they
// are, if neither knows of the other's channels.
class RotationLoss {
 public:
  // Of rotations [size, size].
  RotationLoss(std::int64_t size, ThreadPool& pool) : size_(size), pool_(pool) {}

  // Rows of `width` columns, a multiple of the size; what is all zero does not count.
  void add(std::vector<float> rows, std::int64_t width, const Rounding& rounding);
  bool empty() const noexcept { return terms_.empty(); }

  // For x · R for every `size` consecutive columns x of a row. The gradient is written. The same for
  // any number of threads.
  double at(const std::vector<float>& rotation, std::vector<float>& gradient) const;

 private:
  struct Term {
    std::vector<float> rows;
    std::int64_t width = 0;
    Rounding rounding;
    // Squared length.
    double energy = 0;
  };

  std::int64_t size_;
  ThreadPool& pool_;
  std::vector<Term> terms_;
};

}  // namespace tandem
