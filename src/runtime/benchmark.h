// The speed of a model, compared with the machine's peaks measured at the same time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "devices/cpu/peaks.h"
#include "runtime/local_model.h"

namespace tandem {

struct BenchmarkOptions {
  // Prompt lengths in tokens.
  std::vector<std::int64_t> prompts = {128, 512};
  // Tokens generated after each prompt.
  std::int64_t generate = 64;
  // Not counting one warm-up run.
  int repetitions = 5;
};

struct PrefillSpeed {
  std::int64_t tokens = 0;
  // Median.
  double tokens_per_s = 0;
  // Standard deviation over the runs; 0 for a single one.
  double tokens_per_s_deviation = 0;
  // Counts 2 operations per token and parameter of the blocks' Linears.
  double percent_of_int8_peak = 0;
  // The same against the vector peak; can exceed 100 with a matrix unit.
  double percent_of_int8_vector_peak = 0;
  // Median time to first token: reading the prompt and choosing the first token.
  double ttft_ms = 0;
};

struct DecodeSpeed {
  // Context length before the first generated token.
  std::int64_t context = 0;
  // Median.
  double tokens_per_s = 0;
  // Standard deviation over the runs; 0 for a single one.
  double tokens_per_s_deviation = 0;
  // Weights and cache read per token, times the tokens per second.
  double read_gbps = 0;
  double percent_of_read_peak = 0;
};

struct BenchmarkResult {
  // Measured before and after; the higher values.
  Peaks peaks;
  std::vector<PrefillSpeed> prefill;
  std::vector<DecodeSpeed> decode;
  // Counted runs of each length: fewer than asked for if the observer was cancelled.
  int repetitions = 0;
};

// Throws kInvalidArgument for options out of range. Each run is one step of the observer's task.
// Runs come in rounds, each with every model and every prompt length once, so that the drift of the
// machine's speed meets all alike. Once the observer is cancelled, the results are those of the
// rounds that were finished; throws kCancelled if there is none. Warns if other programs keep the
// machine busy at the start, or if runs of the same work differ much.
std::vector<BenchmarkResult> run_benchmarks(std::span<LocalModel* const> models,
                                            const BenchmarkOptions& options,
                                            Observer& observer = silent());
BenchmarkResult run_benchmark(LocalModel& local, const BenchmarkOptions& options,
                              Observer& observer = silent());

}  // namespace tandem
