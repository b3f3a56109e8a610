// Dequantizing ggml's blocks. Layouts and the order of operations are those of ggml's reference: a
// product and a sum are rounded one after the other, never fused.
#include "checkpoint/gguf/ggml_blocks.h"

#include <array>
#include <bit>
#include <cassert>
#include <cstring>

#include "base/error.h"
#include "checkpoint/gguf/ggml_k_quants.h"
#include "tensor/half.h"

namespace tandem {
namespace {

using Bytes = const std::uint8_t*;

std::uint16_t load_16(Bytes at) {
  std::uint16_t value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

float load_half(Bytes at) { return f16_to_float(load_16(at)); }

// f16 d, 16 bytes: low nibbles are elements 0 to 15, high nibbles 16 to 31.
void dequantize_q4_0(Bytes block, float* out) {
  const float d = load_half(block);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>((block[2 + j] & 15) - 8);
    out[j + 16] = d * static_cast<float>((block[2 + j] >> 4) - 8);
  }
}

// f16 d, f16 m, 16 bytes of nibbles.
void dequantize_q4_1(Bytes block, float* out) {
  const float d = load_half(block);
  const float m = load_half(block + 2);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(block[4 + j] & 15) + m;
    out[j + 16] = d * static_cast<float>(block[4 + j] >> 4) + m;
  }
}

// Code `i` of 32, whose fifth bits are in the 4 bytes before the nibbles.
int five_bits(Bytes high, int i) {
  const int nibble = i < 16 ? high[4 + i] & 15 : high[4 + i - 16] >> 4;
  return nibble | ((high[i / 8] >> (i % 8)) & 1) << 4;
}

void dequantize_q5_0(Bytes block, float* out) {
  const float d = load_half(block);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(five_bits(block + 2, i) - 16);
}

void dequantize_q5_1(Bytes block, float* out) {
  const float d = load_half(block);
  const float m = load_half(block + 2);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(five_bits(block + 4, i)) + m;
}

// f16 d, 32 signed bytes.
void dequantize_q8_0(Bytes block, float* out) {
  const float d = load_half(block);
  for (int i = 0; i < 32; ++i)
    out[i] = static_cast<float>(static_cast<std::int8_t>(block[2 + i])) * d;
}

// Two bits of each of 256 elements in 64 bytes: in each half of 128 elements, 32 bytes hold
// elements i, i + 32, i + 64 and i + 96 from the lowest bits up.
int two_bits(Bytes codes, int i) {
  return (codes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3;
}

// 16 bytes with the scale (low nibble) and minimum (high nibble) of 16 elements each, 64 bytes of
// codes, f16 d, f16 dmin.
void dequantize_q2_k(Bytes block, float* out) {
  const float d = load_half(block + 80);
  const float dmin = load_half(block + 82);
  for (int i = 0; i < kSuperBlock; ++i) {
    const float scale = d * static_cast<float>(block[i / 16] & 15);
    const float minimum = dmin * static_cast<float>(block[i / 16] >> 4);
    out[i] = scale * static_cast<float>(two_bits(block + 16, i)) - minimum;
  }
}

// 32 bytes of third bits, 64 bytes of two low bits, 12 bytes of 6-bit scales, f16 d. An unset third
// bit means 4 less.
void dequantize_q3_k(Bytes block, float* out) {
  const float d = load_half(block + 108);
  const Bytes scales = block + 96;
  for (int i = 0; i < kSuperBlock; ++i) {
    const int s = i / 16;
    const int low = (scales[s % 8] >> (s / 8 * 4)) & 15;
    const int high = (scales[8 + s % 4] >> (s / 4 * 2)) & 3;
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    const int third = (block[i % 32] >> (i / 32)) & 1;
    out[i] = scale * static_cast<float>(two_bits(block + 32, i) - (third != 0 ? 0 : 4));
  }
}

// What the codes of IQ4_NL and IQ4_XS stand for: steps that grow with the distance from zero, as
// weights are distributed.
constexpr std::array<float, 16> kNonLinear = {-127, -104, -83, -65, -49, -35, -22, -10,
                                              1,    13,   25,  38,  53,  69,  89,  113};

// 16 bytes: low nibbles are elements 0 to 15, high nibbles 16 to 31.
void look_up_nibbles(const std::array<float, 16>& table, float scale, Bytes codes, float* out) {
  for (int j = 0; j < 16; ++j) {
    out[j] = scale * table[codes[j] & 15];
    out[j + 16] = scale * table[codes[j] >> 4];
  }
}

// f16 d, 16 bytes of nibbles.
void dequantize_iq4_nl(Bytes block, float* out) {
  look_up_nibbles(kNonLinear, load_half(block), block + 2, out);
}

// f16 d, 16 bits with the two high bits of each of eight scales, 4 bytes with their four low bits,
// then 16 bytes of nibbles for 32 elements each. A scale is stored 32 higher than it is.
void dequantize_iq4_xs(Bytes block, float* out) {
  const float d = load_half(block);
  const std::uint16_t high = load_16(block + 2);
  for (int s = 0; s < kSuperBlock / 32; ++s) {
    const int low = (block[4 + s / 2] >> (s % 2 * 4)) & 15;
    const int scale = (low | ((high >> (2 * s)) & 3) << 4) - 32;
    look_up_nibbles(kNonLinear, d * static_cast<float>(scale), block + 8 + 16 * s, out + 32 * s);
  }
}

// The values of FP4 (E2M1), doubled to be whole numbers. ggml has no negative zero.
constexpr std::array<float, 16> kDoubledFp4 = {0, 1,  2,  3,  4,  6,  8,  12,
                                               0, -1, -2, -3, -4, -6, -8, -12};

// 2^(exponent - 128): half of what E8M0 says, because the codes' values are doubled. ggml reads the
// exponent 255, which is E8M0's NaN, as a number, too.
float half_power(std::uint8_t exponent) {
  const std::uint32_t bits =
      exponent < 2 ? std::uint32_t{0x200000} << exponent : (std::uint32_t{exponent} - 1) << 23;
  return std::bit_cast<float>(bits);
}

// One byte of exponent, 16 bytes of nibbles.
void dequantize_mxfp4(Bytes block, float* out) {
  look_up_nibbles(kDoubledFp4, half_power(block[0]), block + 1, out);
}

struct ScaleAndMinimum {
  int scale;
  int minimum;
};

// Pair `s` of eight, six bits each, in the 12 bytes of Q4_K and Q5_K.
ScaleAndMinimum six_bits(Bytes packed, int s) {
  if (s < 4) return {packed[s] & 63, packed[s + 4] & 63};
  const int low = packed[s + 4];
  return {(low & 15) | (packed[s - 4] >> 6) << 4, low >> 4 | (packed[s] >> 6) << 4};
}

// The low four bits of 256 elements in 128 bytes: 32 bytes hold elements i (low nibble) and i + 32
// (high).
int four_bits(Bytes codes, int i) {
  return (codes[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4)) & 15;
}

// f16 d, f16 dmin, 12 bytes of scales and minimums for 32 elements each, then the codes.
void dequantize_q4_k(Bytes block, float* out) {
  const float d = load_half(block);
  const float dmin = load_half(block + 2);
  for (int i = 0; i < kSuperBlock; ++i) {
    const auto [scale, minimum] = six_bits(block + 4, i / 32);
    out[i] = d * static_cast<float>(scale) * static_cast<float>(four_bits(block + 16, i)) -
             dmin * static_cast<float>(minimum);
  }
}

// Like Q4_K, with 32 bytes of fifth bits before the codes.
void dequantize_q5_k(Bytes block, float* out) {
  const float d = load_half(block);
  const float dmin = load_half(block + 2);
  for (int i = 0; i < kSuperBlock; ++i) {
    const auto [scale, minimum] = six_bits(block + 4, i / 32);
    const int fifth = (block[16 + i % 32] >> (i / 32)) & 1;
    out[i] =
        d * static_cast<float>(scale) * static_cast<float>(four_bits(block + 48, i) | fifth << 4) -
        dmin * static_cast<float>(minimum);
  }
}

// 128 bytes of low nibbles (64 bytes hold elements i and i + 64 of a half), 64 bytes of two high
// bits, 16 signed scales, f16 d.
void dequantize_q6_k(Bytes block, float* out) {
  const float d = load_half(block + 208);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int low = (block[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4)) & 15;
    const int high = two_bits(block + 128, i);
    const float scale = d * static_cast<float>(static_cast<std::int8_t>(block[192 + i / 16]));
    out[i] = scale * static_cast<float>((low | high << 4) - 32);
  }
}

// F32 d, 256 signed codes, and sums of codes, which are for products only.
void dequantize_q8_k(Bytes block, float* out) {
  float d;
  std::memcpy(&d, block, sizeof d);
  for (int i = 0; i < kSuperBlock; ++i)
    out[i] = d * static_cast<float>(static_cast<std::int8_t>(block[4 + i]));
}

using Dequantize = void (*)(Bytes, float*);

Dequantize find_dequantize(GgmlType type) noexcept {
  switch (type) {
    case GgmlType::kQ4_0:
      return dequantize_q4_0;
    case GgmlType::kQ4_1:
      return dequantize_q4_1;
    case GgmlType::kQ5_0:
      return dequantize_q5_0;
    case GgmlType::kQ5_1:
      return dequantize_q5_1;
    case GgmlType::kQ8_0:
      return dequantize_q8_0;
    case GgmlType::kQ2_K:
      return dequantize_q2_k;
    case GgmlType::kQ3_K:
      return dequantize_q3_k;
    case GgmlType::kQ4_K:
      return dequantize_q4_k;
    case GgmlType::kQ5_K:
      return dequantize_q5_k;
    case GgmlType::kQ6_K:
      return dequantize_q6_k;
    case GgmlType::kQ8_K:
      return dequantize_q8_k;
    case GgmlType::kIQ4_NL:
      return dequantize_iq4_nl;
    case GgmlType::kIQ4_XS:
      return dequantize_iq4_xs;
    case GgmlType::kMXFP4:
      return dequantize_mxfp4;
    default:
      return nullptr;
  }
}

}  // namespace

bool can_dequantize(GgmlType type) noexcept {
  const auto dtype = plain_dtype(type);
  return (dtype && is_float(*dtype)) || find_dequantize(type) != nullptr;
}

void dequantize_blocks(GgmlType type, std::span<const std::byte> bytes, std::span<float> out) {
  if (const auto dtype = plain_dtype(type)) {
    const auto elements = static_cast<std::int64_t>(out.size());
    return Tensor(*dtype, {elements}, bytes, nullptr).copy_floats(0, out);
  }
  const Dequantize dequantize = find_dequantize(type);
  if (dequantize == nullptr)
    fail(ErrorCode::kUnsupported, "[ggml] values of type {} can't be read", to_string(type));
  const GgmlTypeInfo format = ggml_info(type);
  const auto elements = static_cast<std::size_t>(format.block_elements);
  const auto size = static_cast<std::size_t>(format.block_bytes);
  assert(out.size() / elements * size == bytes.size());
  const auto* block = reinterpret_cast<Bytes>(bytes.data());
  for (std::size_t i = 0; i < out.size() / elements; ++i)
    dequantize(block + i * size, out.data() + i * elements);
}

}  // namespace tandem
