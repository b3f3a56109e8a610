// Random weights and activations for the tests of kernels, and the tables to run them on.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "tensor/half.h"

namespace tandem::testing {

// All tables of this machine but the reference.
inline std::vector<const Kernels*> fast_tables() {
  std::vector<const Kernels*> tables = available_kernels(detect_cpu_features());
  tables.erase(tables.begin());
  return tables;
}

inline const Kernels& reference() { return *available_kernels({})[0]; }

// Memory aligned to 64 bytes, as kernels get it.
template <typename T>
class Aligned {
 public:
  explicit Aligned(std::int64_t count, T value = {})
      : storage_(static_cast<std::size_t>(count) + 64 / sizeof(T)) {
    const auto address = reinterpret_cast<std::uintptr_t>(storage_.data());
    offset_ = static_cast<std::ptrdiff_t>((64 - address % 64) % 64 / sizeof(T));
    for (T& item : storage_) item = value;
  }
  T* data() { return storage_.data() + offset_; }
  const T* data() const { return storage_.data() + offset_; }
  T& operator[](std::int64_t i) { return data()[i]; }
  const T& operator[](std::int64_t i) const { return data()[i]; }

 private:
  std::vector<T> storage_;
  std::ptrdiff_t offset_ = 0;
};

using Random = std::mt19937;

inline int uniform(Random& random, int low, int high) {
  return std::uniform_int_distribution<int>(low, high)(random);
}

inline std::vector<float> normal_floats(Random& random, std::int64_t count, float deviation = 1) {
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

inline FloatWeight float_weight(Random& random, std::int64_t n, std::int64_t k, DType dtype) {
  const std::vector<float> values = normal_floats(random, n * k);
  if (dtype == DType::kF32) return Tensor::from_floats(values, {n, k});
  std::byte* data = nullptr;
  const Tensor weight = Tensor::allocate(dtype, {n, k}, &data);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t half =
        dtype == DType::kF16 ? float_to_f16(values[i]) : float_to_bf16(values[i]);
    std::memcpy(data + 2 * i, &half, 2);
  }
  return weight;
}

// Codes in [-extreme, extreme]; every value is an extreme one when `saturated`.
inline ChannelCodes int8_weight(Random& random, std::int64_t n, std::int64_t k,
                                bool saturated = false, bool per_tensor = false) {
  ChannelCodes weight{.n = n, .k = k};
  std::byte* codes = nullptr;
  std::byte* scales = nullptr;
  weight.codes = Tensor::allocate(DType::kI8, {n, k}, &codes);
  weight.scales = Tensor::allocate(DType::kF32, {per_tensor ? 1 : n}, &scales);
  for (std::int64_t i = 0; i < n * k; ++i) {
    const int code = saturated ? (uniform(random, 0, 3) ? 127 : -127) : uniform(random, -127, 127);
    codes[i] = static_cast<std::byte>(code);
  }
  for (std::int64_t i = 0; i < weight.scales.elements(); ++i) {
    const float scale = 0.001F * static_cast<float>(uniform(random, 1, 100));
    std::memcpy(scales + 4 * i, &scale, 4);
  }
  return weight;
}

// Int4 codes in blocks; every block scale and code is an extreme one when `saturated`.
inline ChannelCodes block_weight(Random& random, std::int64_t n, std::int64_t k, std::int64_t block,
                                 bool saturated = false) {
  ChannelCodes weight = int8_weight(random, n, k);
  std::byte *codes = nullptr, *block_scales = nullptr;
  weight.codes = Tensor::allocate(DType::kU8, {n, k / 2}, &codes);
  weight.block_scales = Tensor::allocate(DType::kU8, {n, k / block}, &block_scales);
  const auto code = [&] {
    return saturated ? 7 - 14 * uniform(random, 0, 1) : uniform(random, -7, 7);
  };
  for (std::int64_t i = 0; i < n * k / 2; ++i) {
    const int low = code() & 15;
    codes[i] = static_cast<std::byte>(low | (code() & 15) << 4);
  }
  for (std::int64_t i = 0; i < n * k / block; ++i)
    block_scales[i] = static_cast<std::byte>(saturated ? kMaxBlockScale : uniform(random, 1, 16));
  return weight;
}

struct GroupKind {
  int bits = 4;
  bool is_signed = false;
  bool has_zeros = true;
  std::int64_t group = 32;
  DType scales = DType::kF16;
};

// Any codes, zero points and scales; all codes 255 and zero points 0 when `saturated`.
inline GroupCodes group_weight(Random& random, std::int64_t n, std::int64_t k,
                               const GroupKind& kind, bool saturated = false) {
  GroupCodes weight{
      .n = n, .k = k, .bits = kind.bits, .is_signed = kind.is_signed, .group = kind.group};
  const std::int64_t groups = weight.groups();
  const auto packed = [&](std::int64_t count) { return (count * kind.bits + 7) / 8; };
  std::byte* codes = nullptr;
  std::byte* scales = nullptr;
  std::byte* zeros = nullptr;
  weight.codes = Tensor::allocate(kind.bits == 8 && kind.is_signed ? DType::kI8 : DType::kU8,
                                  {n, packed(k)}, &codes);
  weight.scales = Tensor::allocate(kind.scales, {n, groups}, &scales);
  if (kind.has_zeros)
    weight.zero_points = Tensor::allocate(DType::kU8, {n, packed(groups)}, &zeros);
  for (std::int64_t i = 0; i < n * packed(k); ++i)
    codes[i] = static_cast<std::byte>(saturated ? 255 : uniform(random, 0, 255));
  for (std::int64_t i = 0; i < n * groups; ++i) {
    const float scale = 0.001F * static_cast<float>(uniform(random, 1, 100));
    const std::uint16_t half =
        kind.scales == DType::kF16 ? float_to_f16(scale) : float_to_bf16(scale);
    if (kind.scales == DType::kF32)
      std::memcpy(scales + 4 * i, &scale, 4);
    else
      std::memcpy(scales + 2 * i, &half, 2);
  }
  if (kind.has_zeros)
    for (std::int64_t i = 0; i < n * packed(groups); ++i)
      zeros[i] = static_cast<std::byte>(saturated ? 0 : uniform(random, 0, 255));
  return weight;
}

inline GroupCodes int4_weight(Random& random, std::int64_t n, std::int64_t k, std::int64_t group,
                              bool saturated = false) {
  return group_weight(random, n, k, {.group = group}, saturated);
}

// A weight in panels.
struct Packed {
  explicit Packed(const Weight& weight)
      : layout(panel_layout(weight)), panels(layout.bytes(), std::byte{0xAA}) {
    pack_panels(weight, layout, {0, layout.panels()}, panels.data());
  }
  Range all() const { return {0, layout.panels()}; }

