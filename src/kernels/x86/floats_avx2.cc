// Float matrix products, quantizers and elementwise kernels with AVX2.
#include "kernels/x86/elementwise.h"
#include "kernels/x86/float_linear.h"
#include "kernels/x86/layers.h"
#include "kernels/x86/vec256.h"

namespace tandem {

void use_floats_avx2(Kernels& table) noexcept {
  table.linear_float = FloatLinear<Vec256>::linear;
  table.linear_float_fast = table.linear_float;
  use_elementwise<Vec256>(table);
}

}  // namespace tandem
