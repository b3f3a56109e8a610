// The search for scales and minimums, and the layouts. Every product and sum is rounded by itself
// and in ggml's order, so that ties between candidates fall as they do there.
#include "checkpoint/gguf/ggml_k_quants.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "tensor/half.h"

namespace tandem {
namespace {

// Elements that share a scale and a minimum in Q4_K and Q5_K, and a scale in Q6_K.
constexpr int kGroup = 32;
constexpr int kGroups = kSuperBlock / kGroup;
constexpr int kSmallGroup = 16;
constexpr int kSmallGroups = kSuperBlock / kSmallGroup;

// Groups whose largest magnitude is below this count as zero in Q6_K.
constexpr float kNothing = 1e-15f;

using Codes = std::array<std::uint8_t, kSuperBlock>;

// The nearest integer, ties to even, for magnitudes up to 2^22: the sum with 1.5 * 2^23 has it in
// the low bits of its mantissa. What is beyond, infinite or not a number gives what ggml gets from
// the same bits.
int nearest(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value + 0x1.8p23f);
  return static_cast<int>(bits & 0x7fffff) - 0x400000;
}

// A code of w = scale * code + minimum.
int code_of(float value, float inverse, float minimum, int limit) {
  return std::clamp(nearest(inverse * (value - minimum)), 0, limit);
}

// Writes `value` as F16 and returns what it is there.
float store_half(float value, std::uint8_t* at) {
  const std::uint16_t half = float_to_f16(value);
  std::memcpy(at, &half, sizeof half);
  return f16_to_float(half);
}

// How Q4_K and Q5_K look for a scale: with codes up to `limit`, the range is tried as if it had
// first + limit steps, and `tries` times a tenth of a step more.
struct Search {
  int limit;
  float first;
  int tries;
};
constexpr Search kSearchQ4{15, -1.0f, 20};
constexpr Search kSearchQ5{31, -0.5f, 15};

struct Line {
  float scale = 0;
  // Positive where the values reach below zero: w = scale * code - minimum.
  float minimum = 0;
};

// The scale and minimum of a group with the least squared error, where large values weigh more; its
// codes go to `codes`.
Line fit_line(const float* x, const Search& search, std::uint8_t* codes) {
  float squares = 0;
  for (int i = 0; i < kGroup; ++i) squares += x[i] * x[i];
  const float mean = std::sqrt(squares / kGroup);
  std::array<float, kGroup> weights;
  float sum_w = 0;
  float sum_x = 0;
  for (int i = 0; i < kGroup; ++i) {
    weights[i] = mean + std::fabs(x[i]);
    sum_w += weights[i];
    sum_x += weights[i] * x[i];
  }
  const auto [lowest, highest] = std::minmax_element(x, x + kGroup);
  const float maximum = *highest;
  float minimum = std::min(*lowest, 0.0f);
  if (maximum == minimum) {
    std::fill_n(codes, kGroup, std::uint8_t{0});
    return {0, -minimum};
  }
  const auto error_of = [&](const std::uint8_t* candidate, float scale, float offset) {
    float error = 0;
    for (int i = 0; i < kGroup; ++i) {
      const float difference = scale * static_cast<float>(candidate[i]) + offset - x[i];
      error += weights[i] * (difference * difference);
    }
    return error;
  };
  const auto limit = static_cast<float>(search.limit);
  const float inverse = limit / (maximum - minimum);
  float scale = 1 / inverse;
  for (int i = 0; i < kGroup; ++i)
    codes[i] = static_cast<std::uint8_t>(code_of(x[i], inverse, minimum, search.limit));
  float best = error_of(codes, scale, minimum);
  // The minimum that is best so far is where the next try begins.
  for (int step = 0; step <= search.tries; ++step) {
    const float tried =
        (search.first + 0.1f * static_cast<float>(step) + limit) / (maximum - minimum);
    std::array<std::uint8_t, kGroup> candidate;
    float sum_l = 0;
    float sum_l2 = 0;
    float sum_xl = 0;
    for (int i = 0; i < kGroup; ++i) {
      const int code = code_of(x[i], tried, minimum, search.limit);
      candidate[i] = static_cast<std::uint8_t>(code);
      const float weighted = weights[i] * static_cast<float>(code);
      sum_l += weighted;
      sum_l2 += weighted * static_cast<float>(code);
      sum_xl += weighted * x[i];
    }
    // Weighted linear regression; a minimum above zero has no form.
    const float determinant = sum_w * sum_l2 - sum_l * sum_l;
    if (!(determinant > 0)) continue;
    float fitted = (sum_w * sum_xl - sum_x * sum_l) / determinant;
    float offset = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
    if (offset > 0) {
      offset = 0;
      fitted = sum_xl / sum_l2;
    }
    const float error = error_of(candidate.data(), fitted, offset);
    if (!(error < best)) continue;
    std::ranges::copy(candidate, codes);
    best = error;
    scale = fitted;
    minimum = offset;
  }
  return {scale, -minimum};
}

// Where the six-bit pair `s` of eight is: the high bits of the last four stand above the first
// eight.
void store_six_bits(int s, int scale, int minimum, std::uint8_t* packed) {
  const auto byte = [](int value) { return static_cast<std::uint8_t>(value); };
  if (s < 4) {
    packed[s] = byte(scale);
    packed[s + 4] = byte(minimum);
    return;
  }
  packed[s + 4] = byte((scale & 15) | (minimum & 15) << 4);
  packed[s - 4] = byte(packed[s - 4] | scale >> 4 << 6);
  packed[s] = byte(packed[s] | minimum >> 4 << 6);
}

// The sixteen bytes that Q4_K and Q5_K begin with: F16 d and dmin, then six bits of scale and
// minimum for each group. Returns the codes for the values that these stand for.
Codes quantize_lines(const float* x, const Search& search, std::uint8_t* header) {
  Codes codes;
  std::array<Line, kGroups> lines;
  float largest_scale = 0;
  float largest_minimum = 0;
  for (int s = 0; s < kGroups; ++s) {
    lines[s] = fit_line(x + s * kGroup, search, codes.data() + s * kGroup);
    largest_scale = std::max(largest_scale, lines[s].scale);
    largest_minimum = std::max(largest_minimum, lines[s].minimum);
  }
  const float inverse_scale = largest_scale > 0 ? 63.0f / largest_scale : 0.0f;
  const float inverse_minimum = largest_minimum > 0 ? 63.0f / largest_minimum : 0.0f;
  const float d = store_half(largest_scale / 63.0f, header);
  const float dmin = store_half(largest_minimum / 63.0f, header + 2);
  const auto six_bits = [](float value) {
    return std::min<int>(static_cast<std::uint8_t>(nearest(value)), 63);
  };
  for (int s = 0; s < kGroups; ++s) {
    const int scale_code = six_bits(inverse_scale * lines[s].scale);
    const int minimum_code = six_bits(inverse_minimum * lines[s].minimum);
    store_six_bits(s, scale_code, minimum_code, header + 4);
    const float scale = d * static_cast<float>(scale_code);
    // Then the codes have no meaning, and stay what the search made them.
    if (scale == 0) continue;
    const float minimum = dmin * static_cast<float>(minimum_code);
    for (int i = s * kGroup; i < (s + 1) * kGroup; ++i)
      codes[i] =
          static_cast<std::uint8_t>(std::clamp(nearest((x[i] + minimum) / scale), 0, search.limit));
  }
  return codes;
}

// The low four bits of 256 codes in 128 bytes: 32 bytes hold elements i (low nibble) and i + 32.
void store_nibbles(const Codes& codes, std::uint8_t* out) {
  for (int i = 0; i < kSuperBlock / 2; ++i) {
    const int at = i / 32 * 64 + i % 32;
    out[i] = static_cast<std::uint8_t>((codes[at] & 15) | (codes[at + 32] & 15) << 4);
  }
}

// The symmetric scale of a small group, w = scale * (code - 32), with the least squared error
// weighted by the values' squares; negative where the largest value is positive. Code 0 for all of a
// group that counts as zero.
float fit_scale(const float* x, std::uint8_t* codes) {
  constexpr int kHalf = 32;
  float extreme = 0;
  for (int i = 0; i < kSmallGroup; ++i)
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  if (std::fabs(extreme) < kNothing) {
    std::fill_n(codes, kSmallGroup, std::uint8_t{0});
    return 0;
  }
  float scale = 0;
  float best = 0;
  // The largest value gets code 0, exactly or up to 0.9 steps off; first exactly, which holds unless
  // another is better.
  const auto attempt = [&](int tenths, bool is_first) {
    const float inverse = is_first ? -static_cast<float>(kHalf) / extreme
                                   : -(kHalf + 0.1f * static_cast<float>(tenths)) / extreme;
    std::array<std::uint8_t, kSmallGroup> candidate;
    float sum_xl = 0;
    float sum_l2 = 0;
    for (int i = 0; i < kSmallGroup; ++i) {
      const int code = std::clamp(nearest(inverse * x[i]), -kHalf, kHalf - 1);
      candidate[i] = static_cast<std::uint8_t>(code + kHalf);
      const float weight = x[i] * x[i];
      sum_xl += weight * x[i] * static_cast<float>(code);
      sum_l2 += weight * static_cast<float>(code) * static_cast<float>(code);
    }
    if (!is_first && !(sum_l2 > 0 && sum_xl * sum_xl > best * sum_l2)) return;
    std::ranges::copy(candidate, codes);
    scale = sum_l2 != 0 ? sum_xl / sum_l2 : 0.0f;
    best = scale * sum_xl;
  };
  attempt(0, true);
  for (int tenths = -9; tenths <= 9; ++tenths)
    if (tenths != 0) attempt(tenths, false);
  return scale;
}

}  // namespace

