// Speed of the matrix products, attention and quantizers on the shapes of a 1.24 B Llama, compared
// with the machine's peaks measured just before. Times are CPU times of the slowest thread, in the
// shortest of the runs.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "kernels/machine.h"

namespace tandem::bench {
namespace {

struct Machine {
  ThreadPool pool{default_threads()};
  double floats = float_peak(pool);
  double reads = memory_reads(pool);
};

// Runs `job`, which returns its time in seconds, as often as `state` requests; `operations` and
// `bytes` are per run.
void measure(benchmark::State& state, double operations, double operations_peak, double bytes,
             double bytes_peak, const std::function<double()>& job) {
  double shortest = 1e9;
  for (auto _ : state) {
    const double seconds = job();
    state.SetIterationTime(seconds);
    shortest = std::min(shortest, seconds);
  }
  state.counters["GOP/s"] = operations / shortest * 1e-9;
  if (operations_peak > 0) state.counters["%peak"] = 100 * operations / shortest / operations_peak;
  state.counters["GB/s"] = bytes / shortest * 1e-9;
  if (bytes_peak > 0) state.counters["%reads"] = 100 * bytes / shortest / bytes_peak;
}

template <typename T>
class Lines {
 public:
  explicit Lines(std::int64_t count) : storage_(static_cast<std::size_t>(count) + 64 / sizeof(T)) {
    const auto address = reinterpret_cast<std::uintptr_t>(storage_.data());
    data_ = storage_.data() + (64 - address % 64) % 64 / sizeof(T);
  }
  T* data() { return data_; }

 private:
  std::vector<T> storage_;
  T* data_;
};

// Copies of a panel weight, laid out consecutively: if `cold`, enough that none is still in a cache
// when it is used again.
struct Panels {
  Panels(const PanelLayout& panel_layout, bool cold)
      : layout(panel_layout),
        copies(cold ? std::max<std::int64_t>(1, (std::int64_t{768} << 20) / layout.bytes()) : 1),
        bytes(layout.bytes() * copies) {
    // 0x3C3C: a number near 1 as float16, near 0.01 as bfloat16 or float32.
    std::memset(bytes.data(), 0x3C, static_cast<std::size_t>(layout.bytes() * copies));
  }
  const std::byte* next() {
    turn = (turn + 1) % copies;
    return bytes.data() + turn * layout.bytes();
  }

