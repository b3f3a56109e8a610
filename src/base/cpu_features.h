// What the processor can do, found once at start.
#pragma once

#include <string>

namespace tandem {

struct CpuFeatures {
  bool avx2 = false;    // AVX2, FMA and F16C together
  bool avx512 = false;  // F, BW, DQ and VL together, with the operating system's support
  bool avx512_vnni = false;
  bool avx512_bf16 = false;
  bool amx_int8 = false;  // usable: the kernel has granted the tile state
  std::string model;      // "AMD EPYC 9354", as the system names it

  // "avx2 avx512 avx512_vnni", for reports and cache keys.
  std::string summary() const;
};

CpuFeatures detect_cpu_features();

}  // namespace tandem
