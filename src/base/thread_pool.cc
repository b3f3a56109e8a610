// The team of threads: an epoch counter that workers watch, a mark for each share that says who
// runs it, and a counter of shares still to be done.
#include "base/thread_pool.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"

namespace tandem {
namespace {

constexpr std::chrono::microseconds kSpinTime{50};
// Reading the clock costs about as much as one pause instruction; several pauses between readings
// keep polling cheap.
constexpr int kPausesPerPoll = 8;

// Set while this thread runs a job of any pool: a nested call must not wait for a team that is
// waiting for it.
thread_local bool inside_job = false;

#if defined(__x86_64__)
void relax() noexcept { __builtin_ia32_pause(); }
#elif defined(__aarch64__)
void relax() noexcept { __asm__ volatile("yield"); }
#else
void relax() noexcept {}
#endif

// Waits until done(value) is true for a value of `word`, spinning first, then sleeping. Returns
// that value.
template <typename T, typename Done>
T wait_until(const std::atomic<T>& word, Done done) noexcept {
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    for (int i = 0; i < kPausesPerPoll; ++i) {
      const T value = word.load(std::memory_order_acquire);
      if (done(value)) return value;
      relax();
    }
    if (std::chrono::steady_clock::now() - start > kSpinTime) break;
  }
  for (;;) {
    const T value = word.load(std::memory_order_acquire);
    if (done(value)) return value;
    word.wait(value, std::memory_order_acquire);
  }
}

}  // namespace

struct ThreadPool::State {
  // Held for the duration of a job, so that jobs run one at a time.
  std::mutex callers;
  void (*function)(void*, int) = nullptr;
  void* object = nullptr;
  std::atomic<bool> stop{false};
  // Counts jobs; publishes the fields above. This and the next fields have cache lines of their
  // own: workers poll the first while others write the rest.
  alignas(64) std::atomic<std::uint32_t> epoch{0};
  // Workers' shares of the current job that are not done; publishes what they wrote, including
  // `failure`.
  alignas(64) std::atomic<std::int32_t> left{0};
  // Of each worker's share, the last job for which it was taken.
  struct alignas(64) Share {
    std::atomic<std::uint32_t> taken{0};
  };
  std::array<Share, kMaxThreads> shares;
  std::vector<std::thread> workers;
  // Set by the first share of the current job that throws, which then stores its exception.
  std::atomic<bool> failed{false};
  std::exception_ptr failure;

  void publish() noexcept {
    // Sequentially consistent: must not be reordered with the check for sleepers.
    epoch.fetch_add(1);
    epoch.notify_all();
  }

  // True for the first who asks for this share of job `number`, and for nobody who asks late.
  bool take(int thread, std::uint32_t number) noexcept {
    std::uint32_t before = number - 1;
    return shares[static_cast<std::size_t>(thread)].taken.compare_exchange_strong(
        before, number, std::memory_order_acq_rel, std::memory_order_relaxed);
  }

  // Runs one share of the job. An exception is stored, not propagated: the other shares are still
  // running.
  void call(int thread) noexcept {
    try {
      function(object, thread);
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  }

  void work(int thread) noexcept {
    inside_job = true;
    for (std::uint32_t seen = 0;;) {
      seen = wait_until(epoch, [seen](std::uint32_t now) { return now != seen; });
      if (stop) return;
      if (!take(thread, seen)) continue;
      call(thread);
      if (left.fetch_sub(1) == 1) left.notify_one();
    }
  }

  ~State() {
    stop = true;
    publish();
    for (std::thread& worker : workers) worker.join();
  }
};

Range partition(std::int64_t count, int index, int parts, std::int64_t grain) noexcept {
  if (count <= 0 || parts <= 0) return {};
  grain = std::max<std::int64_t>(grain, 1);
  const std::int64_t units = count / grain + (count % grain != 0 ? 1 : 0);
  const std::int64_t share = units / parts;
  // The last parts get one unit more, because the very last unit may be short.
  const std::int64_t smaller = parts - units % parts;
  const auto boundary = [&](std::int64_t i) {
    const std::int64_t unit = i * share + std::max<std::int64_t>(i - smaller, 0);
    return unit >= units ? count : unit * grain;
  };
  return {boundary(index), boundary(std::int64_t{index} + 1)};
}

ThreadPool::ThreadPool(int threads) : threads_(threads) {
  if (threads < 1 || threads > kMaxThreads)
    fail(ErrorCode::kInvalidArgument, "[thread_pool] expected 1 to {} threads, got {}", kMaxThreads,
         threads);
  state_ = std::make_unique<State>();
  state_->workers.reserve(static_cast<std::size_t>(threads - 1));
  try {
    for (int i = 1; i < threads; ++i)
      state_->workers.emplace_back([state = state_.get(), i] { state->work(i); });
  } catch (const std::system_error& error) {
    fail(ErrorCode::kIo, "[thread_pool] the system refused thread {} of {}: {}",
         state_->workers.size() + 1, threads, error.what());
  }
}

ThreadPool::~ThreadPool() = default;

void ThreadPool::run_erased(void (*function)(void*, int), void* object) {
  if (inside_job) {
    std::exception_ptr failure;
    for (int thread = 0; thread < threads_; ++thread) {
      try {
        function(object, thread);
      } catch (...) {
        if (!failure) failure = std::current_exception();
      }
    }
    if (failure) std::rethrow_exception(std::move(failure));
    return;
  }
  const std::lock_guard lock(state_->callers);
  inside_job = true;
  state_->function = function;
  state_->object = object;
  if (threads_ > 1) {
    state_->left.store(threads_ - 1, std::memory_order_relaxed);
    state_->publish();
  }
  state_->call(0);
  if (threads_ > 1) {
    // The shares of workers that have not begun: they sleep, or another program has their core.
    const std::uint32_t number = state_->epoch.load(std::memory_order_relaxed);
    for (int thread = 1; thread < threads_; ++thread) {
      if (!state_->take(thread, number)) continue;
      state_->call(thread);
      state_->left.fetch_sub(1);
    }
    wait_until(state_->left, [](std::int32_t left) { return left == 0; });
  }
  inside_job = false;
  if (state_->failed.load(std::memory_order_relaxed)) {
    state_->failed.store(false, std::memory_order_relaxed);
    std::rethrow_exception(std::exchange(state_->failure, nullptr));
  }
}

}  // namespace tandem