void quantize_q4_k(const float* x, std::uint8_t* block) {
  store_nibbles(quantize_lines(x, kSearchQ4, block), block + 16);
}

// Like Q4_K, with 32 bytes of fifth bits before the nibbles: bit b of byte i is that of element
// 32 * b + i.
void quantize_q5_k(const float* x, std::uint8_t* block) {
  const Codes codes = quantize_lines(x, kSearchQ5, block);
  std::fill_n(block + 16, 32, std::uint8_t{0});
  for (int i = 0; i < kSuperBlock; ++i)
    block[16 + i % 32] =
        static_cast<std::uint8_t>(block[16 + i % 32] | (codes[i] >> 4 & 1) << (i / 32));
  store_nibbles(codes, block + 48);
}

// 128 bytes of low nibbles, 64 bytes of two high bits, 16 signed scales, F16 d.
void quantize_q6_k(const float* x, std::uint8_t* block) {
  Codes codes;
  std::array<float, kSmallGroups> scales;
  float extreme = 0;
  for (int s = 0; s < kSmallGroups; ++s) {
    scales[s] = fit_scale(x + s * kSmallGroup, codes.data() + s * kSmallGroup);
    if (std::fabs(scales[s]) > std::fabs(extreme)) extreme = scales[s];
  }
  if (std::fabs(extreme) < kNothing) {
    std::fill_n(block, 210, std::uint8_t{0});
    return;
  }
  const float inverse = -128.0f / extreme;
  const float d = store_half(1 / inverse, block + 208);
  for (int s = 0; s < kSmallGroups; ++s) {
    const int scale_code = std::min(127, nearest(inverse * scales[s]));
    block[192 + s] = static_cast<std::uint8_t>(scale_code);
    const float scale = d * static_cast<float>(static_cast<std::int8_t>(scale_code));
    if (scale == 0) continue;
    for (int i = s * kSmallGroup; i < (s + 1) * kSmallGroup; ++i)
      codes[i] = static_cast<std::uint8_t>(std::clamp(nearest(x[i] / scale), -32, 31) + 32);
  }
  for (int half = 0; half < 2; ++half) {
    const std::uint8_t* code = codes.data() + 128 * half;
    std::uint8_t* low = block + 64 * half;
    std::uint8_t* high = block + 128 + 32 * half;
    for (int i = 0; i < 64; ++i)
      low[i] = static_cast<std::uint8_t>((code[i] & 15) | (code[i + 64] & 15) << 4);
    for (int i = 0; i < 32; ++i)
      high[i] = static_cast<std::uint8_t>(code[i] >> 4 | code[i + 32] >> 4 << 2 |
                                          code[i + 64] >> 4 << 4 | code[i + 96] >> 4 << 6);
  }
}

}  // namespace tandem
