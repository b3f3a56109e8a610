// The table of scalar kernels.
#include "kernels/ref/ref.h"
#include "kernels/tables.h"

namespace tandem {

const Kernels& ref_kernels() noexcept {
  static constexpr Kernels kTable = {
      .name = "ref",
      .linear_float = ref::linear_float,
      .linear_float_fast = ref::linear_float,
      .linear_int8 = ref::linear_int8,
      .linear_int8_sums = ref::linear_int8_sums,
      .linear_int4 = ref::linear_int4,
      .quantize_static = ref::quantize_static,
      .shadow_linear = ref::shadow_linear,
      .quantize_groups = ref::quantize_groups,
      .quantize_dynamic = ref::quantize_dynamic,
      .dequantize = ref::dequantize,
      .requantize_int8 = ref::requantize_int8,
      .requantize_int16 = ref::requantize_int16,
      .hadamard = ref::hadamard,
      .mix = ref::mix,
      .rms_norm = ref::rms_norm,
      .rope = ref::rope,
      .silu = ref::silu,
      .gelu = ref::gelu,
      .softcap = ref::softcap,
      .add = ref::add,
      .mul = ref::mul,
      .store_kv = ref::store_kv,
      .attention = ref::attention,
      .int_attention = ref::int_attention,
      .int8_peak_loop = ref::int8_peak_loop,
  };
  return kTable;
}

}  // namespace tandem
