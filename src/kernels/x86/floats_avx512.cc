// Float matrix products, quantizers and elementwise kernels with AVX-512.
#include "kernels/x86/elementwise.h"
#include "kernels/x86/float_linear.h"
#include "kernels/x86/layers.h"
#include "kernels/x86/vec512.h"

namespace tandem {

void use_floats_avx512(Kernels& table) noexcept {
  table.linear_float = FloatLinear<Vec512>::linear;
  table.linear_float_fast = table.linear_float;
  use_elementwise<Vec512>(table);
}

}  // namespace tandem
