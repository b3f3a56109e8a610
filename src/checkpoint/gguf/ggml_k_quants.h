// From floats to K-quants: blocks of 256 elements whose scales are themselves quantized.
#pragma once

#include <cstdint>

namespace tandem {

inline constexpr int kSuperBlock = 256;  // elements of a K-quant block

// One block each, from 256 finite values of magnitudes up to 8 * 65504, with the formulas of ggml's
// reference quantizers (ggml-quants.c) without an importance matrix: bytes are equal to theirs, also
// where a scale is too small for F16.
void quantize_q2_k(const float* x, std::uint8_t* block);
void quantize_q3_k(const float* x, std::uint8_t* block);
void quantize_q4_k(const float* x, std::uint8_t* block);
void quantize_q5_k(const float* x, std::uint8_t* block);
void quantize_q6_k(const float* x, std::uint8_t* block);
void quantize_q8_k(const float* x, std::uint8_t* block);

}  // namespace tandem
