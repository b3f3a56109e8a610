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

// Elements that share a scale and a minimum in Q4_K and Q5_K; in Q2_K, and with a scale alone in Q3_K
// and Q6_K.
constexpr int kGroup = 32;
constexpr int kGroups = kSuperBlock / kGroup;
constexpr int kSmallGroup = 16;
constexpr int kSmallGroups = kSuperBlock / kSmallGroup;

// Groups whose largest magnitude is below this count as zero in Q3_K and Q6_K.
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

// How Q2_K, Q4_K and Q5_K look for a scale: with codes up to `limit`, the range is tried as if it had
// first + limit steps, and `tries` times a tenth of a step more.
struct Search {
  int limit;
  float first;
  int tries;
  int group = kGroup;
  // Whether errors count by their magnitude and weights are those of the values alone, or errors by
  // their squares and small values more than by their own weight.
  bool is_absolute = false;
};
constexpr Search kSearchQ2{3, -0.5f, 15, kSmallGroup, true};
constexpr Search kSearchQ4{15, -1.0f, 20};
constexpr Search kSearchQ5{31, -0.5f, 15};

struct Line {
  float scale = 0;
  // Positive where the values reach below zero: w = scale * code - minimum.
  float minimum = 0;
};

// The scale and minimum of a group with the least error, where large values weigh more; its codes go
// to `codes`.
Line fit_line(const float* x, const Search& search, std::uint8_t* codes) {
  const int group = search.group;
  float mean = 0;
  if (!search.is_absolute) {
    float squares = 0;
    for (int i = 0; i < group; ++i) squares += x[i] * x[i];
    mean = std::sqrt(squares / static_cast<float>(group));
  }
  std::array<float, kGroup> weights;
  float sum_w = 0;
  float sum_x = 0;
  for (int i = 0; i < group; ++i) {
    weights[i] = mean + std::fabs(x[i]);
    sum_w += weights[i];
    sum_x += weights[i] * x[i];
  }
  const auto [lowest, highest] = std::minmax_element(x, x + group);
  const float maximum = *highest;
  float minimum = std::min(*lowest, 0.0f);
  if (maximum == minimum) {
    std::fill_n(codes, group, std::uint8_t{0});
    return {0, -minimum};
  }
  const auto error_of = [&](const std::uint8_t* candidate, float scale, float offset) {
    float error = 0;
    for (int i = 0; i < group; ++i) {
      const float difference = scale * static_cast<float>(candidate[i]) + offset - x[i];
      error += weights[i] * (search.is_absolute ? std::fabs(difference) : difference * difference);
    }
    return error;
  };
  const auto limit = static_cast<float>(search.limit);
  const float inverse = limit / (maximum - minimum);
  float scale = 1 / inverse;
  for (int i = 0; i < group; ++i)
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
    for (int i = 0; i < group; ++i) {
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
    std::copy_n(candidate.data(), group, codes);
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

// Two bits of each of 256 codes in 64 bytes: in each half of 128 elements, 32 bytes hold elements i,
// i + 32, i + 64 and i + 96 from the lowest bits up.
void store_two_bits(const Codes& codes, std::uint8_t* out) {
  for (int i = 0; i < kSuperBlock / 4; ++i) {
    const std::uint8_t* code = codes.data() + i / 32 * 128 + i % 32;
    out[i] = static_cast<std::uint8_t>(code[0] | code[32] << 2 | code[64] << 4 | code[96] << 6);
  }
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

// The same for w = scale * (code - 4), from the nearest codes: one after the other becomes what is
// best with the scale that fits all others, until none changes.
float fit_coarse_scale(const float* x, std::uint8_t* codes) {
  constexpr int kHalf = 4;
  constexpr int kRounds = 5;
  float extreme = 0;
  for (int i = 0; i < kSmallGroup; ++i)
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  if (std::fabs(extreme) < kNothing) {
    std::fill_n(codes, kSmallGroup, std::uint8_t{0});
    return 0;
  }
  const float inverse = -static_cast<float>(kHalf) / extreme;
  std::array<int, kSmallGroup> best;
  float sum_xl = 0;
  float sum_l2 = 0;
  for (int i = 0; i < kSmallGroup; ++i) {
    best[i] = std::clamp(nearest(inverse * x[i]), -kHalf, kHalf - 1);
    const float weight = x[i] * x[i];
    const auto code = static_cast<float>(best[i]);
    sum_xl += weight * x[i] * code;
    sum_l2 += weight * code * code;
  }
  for (int round = 0; round < kRounds; ++round) {
    bool changes = false;
    for (int i = 0; i < kSmallGroup; ++i) {
      const float weight = x[i] * x[i];
      const auto old = static_cast<float>(best[i]);
      float other_xl = sum_xl - weight * x[i] * old;
      if (!(other_xl > 0)) continue;
      float other_l2 = sum_l2 - weight * old * old;
      const int code = std::clamp(nearest(x[i] * other_l2 / other_xl), -kHalf, kHalf - 1);
      if (code == best[i]) continue;
      other_xl += weight * x[i] * static_cast<float>(code);
      other_l2 += weight * static_cast<float>(code) * static_cast<float>(code);
      if (!(other_l2 > 0 && other_xl * other_xl * sum_l2 > sum_xl * sum_xl * other_l2)) continue;
      best[i] = code;
      sum_xl = other_xl;
      sum_l2 = other_l2;
      changes = true;
    }
    if (!changes) break;
  }
  for (int i = 0; i < kSmallGroup; ++i) codes[i] = static_cast<std::uint8_t>(best[i] + kHalf);
  return sum_l2 > 0 ? sum_xl / sum_l2 : 0.0f;
}

}  // namespace

// Four bits of scale (low nibble) and minimum (high) for each of 16 groups, 64 bytes of codes, F16 d
// and dmin.
void quantize_q2_k(const float* x, std::uint8_t* block) {
  constexpr float kLargest = 15.0f;
  Codes codes;
  std::array<Line, kSmallGroups> lines;
  float largest_scale = 0;
  float largest_minimum = 0;
  for (int s = 0; s < kSmallGroups; ++s) {
    lines[s] = fit_line(x + s * kSmallGroup, kSearchQ2, codes.data() + s * kSmallGroup);
    largest_scale = std::max(largest_scale, lines[s].scale);
    largest_minimum = std::max(largest_minimum, lines[s].minimum);
  }
  const float inverse_scale = largest_scale > 0 ? kLargest / largest_scale : 0.0f;
  const float inverse_minimum = largest_minimum > 0 ? kLargest / largest_minimum : 0.0f;
  const float d = store_half(largest_scale / kLargest, block + 80);
  const float dmin = store_half(largest_minimum / kLargest, block + 82);
  for (int s = 0; s < kSmallGroups; ++s) {
    block[s] = static_cast<std::uint8_t>(nearest(inverse_scale * lines[s].scale) |
                                         nearest(inverse_minimum * lines[s].minimum) << 4);
    const float scale = d * static_cast<float>(block[s] & 15);
    if (scale == 0) continue;
    const float minimum = dmin * static_cast<float>(block[s] >> 4);
    for (int i = s * kSmallGroup; i < (s + 1) * kSmallGroup; ++i)
      codes[i] = static_cast<std::uint8_t>(std::clamp(nearest((x[i] + minimum) / scale), 0, 3));
  }
  store_two_bits(codes, block + 16);
}

// 32 bytes of third bits, 64 bytes of two low bits, 12 bytes of 6-bit scales, F16 d.
void quantize_q3_k(const float* x, std::uint8_t* block) {
  Codes codes;
  std::array<float, kSmallGroups> scales;
  float extreme = 0;
  for (int s = 0; s < kSmallGroups; ++s) {
    scales[s] = fit_coarse_scale(x + s * kSmallGroup, codes.data() + s * kSmallGroup);
    if (std::fabs(scales[s]) > std::fabs(extreme)) extreme = scales[s];
  }
  std::fill_n(block, 110, std::uint8_t{0});
  std::uint8_t* packed = block + 96;
  const float inverse = extreme == 0 ? 0.0f : -32.0f / extreme;
  const float d = store_half(extreme == 0 ? 0.0f : 1 / inverse, block + 108);
  for (int s = 0; s < kSmallGroups; ++s) {
    int scale_code = -32;
    if (extreme != 0) {
      // As ggml has it, in eight bits before they are clamped.
      scale_code = std::clamp<int>(static_cast<std::int8_t>(nearest(inverse * scales[s])), -32, 31);
      const int stored = scale_code + 32;
      packed[s % 8] = static_cast<std::uint8_t>(packed[s % 8] | (stored & 15) << (s / 8 * 4));
      packed[8 + s % 4] = static_cast<std::uint8_t>(packed[8 + s % 4] | stored >> 4 << (s / 4 * 2));
    }
    const float scale = d * static_cast<float>(scale_code);
    if (scale == 0) continue;
    for (int i = s * kSmallGroup; i < (s + 1) * kSmallGroup; ++i)
      codes[i] = static_cast<std::uint8_t>(std::clamp(nearest(x[i] / scale), -4, 3) + 4);
  }
  for (int i = 0; i < kSuperBlock; ++i) {
    block[i % 32] = static_cast<std::uint8_t>(block[i % 32] | codes[i] >> 2 << (i / 32));
    codes[i] &= 3;
  }
  store_two_bits(codes, block + 32);
}

// F32 d, 256 signed codes, and the sums of 16 of them each in 16 bits. The largest value gets code
// -127.
void quantize_q8_k(const float* x, std::uint8_t* block) {
  float extreme = 0;
  for (int i = 0; i < kSuperBlock; ++i)
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  const float inverse = extreme == 0 ? 0.0f : -127.0f / extreme;
  const float d = extreme == 0 ? 0.0f : 1 / inverse;
  std::memcpy(block, &d, sizeof d);
  for (int s = 0; s < kSmallGroups; ++s) {
    std::int16_t sum = 0;
    for (int i = s * kSmallGroup; i < (s + 1) * kSmallGroup; ++i) {
      const int code = std::min(nearest(inverse * x[i]), 127);
      block[4 + i] = static_cast<std::uint8_t>(code);
      sum = static_cast<std::int16_t>(sum + static_cast<std::int8_t>(code));
    }
    std::memcpy(block + 4 + kSuperBlock + 2 * s, &sum, sizeof sum);
  }
}

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
