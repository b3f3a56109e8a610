// CPU features, detected once at startup.
#pragma once

#include <string>

namespace tandem {

struct CpuFeatures {
  // AVX2, FMA and F16C together.
  bool avx2 = false;
  // F, BW, DQ and VL together, with the operating system's support.
  bool avx512 = false;
  bool avx512_vnni = false;
  bool avx512_bf16 = false;
  // Tiles of int8 and of bfloat16, usable: the kernel has granted the process their state.
  bool amx = false;
  // "AMD EPYC 9354", as the system reports it.
  std::string model;

  // "avx2 avx512 avx512_vnni", for reports and cache keys.
  std::string summary() const;
};

CpuFeatures detect_cpu_features();

}  // namespace tandem