  PanelLayout layout;
  Aligned<std::byte> panels;
};

// Rows of codes with what belongs to them. `saturated`: all -128 or 127.
struct Int8Activations {
  Int8Activations(Random& random, std::int64_t rows, std::int64_t k, bool saturated = false)
      : stride(padded_k(k)), codes(rows * stride), sums(static_cast<std::size_t>(rows)) {
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t i = 0; i < k; ++i) {
        const int code =
            saturated ? (uniform(random, 0, 3) ? -128 : 127) : uniform(random, -128, 127);
        codes[r * stride + i] = static_cast<std::int8_t>(code);
        sums[static_cast<std::size_t>(r)] += code;
      }
  }
  StaticInt8Rows rows_from(std::int64_t first) const {
    return {codes.data() + first * stride, stride, sums.data() + first, 0.037F};
  }

  std::int64_t stride;
  Aligned<std::int8_t> codes;
  std::vector<std::int32_t> sums;
};

struct GroupActivations {
  GroupActivations(Random& random, std::int64_t rows, std::int64_t k, std::int64_t group,
                   bool saturated = false)
      : groups(k / group),
        stride(padded_k(k)),
        codes(rows * stride),
        scales(static_cast<std::size_t>(rows * groups)),
        sums(scales.size()) {
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t i = 0; i < k; ++i) {
        const int code =
            saturated ? (uniform(random, 0, 9) ? -128 : 127) : uniform(random, -127, 127);
        codes[r * stride + i] = static_cast<std::int8_t>(code);
        sums[static_cast<std::size_t>(r * groups + i / group)] += code;
      }
    for (float& scale : scales) scale = 0.001F * static_cast<float>(uniform(random, 0, 100));
  }
  GroupInt8Rows rows_from(std::int64_t first) const {
    return {codes.data() + first * stride, stride, scales.data() + first * groups,
            sums.data() + first * groups};
  }

  std::int64_t groups;
  std::int64_t stride;
  Aligned<std::int8_t> codes;
  std::vector<float> scales;
  std::vector<std::int32_t> sums;
};

// Distance of two floats in units of the last place of `expected`.
inline double ulps(float value, double expected) {
  const float near = static_cast<float>(expected);
  const double unit = std::nextafter(std::fabs(near), INFINITY) - std::fabs(near);
  return std::fabs(value - expected) / unit;
}

}  // namespace tandem::testing
