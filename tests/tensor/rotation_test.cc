// Rotations against their definition, and weights multiplied by them against the dense product.
#include "tensor/rotation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "support.h"
#include "tensor/hadamard_factor.h"

namespace tandem {
namespace {

using testing::error_of;

std::vector<float> random_values(std::int64_t count, unsigned seed = 1) {
  std::mt19937 random(seed);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = static_cast<float>(random()) / 0x1p31F - 1;
  return values;
}

std::vector<float> read_all(const Rows& rows) {
  std::vector<float> values(static_cast<std::size_t>(rows->rows() * rows->columns()));
  rows->read(0, values);
  return values;
}

void expect_near(const std::vector<float>& got, const std::vector<float>& expected,
                 double tolerance) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], tolerance) << i;
}

// The largest |RᵀR - I|.
double error_of_orthogonality(const Tensor& matrix) {
  const std::int64_t d = matrix.dim(0);
  const auto r = matrix.as<float>();
  double worst = 0;
  for (std::int64_t i = 0; i < d; ++i)
    for (std::int64_t j = 0; j < d; ++j) {
      double sum = i == j ? -1 : 0;
      for (std::int64_t k = 0; k < d; ++k)
        sum += static_cast<double>(r[static_cast<std::size_t>(k * d + i)]) *
               r[static_cast<std::size_t>(k * d + j)];
      worst = std::max(worst, std::abs(sum));
    }
  return worst;
}

TEST(Rotation, HadamardIsTheOneOfTheKernels) {
  for (const std::int64_t order : {1, 2, 16}) {
    const Tensor matrix = Rotation::hadamard(order).matrix();
    for (std::int64_t i = 0; i < order; ++i)
      for (std::int64_t j = 0; j < order; ++j) {
        const bool odd = std::popcount(static_cast<std::uint64_t>(i & j)) % 2 == 1;
        EXPECT_FLOAT_EQ(matrix.as<float>()[static_cast<std::size_t>(i * order + j)],
                        static_cast<float>((odd ? -1 : 1) / std::sqrt(static_cast<double>(order))));
      }
  }
}

// Of every order up to 300, and of widths that models have.
TEST(HadamardFactor, IsAHadamardMatrixWhereOneIsKnownAndElseSpreadsEvenly) {
  const std::map<std::int64_t, std::int64_t> orders = {
      {60, 60}, {72, 36},     {100, 100},   {172, 43},   {11008, 43}, {4864, 76},   {8960, 140},
      {96, 12}, {13824, 108}, {18944, 148}, {14336, 28}, {53248, 52}, {29568, 231}, {26, 13}};
  std::vector<std::int64_t> sizes;
  for (std::int64_t size = 1; size <= 300; ++size) sizes.push_back(size);
  for (const auto& [size, order] : orders) sizes.push_back(size);
  int hadamard = 0;
  for (const std::int64_t size : sizes) {
    const Tensor factor = hadamard_factor(size);
    const std::int64_t m = factor.dim(0);
    if (const auto known = orders.find(size); known != orders.end()) {
      EXPECT_EQ(m, known->second) << size;
    }
    EXPECT_TRUE(size % m == 0 && std::has_single_bit(static_cast<std::uint64_t>(size / m))) << size;
    EXPECT_LT(error_of_orthogonality(factor), 1e-6) << size;
    const double scale = std::sqrt(static_cast<double>(m));
    double least = 2, most = 0;
    for (const float entry : factor.as<float>()) {
      least = std::min(least, std::abs(entry * scale));
      most = std::max(most, std::abs(entry * scale));
    }
    if (m % 2 == 0 || m == 1) {
      EXPECT_NEAR(least, 1, 1e-6) << size;
      EXPECT_NEAR(most, 1, 1e-6) << size;
      if (m > 1) ++hadamard;
    } else {
      EXPECT_LT(most, 1.5) << size;
    }
  }
  EXPECT_GT(hadamard, 60);
  EXPECT_EQ(error_of([] { hadamard_factor(0); }),
            "[rotation] expected a size of at least 1, got 0");
}

TEST(Rotation, RandomOnesAreOrthogonalAndMixAllChannels) {
  for (const std::int64_t size : {1, 2, 7, 12, 56, 64, 96}) {
    for (const Rotation& rotation :
         {Rotation::random(size, 3), Rotation::random_hadamard(size, 3)}) {
      EXPECT_EQ(rotation.size(), size);
      const Tensor matrix = rotation.matrix();
      EXPECT_LT(error_of_orthogonality(matrix), 1e-5) << size;
      for (const float value : matrix.as<float>()) EXPECT_NE(value, 0.0F) << size;
    }
    const auto of = [&](std::uint64_t seed) {
      return Rotation::random_hadamard(size, seed).matrix().to_floats();
    };
    EXPECT_EQ(of(5), of(5));
    if (size > 2) {
      EXPECT_NE(of(5), of(6));
    }
  }
}

