// Measures prefill and decode speed, and relates them to measured peaks.
#include "runtime/benchmark.h"

#include <algorithm>
#include <chrono>
#include <random>

#include "base/error.h"

namespace tandem {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

TokenId best(std::span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

void check(const BenchmarkOptions& options) {
  for (const std::int64_t prompt : options.prompts) {
    if (prompt < 1 || prompt > 1 << 20) {
      fail(ErrorCode::kInvalidArgument,
           "[bench] prompt length: expected 1 to 1048576 tokens, got {}", prompt);
    }
  }
  if (options.generate < 0) {
    fail(ErrorCode::kInvalidArgument, "[bench] tokens to generate: expected 0 or more, got {}",
         options.generate);
  }
  if (options.repetitions < 1) {
    fail(ErrorCode::kInvalidArgument, "[bench] repetitions: expected 1 or more, got {}",
         options.repetitions);
  }
}

}  // namespace

BenchmarkResult run_benchmark(LocalModel& local, const BenchmarkOptions& options,
                              Observer& observer) {
  check(options);
  Engine& model = local.engine;
  BenchmarkResult result;
  result.peaks = measure_peaks(model.kernels(), model.pool());
  const auto prompts = static_cast<std::int64_t>(options.prompts.size());
  Task task(observer, "bench", prompts * (options.repetitions + 1), "runs");

  // The same tokens every time; their values do not affect the speed.
  std::mt19937 random(1);
  std::uniform_int_distribution<TokenId> any(0, static_cast<TokenId>(model.info().vocabulary - 1));
  for (const std::int64_t prompt : options.prompts) {
    std::vector<TokenId> ids(static_cast<std::size_t>(prompt));
    for (TokenId& id : ids) id = any(random);
    std::vector<double> prefill, first_token, decode;
    for (int run = -1; run < options.repetitions; ++run) {
      KvSequence sequence = model.new_sequence();
      auto start = Clock::now();
      std::span<const float> logits = model.prefill(sequence, ids);
      const double read = seconds_since(start);
      TokenId token = best(logits);
      const double first = seconds_since(start);
      start = Clock::now();
      for (std::int64_t i = 0; i < options.generate; ++i)
        token = best(model.decode(sequence, token));
      const double written = seconds_since(start);
      task.advance();
      if (run < 0) continue;
      prefill.push_back(static_cast<double>(prompt) / read);
      first_token.push_back(first * 1e3);
      if (options.generate > 0) decode.push_back(static_cast<double>(options.generate) / written);
    }
    result.prefill.push_back({prompt, median(prefill), 0, 0, median(first_token)});
    if (options.generate > 0) result.decode.push_back({prompt, median(decode)});
  }

  // The machine's speed drifts: a peak measured only before could be lower than a later result.
  const Peaks after = measure_peaks(model.kernels(), model.pool());
  result.peaks.int8_gops = std::max(result.peaks.int8_gops, after.int8_gops);
  result.peaks.int8_vector_gops = std::max(result.peaks.int8_vector_gops, after.int8_vector_gops);
  result.peaks.read_gbps = std::max(result.peaks.read_gbps, after.read_gbps);
  const double operations = 2 * static_cast<double>(local.model->block_parameters());
  for (PrefillSpeed& speed : result.prefill) {
    const double gops = speed.tokens_per_s * operations * 1e-9;
    speed.percent_of_int8_peak = 100 * gops / result.peaks.int8_gops;
    speed.percent_of_int8_vector_peak = 100 * gops / result.peaks.int8_vector_gops;
  }
  const ModelInfo& info = model.info();
  // K and V.
  const auto cache_per_token =
      static_cast<double>(2 * info.layers * info.kv_heads * info.head_dim *
                          static_cast<std::int64_t>(size_of(model.plan().kv)));
  const auto weights = static_cast<double>(model.weight_bytes(Phase::kDecode));
  for (DecodeSpeed& speed : result.decode) {
    const double context =
        static_cast<double>(speed.context) + static_cast<double>(options.generate) / 2;
    speed.read_gbps = speed.tokens_per_s * (weights + context * cache_per_token) * 1e-9;
    speed.percent_of_read_peak = 100 * speed.read_gbps / result.peaks.read_gbps;
  }
  return result;
}

}  // namespace tandem
