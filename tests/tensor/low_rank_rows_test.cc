// Rows plus a product of two thin matrices, against the formula on whole matrices.
#include "tensor/low_rank_rows.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "support.h"

namespace tandem {
namespace {

using testing::error_of;

std::vector<float> random_values(std::int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

// 1100 columns: two whole pieces of the computation and a part of one.
constexpr std::int64_t kRows = 9;
constexpr std::int64_t kColumns = 1100;
constexpr std::int64_t kRank = 5;

class LowRank : public ::testing::Test {
 protected:
  double expected(std::int64_t row, std::int64_t column) const {
    double sum = 0;
    for (std::int64_t i = 0; i < kRank; ++i)
      sum += static_cast<double>(up_[static_cast<std::size_t>(row * kRank + i)]) *
             down_[static_cast<std::size_t>(i * kColumns + column)];
    return w_[static_cast<std::size_t>(row * kColumns + column)] + 0.75 * sum;
  }
  Rows sum() const {
    return add_low_rank(stored_rows(Tensor::from_floats(w_, {kRows, kColumns})),
                        Tensor::from_floats(up_, {kRows, kRank}),
                        Tensor::from_floats(down_, {kRank, kColumns}), 0.75);
  }

  std::vector<float> w_ = random_values(kRows * kColumns, 1);
  std::vector<float> up_ = random_values(kRows * kRank, 2);
  std::vector<float> down_ = random_values(kRank * kColumns, 3);
};

TEST_F(LowRank, IsAddedToWhateverRowsAreRead) {
  const Rows rows = sum();
  EXPECT_EQ(rows->stored(), nullptr);
  EXPECT_EQ(rows->dtype(), DType::kF32);
  for (const std::int64_t first : {0, 3, 8}) {
    std::vector<float> values(static_cast<std::size_t>(first == 0 ? kRows * kColumns : kColumns));
    rows->read(first, values);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto at = static_cast<std::int64_t>(i);
      ASSERT_EQ(values[i], static_cast<float>(expected(first + at / kColumns, at % kColumns)));
    }
  }
}

TEST_F(LowRank, ReadsFactorsOfAnyFloatType) {
  const Tensor up = Tensor::from_floats(up_, {kRows, kRank}).to_f16();
  const Tensor down = Tensor::from_floats(down_, {kRank, kColumns}).to_f16();
  const Rows source = stored_rows(Tensor::from_floats(w_, {kRows, kColumns}));
  const Rows halves = add_low_rank(source, up, down, 2);
  const Rows floats = add_low_rank(source, Tensor::from_floats(up.to_floats(), up.shape()),
                                   Tensor::from_floats(down.to_floats(), down.shape()), 2);
  std::vector<float> a(kColumns * 2), b(kColumns * 2);
  halves->read(4, a);
  floats->read(4, b);
  EXPECT_EQ(a, b);
}

TEST_F(LowRank, RowsTakeTheirNorms) {
  std::vector<float> norms(kRows);
  for (std::size_t i = 0; i < norms.size(); ++i) norms[i] = static_cast<float>(i) - 1.5F;
  const Rows rows = set_row_norms(sum(), norms);
  std::vector<float> values(static_cast<std::size_t>(kColumns));
  for (std::int64_t row = 0; row < kRows; ++row) {
    rows->read(row, values);
    double squares = 0;
    for (std::int64_t c = 0; c < kColumns; ++c) squares += expected(row, c) * expected(row, c);
    const double factor = norms[static_cast<std::size_t>(row)] / std::sqrt(squares);
    for (std::int64_t c = 0; c < kColumns; ++c)
      ASSERT_NEAR(values[static_cast<std::size_t>(c)], factor * expected(row, c), 1e-6);
  }
  // A row without a direction.
  const Rows zeros = set_row_norms(stored_rows(Tensor::from_floats(std::vector<float>(3), {1, 3})),
                                   std::vector<float>{2});
  std::vector<float> zero(3, 1);
  zeros->read(0, zero);
  EXPECT_EQ(zero, std::vector<float>(3));
}

TEST_F(LowRank, RefusesWhatDoesNotFit) {
  const Rows source = stored_rows(Tensor::from_floats(w_, {kRows, kColumns}));
  const Tensor up = Tensor::from_floats(up_, {kRows, kRank});
  const Tensor down = Tensor::from_floats(down_, {kRank, kColumns});
  const std::string says = "[rows] expected factors [rows, r] and [r, columns] of a matrix";
  EXPECT_NE(error_of([&] { add_low_rank(source, down, up, 1); }).find(says), std::string::npos);
  EXPECT_NE(error_of([&] { add_low_rank(source, up, down, NAN); }).find(says), std::string::npos);
  EXPECT_NE(error_of([&] { add_low_rank(nullptr, up, down, 1); }).find(says), std::string::npos);
  EXPECT_NE(error_of([&] { set_row_norms(source, {1, 2}); }).find("got 2 norms"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              set_row_norms(source, std::vector<float>(kRows, INFINITY));
            }).find("one finite norm"),
            std::string::npos);
}

}  // namespace
}  // namespace tandem