TEST(Rotation, RowsAreThoseOfTheDenseProduct) {
  // Of several blocks, of one that is kept, of odd parts, and without structure.
  for (const auto& [size, other] : {std::pair{16, 3}, {24, 130}, {320, 5}, {512, 200}, {7, 9}}) {
    const Rotation rotation = Rotation::random_hadamard(size, 1);
    const Tensor matrix = rotation.matrix();
    EXPECT_EQ(rotation.is_fast(), size != 7);
    const std::int64_t length = size * 2;
    const auto matrix_of = [&](std::int64_t n, std::int64_t k) {
      return stored_rows(Tensor::from_floats(random_values(n * k), {n, k}));
    };
    const Rows wide = matrix_of(other, length), tall = matrix_of(length, other);
    expect_near(read_all(rotate_columns(wide, rotation)), read_all(rotate_columns(wide, matrix)),
                2e-6);
    const Rows turned = rotate_rows(tall, rotation);
    const std::vector<float> expected = read_all(rotate_rows(tall, matrix));
    expect_near(read_all(turned), expected, 2e-6);
    turned->release();
    std::vector<float> some(static_cast<std::size_t>(3 * other));
    turned->read(size - 1, some);
    const auto begin = expected.begin() + (size - 1) * other;
    expect_near(some, {begin, begin + 3 * other}, 2e-6);
    const Tensor vector = Tensor::from_floats(random_values(length), {length});
    const Rows column = stored_rows(Tensor::from_floats(random_values(length), {length, 1}));
    expect_near(rotate_vector(vector, rotation).to_floats(), read_all(rotate_rows(column, matrix)),
                2e-6);
  }
}

TEST(Rotation, RowsAreReadBySeveralThreads) {
  const Rows rows =
      rotate_rows(stored_rows(Tensor::from_floats(random_values(512 * 40), {512, 40})),
                  Rotation::random_hadamard(512, 2));
  const std::vector<float> expected = read_all(rows);
  rows->release();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&, i] {
      for (int round = 0; round < 10; ++round) {
        EXPECT_EQ(read_all(rows), expected);
        if (i == 0) rows->release();
      }
    });
  for (std::thread& thread : threads) thread.join();
}

TEST(Rotation, RefusesWhatDoesNotFit) {
  const auto refusal = [](std::vector<float> values, Shape shape) {
    return error_of([&] { Rotation(Tensor::from_floats(values, shape)); });
  };
  EXPECT_EQ(refusal({1, 0, 0, 1, 0, 0}, {2, 3}),
            "[rotation] expected a matrix F32 [d, d], got F32 [2, 3]");
  EXPECT_EQ(
      refusal({1, 0, 0, 2}, {2, 2}),
      "[rotation] expected an orthogonal matrix: the product of column 1 with the others is off "
      "by 3");
  EXPECT_NE(refusal({1, 0, 0, NAN}, {2, 2}).find("off by nan"), std::string::npos);
  EXPECT_FALSE(error_of([] { Rotation{Tensor()}; }).empty());
  for (const std::int64_t size : {0, -4}) {
    EXPECT_FALSE(error_of([&] { Rotation::random(size, 0); }).empty());
    EXPECT_FALSE(error_of([&] { Rotation::hadamard(size); }).empty());
    EXPECT_FALSE(error_of([&] { Rotation::random_hadamard(size, 0); }).empty());
  }
  const Rows rows = stored_rows(Tensor::from_floats(random_values(36), {6, 6}));
  const Rotation four = Rotation::hadamard(4);
  EXPECT_EQ(error_of([&] { rotate_columns(rows, four); }),
            "[rotation] columns: 6 are not a multiple of the rotation's 4");
  EXPECT_EQ(error_of([&] { rotate_rows(rows, four); }),
            "[rotation] rows: 6 are not a multiple of the rotation's 4");
  EXPECT_FALSE(error_of([&] { rotate_columns(Rows(), four); }).empty());
  EXPECT_FALSE(error_of([&] { rotate_rows(Rows(), four); }).empty());
}

}  // namespace
}  // namespace tandem
