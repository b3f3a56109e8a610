// Measures prefill and decode speed, and relates them to measured peaks.
#include "runtime/benchmark.h"

#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>
#include <thread>
#include <utility>

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

double deviation(const std::vector<double>& values) {
  if (values.size() < 2) return 0;
  const auto count = static_cast<double>(values.size());
  double mean = 0, squares = 0;
  for (const double value : values) mean += value / count;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return std::sqrt(squares / (count - 1));
}

// One model at one prompt length.
struct Run {
  double prefill = 0;      // tokens/s
  double first_token = 0;  // ms
  double decode = 0;       // tokens/s; 0 if nothing is generated
};

Run run_once(Engine& model, std::span<const TokenId> ids, std::int64_t generate) {
  KvSequence sequence = model.new_sequence();
  auto start = Clock::now();
  std::span<const float> logits = model.prefill(sequence, ids);
  const double read = seconds_since(start);
  TokenId token = best(logits);
  const double first = seconds_since(start);
  start = Clock::now();
  for (std::int64_t i = 0; i < generate; ++i) token = best(model.decode(sequence, token));
  const double written = seconds_since(start);
  return {static_cast<double>(ids.size()) / read, first * 1e3,
          static_cast<double>(generate) / written};
}

// The same tokens every time; their values do not affect the speed.
std::vector<TokenId> make_prompt(std::int64_t tokens, std::int64_t vocabulary) {
  std::mt19937 random(1);
  std::uniform_int_distribution<TokenId> any(0, static_cast<TokenId>(vocabulary - 1));
  std::vector<TokenId> ids(static_cast<std::size_t>(tokens));
  for (TokenId& id : ids) id = any(random);
  return ids;
}

std::vector<double> column(const std::vector<Run>& runs, double Run::* figure) {
  std::vector<double> values;
  for (const Run& run : runs) values.push_back(run.*figure);
  return values;
}

// More programs that want to compute than there are processors take time from the measured one. A
// measurement that ended just now leaves a load of one per processor, which is no reason.
bool is_busy(double& load) {
  const auto processors = static_cast<double>(std::max(1u, std::thread::hardware_concurrency()));
  return ::getloadavg(&load, 1) == 1 && load > 1.25 * processors;
}

// Runs of the same work on a quiet machine differ by 1 to 3 %.
constexpr double kNoisyShare = 0.1;

void warn_if_noisy(const BenchmarkResult& result, Observer& observer) {
  double share = 0;
  for (const PrefillSpeed& speed : result.prefill)
    share = std::max(share, speed.tokens_per_s_deviation / speed.tokens_per_s);
  for (const DecodeSpeed& speed : result.decode)
    share = std::max(share, speed.tokens_per_s_deviation / speed.tokens_per_s);
  if (share <= kNoisyShare) return;
  observer.warn(fmt::format(
      "[bench] the machine is noisy: runs differ by {:.0f} % (standard deviation), expected at "
      "most {:.0f} %",
      100 * share, 100 * kNoisyShare));
}

// Relates the speeds of a model to the machine's peaks.
void relate(BenchmarkResult& result, LocalModel& local, const BenchmarkOptions& options) {
  Engine& model = local.engine;
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
}

// The speed of a model beyond its context can be measured, but nobody should run it there.
void warn_beyond_context(std::span<LocalModel* const> models, const BenchmarkOptions& options,
                         Observer& observer) {
  const std::int64_t longest = std::ranges::max(options.prompts) + options.generate;
  std::int64_t shortest = longest;
  for (const LocalModel* model : models)
    shortest = std::min(shortest, model->info().context_length);
  if (longest <= shortest) return;
  observer.warn(fmt::format(
      "[bench] {} tokens, prompt and answer, are more than the model's context of {}: the speeds "
      "are right, what it writes there would not be",
      longest, shortest));
}

// Adds the speeds at one prompt length.
void add_speeds(BenchmarkResult& result, std::int64_t prompt, const std::vector<Run>& runs,
                bool generates) {
  const std::vector<double> prefill = column(runs, &Run::prefill);
  result.prefill.push_back({.tokens = prompt,
                            .tokens_per_s = median(prefill),
                            .tokens_per_s_deviation = deviation(prefill),
                            .ttft_ms = median(column(runs, &Run::first_token))});
  if (!generates) return;
  const std::vector<double> decode = column(runs, &Run::decode);
  result.decode.push_back({.context = prompt,
                           .tokens_per_s = median(decode),
                           .tokens_per_s_deviation = deviation(decode)});
}

}  // namespace

std::vector<BenchmarkResult> run_benchmarks(std::span<LocalModel* const> models,
                                            const BenchmarkOptions& options, Observer& observer) {
  check(options);
  double load = 0;
  const bool busy = is_busy(load);
  warn_beyond_context(models, options, observer);
  std::vector<BenchmarkResult> results(models.size());
  for (std::size_t m = 0; m < models.size(); ++m)
    results[m].peaks = measure_peaks(models[m]->engine.kernels(), models[m]->engine.pool());
  // By model and prompt length, one after the other: one entry per counted round.
  const std::size_t prompts = options.prompts.size();
  std::vector<std::vector<Run>> runs(models.size() * prompts);
  int rounds = 0;
  {
    Task task(observer, "bench", static_cast<std::int64_t>(runs.size()) * (options.repetitions + 1),
              "runs");
    for (int round = -1; round < options.repetitions && !observer.cancelled(); ++round) {
      std::vector<Run> done;
      for (std::size_t i = 0; i < runs.size() && !observer.cancelled(); ++i) {
        Engine& model = models[i / prompts]->engine;
        done.push_back(run_once(model,
                                make_prompt(options.prompts[i % prompts], model.info().vocabulary),
                                options.generate));
        observer.advance(1);
      }
      // The first round warms up. One that was interrupted does not count, or there would be more
      // runs of the first model than of the last.
      if (round < 0 || done.size() < runs.size()) continue;
      for (std::size_t i = 0; i < runs.size(); ++i) runs[i].push_back(done[i]);
      ++rounds;
    }
  }
  if (rounds == 0)
    fail(ErrorCode::kCancelled, "[bench] interrupted before the first counted round was finished");
  for (std::size_t m = 0; m < models.size(); ++m) {
    BenchmarkResult& result = results[m];
    result.repetitions = rounds;
    for (std::size_t p = 0; p < prompts; ++p)
      add_speeds(result, options.prompts[p], runs[m * prompts + p], options.generate > 0);
    if (!observer.cancelled()) {
      // The machine's speed drifts: a peak measured only before could be lower than a later result.
      const Peaks after = measure_peaks(models[m]->engine.kernels(), models[m]->engine.pool());
      Peaks& peaks = result.peaks;
      peaks.int8_gops = std::max(peaks.int8_gops, after.int8_gops);
      peaks.int8_vector_gops = std::max(peaks.int8_vector_gops, after.int8_vector_gops);
      peaks.read_gbps = std::max(peaks.read_gbps, after.read_gbps);
    }
    relate(result, *models[m], options);
    warn_if_noisy(result, observer);
  }
  if (busy)
    observer.warn(fmt::format(
        "[bench] the machine was busy (load average {:.1f} before the first run): speeds may be "
        "too low",
        load));
  return results;
}

BenchmarkResult run_benchmark(LocalModel& local, const BenchmarkOptions& options,
                              Observer& observer) {
  LocalModel* const models[] = {&local};
  return std::move(run_benchmarks(models, options, observer).front());
}

}  // namespace tandem
