// Buffers of values (devices/buffers.h) for tests: poisoned, filled from numbers and read back.
#pragma once

#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "devices/buffers.h"
#include "kernels/cases.h"

namespace tandem::testing {

// NaN in any float type, -1 in any type of integer.
inline constexpr std::byte kPoison{0xFF};

class Buffer {
 public:
  Buffer(const Value& value, std::int64_t max_rows)
      : value_(value), max_rows_(max_rows), memory_(buffer_bytes(value, max_rows), kPoison) {}

  std::byte* data() { return memory_.data(); }

  void fill(std::byte byte) { std::fill_n(memory_.data(), buffer_bytes(value_, max_rows_), byte); }

  // Row-major numbers of whole rows.
  void write(std::span<const double> numbers) {
    const auto width = static_cast<std::size_t>(value_.width);
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const double number = numbers[i];
      if (value_.dtype == DType::kF32) at<float>(i) = static_cast<float>(number);
      if (value_.dtype == DType::kI32) at<std::int32_t>(i) = static_cast<std::int32_t>(number);
      if (value_.dtype == DType::kI64) at<std::int64_t>(i) = static_cast<std::int64_t>(number);
      if (value_.dtype == DType::kI16) at<std::int16_t>(i) = static_cast<std::int16_t>(number);
    }
    if (value_.dtype != DType::kI8) return;
    const CodeRows rows = code_rows();
    for (std::size_t r = 0; r < numbers.size() / width; ++r) {
      std::int8_t* codes = rows.codes + static_cast<std::int64_t>(r) * rows.stride;
      std::fill_n(codes, rows.stride, std::int8_t{0});
      rows.sums[r] = 0;
      for (std::size_t c = 0; c < width; ++c) {
        codes[c] = static_cast<std::int8_t>(numbers[r * width + c]);
        rows.sums[r] += codes[c];
      }
    }
  }

  std::vector<double> read(std::int64_t rows) {
    std::vector<double> numbers;
    const auto width = static_cast<std::size_t>(value_.width);
    for (std::size_t i = 0; i < static_cast<std::size_t>(rows) * width; ++i) {
      if (value_.dtype == DType::kF32) numbers.push_back(double{at<float>(i)});
      if (value_.dtype == DType::kI32) numbers.push_back(at<std::int32_t>(i));
      if (value_.dtype == DType::kI64) numbers.push_back(static_cast<double>(at<std::int64_t>(i)));
      if (value_.dtype == DType::kI16) numbers.push_back(at<std::int16_t>(i));
      if (value_.dtype == DType::kI8) {
        const CodeRows all = code_rows();
        numbers.push_back(all.codes[static_cast<std::int64_t>(i / width) * all.stride +
                                    static_cast<std::int64_t>(i % width)]);
      }
    }
    return numbers;
  }

  // Of int8 codes: what kernels need besides them.
  CodeRows code_rows() { return {memory_.data(), value_.width, max_rows_}; }

 private:
  template <typename T>
  T& at(std::size_t i) {
    return reinterpret_cast<T*>(memory_.data())[i];
  }

  Value value_;
  std::int64_t max_rows_;
  Aligned<std::byte> memory_;
};

}  // namespace tandem::testing
