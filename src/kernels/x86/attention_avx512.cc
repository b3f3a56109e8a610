// KV blocks and attention with AVX-512.
#include "kernels/x86/attention.h"
#include "kernels/x86/int_attention.h"
#include "kernels/x86/layers.h"
#include "kernels/x86/vec512.h"

namespace tandem {

void use_attention_avx512(Kernels& table) noexcept {
  table.store_kv = Attention<Vec512>::store_kv;
  table.attention = Attention<Vec512>::attention;
  table.int_attention = IntAttention<Vec512>::run;
}

}  // namespace tandem
