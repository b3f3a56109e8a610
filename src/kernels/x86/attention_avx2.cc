// KV blocks and attention with AVX2.
#include "kernels/x86/attention.h"
#include "kernels/x86/int_attention.h"
#include "kernels/x86/layers.h"
#include "kernels/x86/vec256.h"

namespace tandem {

void use_attention_avx2(Kernels& table) noexcept {
  table.store_kv = Attention<Vec256>::store_kv;
  table.attention = Attention<Vec256>::attention;
  table.int_attention = IntAttention<Vec256>::run;
}

}  // namespace tandem
