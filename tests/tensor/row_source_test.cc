// Rows that passes compute from other rows, against the formulas on whole matrices.
#include "tensor/row_source.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <thread>

#include "support.h"
#include "tensor/half.h"

namespace tandem {
namespace {

using testing::error_of;

struct Matrix {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::vector<float> values;
  float at(std::int64_t r, std::int64_t c) const {
    return values[static_cast<std::size_t>(r * columns + c)];
  }
  Tensor tensor() const { return Tensor::from_floats(values, {rows, columns}); }
};

Matrix random_matrix(std::int64_t rows, std::int64_t columns, unsigned seed = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Matrix m{rows, columns, std::vector<float>(static_cast<std::size_t>(rows * columns))};
  for (float& value : m.values) value = normal(random);
  return m;
}

std::vector<float> read_all(const Rows& rows) {
  std::vector<float> values(static_cast<std::size_t>(rows->rows() * rows->columns()));
  rows->read(0, values);
  return values;
}

// All of a source at once, one row at a time and in unequal pieces give `expected`.
void expect_rows(const Rows& source, const std::vector<float>& expected) {
  EXPECT_EQ(read_all(source), expected);
  const auto columns = static_cast<std::size_t>(source->columns());
  for (const std::int64_t step : {1, 3, 70}) {
    std::vector<float> values(expected.size());
    for (std::int64_t first = 0; first < source->rows(); first += step) {
      const std::int64_t count = std::min(step, source->rows() - first);
      source->read(first, std::span(values).subspan(static_cast<std::size_t>(first) * columns,
                                                    static_cast<std::size_t>(count) * columns));
    }
    EXPECT_EQ(values, expected) << step << " rows at a time";
  }
}

TEST(Rows, StoredKeepTheirType) {
  const Matrix m = random_matrix(5, 7);
  const Tensor f32 = m.tensor();
  const Rows rows = stored_rows(f32);
  EXPECT_EQ(rows->dtype(), DType::kF32);
  ASSERT_NE(rows->stored(), nullptr);
  EXPECT_EQ(rows->stored()->bytes().data(), f32.bytes().data());
  expect_rows(rows, m.values);

  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    std::byte* data = nullptr;
    const Tensor halves = Tensor::allocate(dtype, {5, 7}, &data);
    for (std::size_t i = 0; i < 35; ++i) {
      const std::uint16_t half =
          dtype == DType::kF16 ? float_to_f16(m.values[i]) : float_to_bf16(m.values[i]);
      std::memcpy(data + 2 * i, &half, 2);
    }
    const Rows half_rows = stored_rows(halves);
    EXPECT_EQ(half_rows->dtype(), dtype);
    EXPECT_NE(half_rows->stored(), nullptr);
    expect_rows(half_rows, halves.to_floats());
  }
}

TEST(Rows, OfDoublesAreReadAsFloats) {
  const std::vector<double> doubles = {0.1, 1.0 / 3, -2, 1e-9};
  const Tensor tensor(DType::kF64, {2, 2}, std::as_bytes(std::span(doubles)), nullptr);
  const Rows rows = stored_rows(tensor);
  EXPECT_EQ(rows->dtype(), DType::kF32);
  EXPECT_EQ(rows->stored(), nullptr);
  expect_rows(rows, {0.1F, 1.0F / 3, -2, 1e-9F});
  EXPECT_EQ(slice_rows(rows, 1, 1)->stored(), nullptr);
  expect_rows(slice_rows(rows, 1, 1), {-2, 1e-9F});
}

TEST(Rows, SlicesShareMemory) {
  const Matrix m = random_matrix(6, 4);
  const Tensor tensor = m.tensor();
  const Rows slice = slice_rows(stored_rows(tensor), 2, 3);
  ASSERT_NE(slice->stored(), nullptr);
  EXPECT_EQ(slice->stored()->bytes().data(), tensor.bytes().data() + 2 * 4 * sizeof(float));
  expect_rows(slice, {m.values.begin() + 8, m.values.begin() + 20});
  // Of rows that are computed, the slice is computed too.
  const Rows computed = slice_rows(scale_columns(stored_rows(tensor), {1, 1, 1, 1}), 2, 3);
  EXPECT_EQ(computed->stored(), nullptr);
  expect_rows(computed, read_all(slice));
  EXPECT_EQ(slice_rows(computed, 3, 0)->rows(), 0);
}

TEST(Rows, GathersKeepTheirOrder) {
  const Matrix m = random_matrix(6, 4);
  const std::vector<std::int64_t> order = {5, 0, 1, 2, 2, 4};
  std::vector<float> expected;
  for (const std::int64_t row : order)
    for (std::int64_t c = 0; c < 4; ++c) expected.push_back(m.at(row, c));
  const Rows stored = gather_rows(stored_rows(m.tensor()), order);
  EXPECT_NE(stored->stored(), nullptr);
  expect_rows(stored, expected);
  const Rows computed =
      gather_rows(scale_rows(stored_rows(m.tensor()), std::vector<float>(6, 1)), order);
  EXPECT_EQ(computed->stored(), nullptr);
  expect_rows(computed, expected);
}

TEST(Rows, JoinedComeOneAfterTheOther) {
  const Matrix a = random_matrix(3, 4), b = random_matrix(5, 4);
  const Rows joined = join_rows({stored_rows(a.tensor()), slice_rows(stored_rows(b.tensor()), 5, 0),
                                 scale_rows(stored_rows(b.tensor()), std::vector<float>(5, 1))});
  std::vector<float> expected = a.values;
  expected.insert(expected.end(), b.values.begin(), b.values.end());
  expect_rows(joined, expected);
  expect_rows(slice_rows(joined, 2, 4), {expected.begin() + 8, expected.begin() + 24});
  EXPECT_FALSE(error_of([] { join_rows(std::vector<Rows>()); }).empty());
  EXPECT_FALSE(error_of([&] {
                 join_rows({stored_rows(a.tensor()), stored_rows(random_matrix(3, 5).tensor())});
               }).empty());
}

TEST(Rows, ScalesColumnsAndRows) {
  const Matrix m = random_matrix(5, 3);
  const std::vector<float> by_column = {0.5F, 3.0F, -1.7F};
  const std::vector<float> by_row = {1, 2.5F, 0, -1, 1e-3F};
  std::vector<float> columns, rows;
  for (std::int64_t r = 0; r < 5; ++r)
    for (std::int64_t c = 0; c < 3; ++c) {
      columns.push_back(m.at(r, c) * by_column[static_cast<std::size_t>(c)]);
      rows.push_back(m.at(r, c) * by_row[static_cast<std::size_t>(r)]);
    }
  expect_rows(scale_columns(stored_rows(m.tensor()), by_column), columns);
  expect_rows(scale_rows(stored_rows(m.tensor()), by_row), rows);
  EXPECT_EQ(scale_rows(stored_rows(m.tensor()), by_row)->dtype(), DType::kF32);
}

TEST(Rows, DividesClampsAndRounds) {
  const Matrix m = random_matrix(5, 6);
  const Rows rows = stored_rows(m.tensor());
  std::vector<float> divided = m.values, clamped = m.values, rounded = m.values;
  const std::vector<float> divisors = {3, -7, 0.1F, 1, 11};
  // Three groups of two in each row.
  std::vector<float> bounds;
  for (int i = 0; i < 15; ++i) bounds.push_back(0.1F * static_cast<float>(i));
  for (std::size_t i = 0; i < m.values.size(); ++i) {
    divided[i] = m.values[i] / divisors[i / 6];
    clamped[i] = std::clamp(m.values[i], -bounds[i / 2], bounds[i / 2]);
    rounded[i] = f16_to_float(float_to_f16(m.values[i]));
  }
  expect_rows(divide_rows(rows, divisors), divided);
  expect_rows(clamp_groups(rows, Tensor::from_floats(bounds, {5, 3})), clamped);
  expect_rows(round_rows(rows, DType::kF16), rounded);
  EXPECT_EQ(round_rows(rows, DType::kF16)->dtype(), DType::kF16);
  EXPECT_EQ(round_rows(rows, DType::kF32), rows);
}

TEST(Rows, RotatesColumns) {
  for (const auto& [n, k, d] : {std::tuple{3, 6, 3}, {130, 20, 5}, {2, 700, 700}, {4, 4, 1}}) {
    const Matrix m = random_matrix(n, k);
    const Matrix r = random_matrix(d, d, 2);
    std::vector<float> expected;
    for (std::int64_t row = 0; row < n; ++row)
      for (std::int64_t c = 0; c < k; ++c) {
        double sum = 0;
        for (std::int64_t i = 0; i < d; ++i)
          sum += static_cast<double>(m.at(row, c / d * d + i)) * r.at(i, c % d);
        expected.push_back(static_cast<float>(sum));
      }
    const Rows rotated = rotate_columns(stored_rows(m.tensor()), r.tensor());
    EXPECT_EQ(rotated->stored(), nullptr);
    expect_rows(rotated, expected);
  }
}

TEST(Rows, RotatesRows) {
  for (const auto& [n, k, d] : {std::tuple{6, 5, 3}, {200, 20, 100}, {4, 700, 2}, {3, 3, 1}}) {
    const Matrix m = random_matrix(n, k);
    const Matrix r = random_matrix(d, d, 2);
    std::vector<float> expected;
    for (std::int64_t row = 0; row < n; ++row)
      for (std::int64_t c = 0; c < k; ++c) {
        double sum = 0;
        for (std::int64_t i = 0; i < d; ++i)
          sum += static_cast<double>(r.at(i, row % d)) * m.at(row / d * d + i, c);
        expected.push_back(static_cast<float>(sum));
      }
    expect_rows(rotate_rows(stored_rows(m.tensor()), r.tensor()), expected);
  }
}

TEST(Rows, Compose) {
  // A rotation of rows and its inverse, through a scale that is undone.
  const std::int64_t n = 96, k = 10;
  const Matrix m = random_matrix(n, k);
  const float c = std::cos(0.3F), s = std::sin(0.3F);
  const Tensor turn = Tensor::from_floats(std::vector<float>{c, -s, s, c}, {2, 2});
  const Tensor back = Tensor::from_floats(std::vector<float>{c, s, -s, c}, {2, 2});
  Rows rows = rotate_columns(rotate_rows(stored_rows(m.tensor()), turn), turn);
  rows = scale_rows(rows, std::vector<float>(n, 4));
  rows = scale_columns(rows, std::vector<float>(k, 0.25F));
  rows = rotate_rows(rotate_columns(rows, back), back);
  const std::vector<float> values = read_all(slice_rows(rows, 50, 20));
  for (std::size_t i = 0; i < values.size(); ++i)
    EXPECT_NEAR(values[i], m.values[50 * k + i], 1e-6) << i;
}

TEST(Rows, AreReadBySeveralThreads) {
  const Matrix m = random_matrix(128, 32);
  const Rows rows =
      rotate_rows(rotate_columns(stored_rows(m.tensor()), random_matrix(32, 32, 3).tensor()),
                  random_matrix(64, 64, 4).tensor());
  const std::vector<float> expected = read_all(rows);
  std::vector<std::vector<float>> results(3);
  std::vector<std::thread> threads;
  for (auto& result : results) threads.emplace_back([&] { result = read_all(rows); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_EQ(result, expected);
}

TEST(Rows, RefuseWhatDoesNotFit) {
  const Rows rows = stored_rows(random_matrix(4, 6).tensor());
  const auto square = [](std::int64_t d) { return random_matrix(d, d).tensor(); };
  EXPECT_EQ(error_of([&] { stored_rows(Tensor::from_floats(std::vector<float>(3), {3})); }),
            "[rows] expected a matrix of F32, F16, BF16, F64 or F8, got F32 [3]");
  const std::vector<std::uint8_t> bytes(4);
  const Tensor integers(DType::kU8, {2, 2}, std::as_bytes(std::span(bytes)), nullptr);
  EXPECT_NE(error_of([&] { stored_rows(integers); }).find("got U8 [2, 2]"), std::string::npos);
  EXPECT_NE(error_of([&] { stored_rows(Tensor()); }).find("empty tensor"), std::string::npos);
  EXPECT_NE(error_of([&] { stored_rows(Tensor::from_floats({}, {4, 0})); }).find("F32 [4, 0]"),
            std::string::npos);

  std::vector<float> out(12);
  EXPECT_EQ(error_of([&] { rows->read(0, std::span(out).first(7)); }),
            "[rows] expected whole rows of 6 values, got 7 values");
  EXPECT_EQ(error_of([&] { rows->read(3, out); }),
            "[rows] 2 rows from 3 on: a matrix [4, 6] does not have them");
  EXPECT_FALSE(error_of([&] { rows->read(-1, out); }).empty());
  for (const auto& [first, count] : {std::pair{-1, 1}, {0, 5}, {5, 0}, {1, -1}})
    EXPECT_FALSE(error_of([&, f = first, c = count] { slice_rows(rows, f, c); }).empty());
  for (const std::int64_t bad : {-1, 4})
    EXPECT_FALSE(error_of([&] { gather_rows(rows, {0, bad}); }).empty());

  EXPECT_EQ(error_of([&] { scale_columns(rows, std::vector<float>(4)); }),
            "[rows] factors of columns: expected 6 factors, got 4");
  EXPECT_EQ(error_of([&] { scale_rows(rows, std::vector<float>(6)); }),
            "[rows] factors of rows: expected 4 factors, got 6");
  EXPECT_EQ(error_of([&] { scale_rows(rows, {1, 1, INFINITY, 1}); }),
            "[rows] factors of rows: factor 2: expected a finite number, got inf");
  EXPECT_EQ(error_of([&] { divide_rows(rows, {1, 1, 0, 1}); }), "[rows] divisor 2 of rows is 0");
  EXPECT_EQ(error_of([&] { divide_rows(rows, {1}); }),
            "[rows] divisors of rows: expected 4 factors, got 1");
  EXPECT_EQ(error_of([&] { clamp_groups(rows, random_matrix(4, 4).tensor()); }),
            "[rows] expected F32 bounds, one row of groups for each of [4, 6]");
  EXPECT_EQ(error_of([&] {
              clamp_groups(rows, Tensor::from_floats(std::vector<float>(4, NAN), {4, 1}));
            }),
            "[rows] expected bounds of at least 0");
  EXPECT_EQ(error_of([&] { rotate_columns(rows, square(4)); }),
            "[rows] columns: 6 are not a multiple of the rotation's 4");
  EXPECT_EQ(error_of([&] { rotate_rows(rows, square(3)); }),
            "[rows] rows: 4 are not a multiple of the rotation's 3");
  EXPECT_EQ(error_of([&] { rotate_rows(rows, random_matrix(2, 3).tensor()); }),
            "[rows] rows: expected a rotation F32 [d, d], got F32 [2, 3]");
  EXPECT_FALSE(error_of([&] { rotate_rows(rows, integers); }).empty());
  EXPECT_FALSE(error_of([&] { rotate_rows(rows, Tensor()); }).empty());
  EXPECT_FALSE(error_of([&] { rotate_rows(rows, Tensor::from_floats({}, {0, 0})); }).empty());

  const std::vector<std::function<void()>> without_source = {
      [] { slice_rows(Rows(), 0, 0); },           [] { gather_rows(Rows(), {}); },
      [] { scale_columns(Rows(), {}); },          [] { scale_rows(Rows(), {}); },
      [&] { rotate_columns(Rows(), square(2)); }, [&] { rotate_rows(Rows(), square(2)); }};
  for (const auto& make : without_source)
    EXPECT_EQ(error_of(make), "[rows] expected a matrix, got none");
}

}  // namespace
}  // namespace tandem