  PanelLayout layout;
  std::int64_t copies;
  std::int64_t turn = 0;
  Lines<std::byte> bytes;
};

struct Shape2 {
  std::int64_t n, k;
};
const std::vector<Shape2> kShapes = {{2048, 2048}, {512, 2048}, {8192, 2048}, {2048, 8192}};

std::string name_of(const char* kernel, const Kernels& table, const Shape2& shape,
                    std::int64_t rows) {
  return std::string(kernel) + "/" + std::string(table.name) + "/" + std::to_string(shape.n) + "x" +
         std::to_string(shape.k) + "/rows:" + std::to_string(rows);
}

void add_benchmark(const std::string& name, const std::function<void(benchmark::State&)>& body) {
  benchmark::RegisterBenchmark(name.c_str(), body)->UseManualTime()->Unit(benchmark::kMicrosecond);
}

void add_linears(Machine& machine, const Kernels& table, double int8) {
  for (const Shape2& shape : kShapes)
    for (const std::int64_t rows : {1, 4, 8, 16, 128}) {
      const double operations = 2.0 * static_cast<double>(shape.n * shape.k * rows);
      const bool cold = rows < 16;
      const auto body = [=, &machine, &table](PanelLayout layout, double peak, auto run) {
        return [=, &machine, &table](benchmark::State& state) {
          Panels panels(layout, cold);
          Lines<std::int8_t> codes(rows * layout.k);
          for (std::int64_t i = 0; i < rows * layout.k; ++i)
            codes.data()[i] = static_cast<std::int8_t>(i * 7);
          Lines<float> floats(rows * layout.k), y(rows * layout.n);
          Lines<std::int32_t> sums(rows * layout.k / 32);
          measure(state, operations, peak, static_cast<double>(layout.bytes()),
                  cold ? machine.reads : 0, [&] {
                    const std::byte* weights = panels.next();
                    return slowest_thread(machine.pool, [&](int thread) {
                      const Range range =
                          partition(layout.panels(), thread, machine.pool.threads());
                      run(table, layout, weights, range, codes.data(), floats.data(), sums.data(),
                          rows, LinearOutput{y.data(), layout.n, nullptr});
                    });
                  });
        };
      };
      const auto run_int8 = [](const Kernels& t, const PanelLayout& l, const std::byte* w, Range r,
                               const std::int8_t* codes, const float*, const std::int32_t* sums,
                               std::int64_t m, const LinearOutput& y) {
        t.linear_int8(l, w, r, {codes, l.k, sums, 0.1F}, m, y);
      };
      const auto run_int4 = [](const Kernels& t, const PanelLayout& l, const std::byte* w, Range r,
                               const std::int8_t* codes, const float* x, const std::int32_t* sums,
                               std::int64_t m, const LinearOutput& y) {
        t.linear_int4(l, w, r, {codes, l.k, x, sums}, m, y);
      };
      const auto run_float = [](const Kernels& t, const PanelLayout& l, const std::byte* w, Range r,
                                const std::int8_t*, const float* x, const std::int32_t*,
                                std::int64_t m,
                                const LinearOutput& y) { t.linear_float(l, w, r, x, l.k, m, y); };
      add_benchmark(name_of("int8", table, shape, rows),
                    body(PanelLayout{PanelKind::kInt8, shape.n, shape.k, 0}, int8, run_int8));
      add_benchmark(name_of("int4g128", table, shape, rows),
                    body(PanelLayout{PanelKind::kInt4, shape.n, shape.k, 128}, int8, run_int4));
      add_benchmark(
          name_of("f32", table, shape, rows),
          body(PanelLayout{PanelKind::kF32, shape.n, shape.k, 0}, machine.floats, run_float));
      add_benchmark(
          name_of("bf16", table, shape, rows),
          body(PanelLayout{PanelKind::kBF16, shape.n, shape.k, 0}, machine.floats, run_float));
    }
}

// 32 query and 8 KV heads of 64, after `past` tokens.
void add_attention(Machine& machine, const Kernels& table, std::int64_t past, std::int64_t rows) {
  const std::string name = "attention/" + std::string(table.name) +
                           "/past:" + std::to_string(past) + "/rows:" + std::to_string(rows);
  add_benchmark(name, [=, &machine, &table](benchmark::State& state) {
    constexpr std::int64_t kHeads = 32, kKvHeads = 8, kDim = 64;
    const std::int64_t blocks = (past + rows + 63) / 64;
    const std::int64_t block_bytes = kv_block_bytes(kKvHeads, kDim, DType::kF16);
    Lines<std::byte> storage(blocks * block_bytes);
    std::vector<const std::byte*> pointers;
    for (std::int64_t b = 0; b < blocks; ++b) pointers.push_back(storage.data() + b * block_bytes);
    Lines<float> q(rows * kHeads * kDim), out(rows * kHeads * kDim);
    AttentionArgs args{.q = q.data(),
                       .q_stride = kHeads * kDim,
                       .out = out.data(),
                       .out_stride = kHeads * kDim,
                       .first_position = past,
                       .heads = kHeads,
                       .kv_heads = kKvHeads,
                       .head_dim = kDim,
                       .scale = 0.125F,
                       .blocks = pointers.data()};
    const std::int64_t floats = (attention_scratch_floats(kHeads, kKvHeads, kDim) + 15) / 16 * 16;
    Lines<float> scratch(floats * machine.pool.threads());
    const double tokens = static_cast<double>(past) + 0.5 * static_cast<double>(rows + 1);
    measure(state, 4.0 * kHeads * kDim * tokens * static_cast<double>(rows), machine.floats,
            4.0 * kKvHeads * kDim * static_cast<double>(past + rows), 0, [&] {
              return slowest_thread(machine.pool, [&](int thread) {
                const Range heads = partition(kKvHeads, thread, machine.pool.threads());
                for (std::int64_t h = heads.begin; h < heads.end; ++h)
                  table.attention(args, h, {0, rows}, scratch.data() + thread * floats);
              });
            });
  });
}

// One thread, one row of 8192.
void add_rows(const Kernels& table) {
  constexpr std::int64_t kWidth = 8192;
  const auto add = [&](const char* kernel, auto run) {
    add_benchmark(std::string(kernel) + "/" + std::string(table.name),
                  [=, &table](benchmark::State& state) {
                    Lines<float> x(kWidth), y(kWidth), scales(kWidth);
                    Lines<std::int8_t> codes(kWidth);
                    Lines<std::int32_t> sums(kWidth);
                    for (std::int64_t i = 0; i < kWidth; ++i)
                      x.data()[i] = 0.01F * static_cast<float>(i % 777) - 3;
                    measure(state, kWidth, 0, 4.0 * kWidth, 0, [&] {
                      const double start = thread_seconds();
                      run(table, x.data(), y.data(), codes.data(), scales.data(), sums.data());
                      return thread_seconds() - start;
                    });
                  });
  };
  add("quantize_static",
      [](const Kernels& t, const float* x, float*, std::int8_t* codes, float*, std::int32_t* sums) {
        t.quantize_static(x, kWidth, 0.1F, codes, sums);
      });
  add("quantize_groups",
      [](const Kernels& t, const float* x, float*, std::int8_t* codes, float* scales,
         std::int32_t* sums) { t.quantize_groups(x, kWidth, 128, codes, scales, sums); });
  add("silu", [](const Kernels& t, const float* x, float* y, std::int8_t*, float*, std::int32_t*) {
    t.silu(x, kWidth, y);
  });
  add("rms_norm", [](const Kernels& t, const float* x, float* y, std::int8_t*, float*,
                     std::int32_t*) { t.rms_norm(x, x, 1e-5F, kWidth, y); });
}

}  // namespace
}  // namespace tandem::bench

int main(int argc, char** argv) {
  using namespace tandem;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  bench::Machine machine;
  const CpuFeatures features = detect_cpu_features();
  const auto all = available_kernels(features);
  benchmark::AddCustomContext("processor", features.model + ": " + features.summary());
  benchmark::AddCustomContext("threads", std::to_string(machine.pool.threads()));
  benchmark::AddCustomContext("float32 GFLOP/s", std::to_string(machine.floats * 1e-9));
  benchmark::AddCustomContext("reads GB/s", std::to_string(machine.reads * 1e-9));
  for (const Kernels* table : all) {
    const double int8 = bench::int8_peak(machine.pool, *table);
    benchmark::AddCustomContext("int8 GOP/s of " + std::string(table->name),
                                std::to_string(int8 * 1e-9));
    if (table == all.front() && all.size() > 1) continue;  // the reference is not made to be fast
    bench::add_linears(machine, *table, int8);
    for (const auto& [past, rows] : {std::pair{2048, 1}, {512, 1}, {0, 512}, {2048, 128}})
      bench::add_attention(machine, *table, past, rows);
    bench::add_rows(*table);
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
