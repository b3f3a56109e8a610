// Loops that do nothing but multiply-adds in registers, or read memory.
#include "kernels/machine.h"

#include <immintrin.h>

#include <algorithm>
#include <ctime>
#include <vector>

namespace tandem::bench {

namespace {

constexpr int kChains = 12;

__attribute__((target("avx512f"))) std::int64_t fma_loop_avx512(std::int64_t iterations,
                                                                float* sink) {
  __m512 s0 = _mm512_set1_ps(*sink), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0,
         s8 = s0, s9 = s0, s10 = s0, s11 = s0;
  const __m512 a = _mm512_set1_ps(0.999F), b = _mm512_set1_ps(0.001F);
  for (std::int64_t i = 0; i < iterations; ++i) {
    // Opaque to the compiler, which would otherwise see that all chains are equal.
    __asm__ volatile("" : "+v"(s0), "+v"(s1), "+v"(s2), "+v"(s3), "+v"(s4), "+v"(s5));
    __asm__ volatile("" : "+v"(s6), "+v"(s7), "+v"(s8), "+v"(s9), "+v"(s10), "+v"(s11));
    s0 = _mm512_fmadd_ps(s0, a, b);
    s1 = _mm512_fmadd_ps(s1, a, b);
    s2 = _mm512_fmadd_ps(s2, a, b);
    s3 = _mm512_fmadd_ps(s3, a, b);
    s4 = _mm512_fmadd_ps(s4, a, b);
    s5 = _mm512_fmadd_ps(s5, a, b);
    s6 = _mm512_fmadd_ps(s6, a, b);
    s7 = _mm512_fmadd_ps(s7, a, b);
    s8 = _mm512_fmadd_ps(s8, a, b);
    s9 = _mm512_fmadd_ps(s9, a, b);
    s10 = _mm512_fmadd_ps(s10, a, b);
    s11 = _mm512_fmadd_ps(s11, a, b);
  }
  const __m512 sum = s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7 + s8 + s9 + s10 + s11;
  *sink = _mm512_cvtss_f32(sum);
  return iterations * kChains * 16 * 2;
}

__attribute__((target("avx2,fma"))) std::int64_t fma_loop_avx2(std::int64_t iterations,
                                                               float* sink) {
  __m256 s0 = _mm256_set1_ps(*sink), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0,
         s8 = s0, s9 = s0, s10 = s0, s11 = s0;
  const __m256 a = _mm256_set1_ps(0.999F), b = _mm256_set1_ps(0.001F);
  for (std::int64_t i = 0; i < iterations; ++i) {
    __asm__ volatile("" : "+x"(s0), "+x"(s1), "+x"(s2), "+x"(s3), "+x"(s4), "+x"(s5));
    __asm__ volatile("" : "+x"(s6), "+x"(s7), "+x"(s8), "+x"(s9), "+x"(s10), "+x"(s11));
    s0 = _mm256_fmadd_ps(s0, a, b);
    s1 = _mm256_fmadd_ps(s1, a, b);
    s2 = _mm256_fmadd_ps(s2, a, b);
    s3 = _mm256_fmadd_ps(s3, a, b);
    s4 = _mm256_fmadd_ps(s4, a, b);
    s5 = _mm256_fmadd_ps(s5, a, b);
    s6 = _mm256_fmadd_ps(s6, a, b);
    s7 = _mm256_fmadd_ps(s7, a, b);
    s8 = _mm256_fmadd_ps(s8, a, b);
    s9 = _mm256_fmadd_ps(s9, a, b);
    s10 = _mm256_fmadd_ps(s10, a, b);
    s11 = _mm256_fmadd_ps(s11, a, b);
  }
  const __m256 sum = s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7 + s8 + s9 + s10 + s11;
  *sink = _mm256_cvtss_f32(sum);
  return iterations * kChains * 8 * 2;
}

// Four streams, because a core keeps more reads in flight for several pages than for one.
std::uint64_t read_all(const std::uint64_t* words, std::int64_t count) {
  const std::int64_t quarter = count / 4;
  __m128i sums[4] = {};
  for (std::int64_t i = 0; i < quarter; i += 2)
    for (int s = 0; s < 4; ++s)
      sums[s] = _mm_add_epi64(
          sums[s], _mm_load_si128(reinterpret_cast<const __m128i*>(words + s * quarter + i)));
  const __m128i sum =
      _mm_add_epi64(_mm_add_epi64(sums[0], sums[1]), _mm_add_epi64(sums[2], sums[3]));
  return static_cast<std::uint64_t>(_mm_cvtsi128_si64(sum));
}

template <typename Job>
double shortest_run(ThreadPool& pool, int repeats, const Job& job) {
  double shortest = 1e9;
  for (int i = 0; i < repeats; ++i) shortest = std::min(shortest, slowest_thread(pool, job));
  return shortest;
}

}  // namespace

double thread_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double int8_peak(ThreadPool& pool, const Kernels& table) {
  std::vector<std::int64_t> operations(64);
  std::vector<std::int32_t> sinks(64, 3);
  const double seconds = shortest_run(pool, 100, [&](int thread) {
    const auto t = static_cast<std::size_t>(thread);
    operations[t] = table.int8_peak_loop(100'000, &sinks[t]);
  });
  return static_cast<double>(operations[0]) * pool.threads() / seconds;
}

double float_peak(ThreadPool& pool) {
  const CpuFeatures features = detect_cpu_features();
  if (!features.avx2) return 0;
  std::vector<std::int64_t> operations(64);
  std::vector<float> sinks(64, 1);
  const double seconds = shortest_run(pool, 100, [&](int thread) {
    const auto t = static_cast<std::size_t>(thread);
    operations[t] =
        features.avx512 ? fma_loop_avx512(200'000, &sinks[t]) : fma_loop_avx2(200'000, &sinks[t]);
  });
  return static_cast<double>(operations[0]) * pool.threads() / seconds;
}

double memory_reads(ThreadPool& pool) {
  constexpr std::int64_t kWords = (std::int64_t{1} << 30) / 8;
  std::vector<std::uint64_t> words(kWords + 8, 1);
  const auto offset = (64 - reinterpret_cast<std::uintptr_t>(words.data()) % 64) % 64 / 8;
  std::vector<std::uint64_t> sinks(64);
  const double seconds = shortest_run(pool, 5, [&](int thread) {
    const Range part = partition(kWords, thread, pool.threads(), 4096);
    sinks[static_cast<std::size_t>(thread)] =
        read_all(words.data() + offset + part.begin, part.size());
  });
  return static_cast<double>(kWords) * 8 / seconds;
}

}  // namespace tandem::bench
