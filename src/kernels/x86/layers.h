// Each function puts the kernels of one file into a table. It is compiled for that file's
// instruction set, so it may only be called where the processor has it.
#pragma once

#include "kernels/kernels.h"

namespace tandem {

void use_floats_avx2(Kernels& table) noexcept;
void use_linear_avx2(Kernels& table) noexcept;
void use_attention_avx2(Kernels& table) noexcept;

void use_floats_avx512(Kernels& table) noexcept;
void use_attention_avx512(Kernels& table) noexcept;

void use_linear_vnni(Kernels& table) noexcept;

void use_linear_amx(Kernels& table) noexcept;

}  // namespace tandem
