// Detects which instructions the processor and the operating system allow.
#include "base/cpu_features.h"

#include <fstream>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#endif

namespace tandem {
namespace {

// The "model name" of the first processor; empty where /proc/cpuinfo gives none.
std::string model_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("model name")) continue;
    const auto colon = line.find(':');
    const auto start =
        line.find_first_not_of(" \t", colon == std::string::npos ? colon : colon + 1);
    if (start == std::string::npos) return {};
    return line.substr(start, line.find_last_not_of(" \t") + 1 - start);
  }
  return {};
}

#if defined(__x86_64__)

struct Cpuid {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Cpuid cpuid(unsigned leaf, unsigned subleaf) {
  Cpuid r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
  return r;
}

constexpr bool bit(std::uint64_t word, int i) { return ((word >> i) & 1) != 0; }
constexpr bool all_set(std::uint64_t word, std::uint64_t mask) { return (word & mask) == mask; }

// Register states that the operating system saves on a context switch (XCR0).
std::uint64_t saved_states() {
  std::uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (std::uint64_t{high} << 32) | low;
}

// Linux grants the 8 KiB of tile data only to processes that request it.
bool request_amx_tiles() {
  constexpr long kArchReqXcompPerm = 0x1023;
  constexpr long kTileDataState = 18;
  return ::syscall(SYS_arch_prctl, kArchReqXcompPerm, kTileDataState) == 0;
}

// Bit numbers from the Intel manual: volume 2A, CPUID, and volume 1, section 13.1.
void detect_instructions(CpuFeatures& f) {
  const Cpuid leaf1 = cpuid(1, 0);
  if (!bit(leaf1.ecx, 27)) return;  // the operating system does not use XSAVE
  const std::uint64_t states = saved_states();
  const Cpuid leaf7 = cpuid(7, 0);
  const Cpuid leaf7_1 = leaf7.eax >= 1 ? cpuid(7, 1) : Cpuid{};
  constexpr std::uint64_t kYmm = 0x6, kZmm = 0xe6, kTiles = 0x60000;

  if (!all_set(states, kYmm)) return;
  f.avx2 = bit(leaf7.ebx, 5) && bit(leaf1.ecx, 12) && bit(leaf1.ecx, 29);
  if (!f.avx2 || !all_set(states, kZmm)) return;
  f.avx512 = bit(leaf7.ebx, 16) && bit(leaf7.ebx, 30) && bit(leaf7.ebx, 17) && bit(leaf7.ebx, 31);
  if (!f.avx512) return;
  f.avx512_vnni = bit(leaf7.ecx, 11);
  f.avx512_bf16 = bit(leaf7_1.eax, 5);
  f.amx = bit(leaf7.edx, 22) && bit(leaf7.edx, 24) && bit(leaf7.edx, 25) &&
          all_set(states, kTiles) && request_amx_tiles();
}

#else

void detect_instructions(CpuFeatures&) {}

#endif

}  // namespace

std::string CpuFeatures::summary() const {
  std::string text;
  const auto add = [&](bool present, const char* name) {
    if (!present) return;
    if (!text.empty()) text += ' ';
    text += name;
  };
  add(avx2, "avx2");
  add(avx512, "avx512");
  add(avx512_vnni, "avx512_vnni");
  add(avx512_bf16, "avx512_bf16");
  add(amx, "amx");
  return text;
}

CpuFeatures detect_cpu_features() {
  CpuFeatures features;
  features.model = model_name();
  detect_instructions(features);
  return features;
}

}  // namespace tandem
