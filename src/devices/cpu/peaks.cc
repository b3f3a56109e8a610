// Measures int8 throughput and memory bandwidth on all threads.
#include "devices/cpu/peaks.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "tensor/tensor.h"

namespace tandem {
namespace {

double seconds(const auto& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Reads a buffer far larger than this process's share of the caches, in order, as a decode step
// reads its weights.
double measure_read(ThreadPool& pool) {
  constexpr std::int64_t kBytes = std::int64_t{1} << 30;
  std::byte* data = nullptr;
  const Tensor buffer = Tensor::allocate(DType::kU8, {kBytes}, &data);
  pool.parallel_for(kBytes, 4096, [&](Range range) {
    std::memset(data + range.begin, 1, static_cast<std::size_t>(range.size()));
  });
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(pool.threads()) * 8);
  double best = 0;
  for (int round = 0; round < 6; ++round) {
    const double time = seconds([&] {
      pool.run([&](int thread) {
        const Range range = partition(kBytes / 8, thread, pool.threads(), 512);
        const auto* words = reinterpret_cast<const std::uint64_t*>(data);
        // Eight independent sums, so that the loop waits for memory and not for its own additions.
        std::uint64_t sum[8] = {};
        for (std::int64_t i = range.begin; i + 8 <= range.end; i += 8) {
          for (int lane = 0; lane < 8; ++lane) sum[lane] += words[i + lane];
        }
        std::copy_n(sum, 8, sums.data() + thread * 8);
      });
    });
    best = std::max(best, static_cast<double>(kBytes) / time * 1e-9);
  }
  return best;
}

}  // namespace

double measure_int8_gops(const Kernels& kernels, ThreadPool& pool) {
  std::vector<std::int64_t> operations(static_cast<std::size_t>(pool.threads()));
  std::vector<std::int32_t> sinks(static_cast<std::size_t>(pool.threads()));
  std::int64_t iterations = 1000;
  double best = 0;
  for (int round = 0; round < 12; ++round) {
    const double time = seconds([&] {
      pool.run([&](int thread) {
        const auto t = static_cast<std::size_t>(thread);
        operations[t] = kernels.int8_peak_loop(iterations, &sinks[t]);
      });
    });
    std::int64_t total = 0;
    for (const std::int64_t n : operations) total += n;
    best = std::max(best, static_cast<double>(total) / time * 1e-9);
    // Grow until a round is long enough for the clock's resolution and a stable CPU frequency.
    if (time < 0.02) iterations *= 4;
  }
  return best;
}

Peaks measure_peaks(const Kernels& kernels, ThreadPool& pool) {
  Peaks peaks;
  peaks.int8_kernels = kernels.name;
  peaks.int8_gops = measure_int8_gops(kernels, pool);
  const Kernels& vector = select_vector_kernels(detect_cpu_features());
  peaks.int8_vector_gops = &vector == &kernels ? peaks.int8_gops : measure_int8_gops(vector, pool);
  peaks.read_gbps = measure_read(pool);
  return peaks;
}

}  // namespace tandem
