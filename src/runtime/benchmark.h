// How fast a model runs, beside what the machine is capable of in the same minute.
#pragma once

#include <cstdint>
#include <vector>

#include "devices/cpu/peaks.h"
#include "runtime/loaded_model.h"

namespace tandem {

struct BenchmarkOptions {
  std::vector<std::int64_t> prompts = {128, 512};  // tokens
  std::int64_t generate = 64;                      // tokens after each prompt
  int repetitions = 5;                             // after one that warms up
};

struct PrefillSpeed {
  std::int64_t tokens = 0;
  double tokens_per_s = 0;          // median
  double percent_of_int8_peak = 0;  // 2 operations per parameter of the blocks' Linears and token
  double percent_of_int8_vector_peak = 0;  // likewise; can exceed 100 on a matrix unit
  double ttft_ms = 0;  // median: reading the prompt and choosing the first token
};

struct DecodeSpeed {
  std::int64_t context = 0;  // tokens before the first generated one
  double tokens_per_s = 0;   // median
  double read_gbps = 0;      // weights and cache read per token, times the speed
  double percent_of_read_peak = 0;
};

struct BenchmarkResult {
  Peaks peaks;  // measured before and after; the higher ones
  std::vector<PrefillSpeed> prefill;
  std::vector<DecodeSpeed> decode;
};

BenchmarkResult run_benchmark(LoadedModel& model, const BenchmarkOptions& options);

}  // namespace tandem
