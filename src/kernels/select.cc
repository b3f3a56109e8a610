// Selects the tables that a processor can run, and sizes the scratch memory of attention.
#include <algorithm>

#include "kernels/tables.h"
#include "kernels/x86/layers.h"

namespace tandem {

namespace {

// Each table is the previous one with the kernels that its instruction set improves. It is built on
// first use, because the functions that fill it are themselves compiled for that instruction set.
const Kernels& avx2_kernels() {
  static const Kernels kTable = [] {
    Kernels table = ref_kernels();
    table.name = "avx2";
    use_floats_avx2(table);
    use_linear_avx2(table);
    use_attention_avx2(table);
    return table;
  }();
  return kTable;
}

const Kernels& avx512_kernels() {
  static const Kernels kTable = [] {
    Kernels table = avx2_kernels();
    table.name = "avx512";
    use_floats_avx512(table);
    use_attention_avx512(table);
    return table;
  }();
  return kTable;
}

const Kernels& vnni_kernels() {
  static const Kernels kTable = [] {
    Kernels table = avx512_kernels();
    table.name = "avx512_vnni";
    use_linear_vnni(table);
    return table;
  }();
  return kTable;
}

const Kernels& amx_kernels() {
  static const Kernels kTable = [] {
    Kernels table = vnni_kernels();
    table.name = "amx";
    use_floats_amx(table);
    use_linear_amx(table);
    return table;
  }();
  return kTable;
}

}  // namespace

std::vector<const Kernels*> available_kernels(const CpuFeatures& features) {
  std::vector<const Kernels*> tables = {&ref_kernels()};
  if (!features.avx2) return tables;
  tables.push_back(&avx2_kernels());
  if (!features.avx512) return tables;
  tables.push_back(&avx512_kernels());
  if (!features.avx512_vnni) return tables;
  tables.push_back(&vnni_kernels());
  if (features.amx) tables.push_back(&amx_kernels());
  return tables;
}

const Kernels& select_kernels(const CpuFeatures& features) noexcept {
  return *available_kernels(features).back();
}

const Kernels& select_vector_kernels(const CpuFeatures& features) noexcept {
  CpuFeatures vector = features;
  vector.amx = false;
  return select_kernels(vector);
}

std::int64_t attention_scratch_floats(std::int64_t heads, std::int64_t kv_heads,
                                      std::int64_t head_dim) noexcept {
  const std::int64_t tile = std::max(kAttentionTileRows, heads / kv_heads);
  const std::int64_t dim = (head_dim + 15) / 16 * 16;
  // Keys and values of a block in float32; for each row of the tile its scaled query, accumulator,
  // scores and three scalars.
  return 2 * kKvBlockTokens * dim + tile * (2 * dim + kKvBlockTokens + 3);
}

std::int64_t int_attention_scratch_bytes(std::int64_t heads, std::int64_t kv_heads,
                                         std::int64_t head_dim, std::int64_t columns) noexcept {
  const std::int64_t tile = std::max(kIntAttentionTileRows, heads / kv_heads);
  const std::int64_t dim = (head_dim + 15) / 16 * 16;
  const std::int64_t padded = (columns + kKvBlockTokens - 1) / kKvBlockTokens * kKvBlockTokens;
  // Values of a block in float32 and keys in int16; for each row of the tile its query, accumulator
  // and scores.
  return kKvBlockTokens * dim * (4 + 2) + tile * (dim * (2 + 4) + padded * 4);
}

}  // namespace tandem
