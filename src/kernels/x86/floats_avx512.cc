// Float matrix products, quantizers and elementwise kernels with AVX-512.
#include "kernels/x86/elementwise.h"
#include "kernels/x86/float_linear.h"
#include "kernels/x86/layers.h"
#include "kernels/x86/vec512.h"

namespace tandem {

void avx512_linear_float(const PanelLayout& layout, const std::byte* panels, Range range,
                         const float* x, std::int64_t x_stride, std::int64_t rows,
                         const LinearOutput& out) noexcept {
  FloatLinear<Vec512>::linear(layout, panels, range, x, x_stride, rows, out);
}

void use_floats_avx512(Kernels& table) noexcept {
  table.linear_float = avx512_linear_float;
  table.linear_float_fast = table.linear_float;
  use_elementwise<Vec512>(table);
}

}  // namespace tandem
