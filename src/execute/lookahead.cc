// Dynamic programming over how far each chunk is, in layers of equally many tasks. Tasks are added in
// the order in which they begin, so little has to be known of the past: when each processor is free,
// and which chunk runs on the one that is free later. All other chunks are ready by the time that any
// task can begin. Of states that differ in those two times alone, only those that no other one
// equals or beats in both go on; a bound drops what can't become shorter than the best schedule
// known. Attention keeps the chunks in order, and a few in flight at once are enough to keep the NPU
// busy, so the search is over the first chunks that are not done: first over two of them, which is
// quick and often good, then over more. A chunk's segments begin in their order.
#include "execute/lookahead.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

namespace tandem {
namespace {

// Chunks in flight at once, at most. Two or three can hide attention that takes at most as long as
// the NPU's work.
constexpr std::size_t kMaxWindow = 4;
// States that a search keeps in all its layers together; each takes about 0.1 µs.
constexpr std::size_t kStates = 60'000;
// States that a layer may keep however many layers there are.
constexpr std::size_t kMinWidth = 48;
// A share of the best time that is known. Looking for less would take most of the time.
constexpr double kLeastSaving = 1e-3;

using PerProcessor = std::array<double, 2>;

std::size_t index(Processor processor) { return static_cast<std::size_t>(processor); }

struct State {
  // The lowest chunk that is not done, and how many segments are done of it and of those behind it.
  std::uint16_t first = 0;
  std::array<std::uint16_t, kMaxWindow> done{};
  // The chunk, counted from the first, that runs on the processor that is free later; -1: none.
  std::int16_t running = -1;
  // When each processor is free, and seconds of the tasks that it has still to begin.
  PerProcessor free{};
  PerProcessor left{};
  // No schedule that goes on from here takes less time.
  double bound = 0;
  // What led here, in steps_.
  std::int32_t step = -1;

  double now() const { return std::min(free[0], free[1]); }
  double later() const { return std::max(free[0], free[1]); }
  double ready(std::size_t chunk) const {
    return static_cast<int>(chunk) == running ? later() : now();
  }
  // What differs between states of a layer that can't be compared.
  std::uint64_t key() const {
    // 12 bits each, and 4 for the running chunk, whose distance from the first is -1 to 3.
    std::uint64_t key = static_cast<std::uint64_t>(running + 1);
    for (const std::uint16_t each : done) key = key << 12 | (each & 0xFFF);
    return key << 12 | (first & 0xFFF);
  }
};

class Search {
 public:
  Search(std::span<const ChunkTask> tasks, int segments)
      : tasks_(tasks),
        segments_(static_cast<std::size_t>(segments)),
        chunks_(tasks.size() / segments_),
        chains_(chunks_ * (segments_ + 1)),
        longest_(chunks_ + 1) {
    behind_.fill(std::numeric_limits<double>::infinity());
    for (std::size_t i = chunks_; i-- > 0;) {
      PerProcessor behind{-1, -1};
      for (std::size_t j = segments_; j-- > 0;) {
        const ChunkTask& each = task(i, j);
        double& last = behind[index(each.processor)];
        if (last < 0) last = chain(i, j + 1);
        // One that runs beside others may delay nothing.
        chains_[i * (segments_ + 1) + j] = chain(i, j + 1) + (each.beside == 0 ? each.seconds : 0);
        total_[index(each.processor)] += each.seconds;
      }
      for (std::size_t p = 0; p < 2; ++p) behind_[p] = std::min(behind_[p], behind[p]);
      longest_[i] = std::max(longest_[i + 1], chain(i, 0));
    }
  }

  // The best with `window` chunks in flight that takes less than `limit` seconds.
  std::optional<Schedule> run(std::size_t window, double limit) {
    window_ = std::min(window, chunks_);
    limit_ = limit;
    steps_.clear();
    layer_.assign(1, State{.left = total_});
    layer_[0].bound = bound(layer_[0]);
    if (layer_[0].bound >= limit_) return {};
    const std::size_t width = std::max(kMinWidth, kStates / tasks_.size());
    for (std::size_t done = 0; done < tasks_.size() && !layer_.empty(); ++done) {
      next_.clear();
      made_by_.clear();
      arrivals_.clear();
      for (const State& state : layer_)
        for (std::size_t k = 0; k < window_; ++k) expand(state, k);
      keep(width);
    }
    if (layer_.empty()) return {};
    return schedule_of(*std::ranges::min_element(layer_, {}, &State::later));
  }

 private:
  struct Step {
    // The one before; -1: none.
    std::int32_t parent = -1;
    std::uint16_t chunk = 0;
    double begin = 0;
  };
  // A new state by what it is compared by.
  struct Arrival {
    std::uint64_t key = 0;
    PerProcessor free{};
    std::size_t index = 0;

    auto operator<=>(const Arrival&) const = default;
  };

  const ChunkTask& task(std::size_t chunk, std::size_t segment) const {
    return tasks_[chunk * segments_ + segment];
  }
  // Seconds that a chunk takes alone from a segment on, at least.
  double chain(std::size_t chunk, std::size_t segment) const {
    return chains_[chunk * (segments_ + 1) + segment];
  }

  // Adds the state in which the k-th chunk of the window has begun its next segment.
  void expand(const State& from, std::size_t k) {
    const std::size_t chunk = from.first + k;
    if (chunk >= chunks_ || from.done[k] == segments_) return;
    const ChunkTask& next = task(chunk, from.done[k]);
    const std::size_t p = index(next.processor), other = 1 - p;
    // The same segment of an earlier chunk, once begun, is done before this processor is free.
    for (std::size_t before = 0; next.attention && before < k; ++before)
      if (from.done[before] <= next.segment) return;
    const double begin = std::max(from.free[p], beside(from, k, next) ? from.now() : from.ready(k));
    State to = from;
    to.free = {};
    to.free[p] = begin + next.seconds;
    // What could have run before `begin` belongs to another order.
    to.free[other] = std::max(from.free[other], begin);
    to.left[p] -= next.seconds;
    ++to.done[k];
    if (to.free[p] > to.free[other])
      to.running = static_cast<std::int16_t>(k);
    else if (to.free[p] == to.free[other] || from.free[other] <= begin)
      to.running = -1;
    while (to.first < chunks_ && to.done[0] == segments_) {
      std::ranges::rotate(to.done, to.done.begin() + 1);
      to.done.back() = 0;
      ++to.first;
      // A chunk that is done has nothing that waits for it.
      to.running = static_cast<std::int16_t>(std::max(to.running - 1, -1));
    }
    to.bound = bound(to);
    if (to.bound >= limit_) return;
    arrivals_.push_back({to.key(), to.free, next_.size()});
    next_.push_back(to);
    made_by_.push_back({from.step, static_cast<std::uint16_t>(chunk), begin});
  }

  // Whether a task of the k-th chunk need not wait for the one of its chunk that still runs, if any:
  // the last that the other processor has begun.
  bool beside(const State& state, std::size_t k, const ChunkTask& next) const {
    int runs = next.segment - 1;
    const std::size_t chunk = state.first + k;
    while (runs >= 0 && task(chunk, static_cast<std::size_t>(runs)).processor == next.processor)
      --runs;
    return runs >= next.segment - next.beside;
  }

  // Each processor has its work to do, and behind its last task a chunk may have more; each chunk
  // takes as long as it takes alone.
  double bound(const State& state) const {
    double bound = 0;
    for (std::size_t p = 0; p < 2; ++p)
      bound = std::max(bound, state.free[p] + state.left[p] + (is_left(state, p) ? behind_[p] : 0));
    for (std::size_t k = 0; k < window_ && state.first + k < chunks_; ++k)
      bound = std::max(bound, state.ready(k) + chain(state.first + k, state.done[k]));
    const std::size_t beyond = std::min(state.first + window_, chunks_);
    return std::max(bound, state.now() + longest_[beyond]);
  }
  // Differences of sums are not exactly zero.
  bool is_left(const State& state, std::size_t p) const { return state.left[p] > 1e-9 * total_[p]; }

  // Makes the best of the arrivals the next layer: those with the lowest bounds, and of these those
  // that have kept both processors busy.
  void keep(std::size_t width) {
    std::ranges::sort(arrivals_);
    ranked_.clear();
    double least = 0;
    for (std::size_t i = 0; i < arrivals_.size(); ++i) {
      // Within a key the first processor is free later and later.
      const bool follows = i > 0 && arrivals_[i].key == arrivals_[i - 1].key;
      if (follows && arrivals_[i].free[1] >= least) continue;
      least = arrivals_[i].free[1];
      const State& state = next_[arrivals_[i].index];
      const double ends = state.free[0] + state.left[0] + state.free[1] + state.left[1];
      ranked_.push_back({state.bound + ends / 2, i});
    }
    if (ranked_.size() > width) {
      std::ranges::nth_element(ranked_, ranked_.begin() + static_cast<std::ptrdiff_t>(width));
      ranked_.resize(width);
    }
    layer_.clear();
    for (const auto& [rank, i] : ranked_) {
      const std::size_t at = arrivals_[i].index;
      layer_.push_back(next_[at]);
      layer_.back().step = static_cast<std::int32_t>(steps_.size());
      steps_.push_back(made_by_[at]);
    }
  }

  Schedule schedule_of(const State& last) const {
    std::vector<Step> steps;
    for (std::int32_t at = last.step; at >= 0; at = steps.back().parent)
      steps.push_back(steps_[static_cast<std::size_t>(at)]);
    std::vector<std::size_t> done(chunks_);
    Schedule schedule;
    for (std::size_t i = steps.size(); i-- > 0;) {
      const ChunkTask& next = task(steps[i].chunk, done[steps[i].chunk]++);
      schedule.tasks.push_back({next, steps[i].begin, steps[i].begin + next.seconds});
    }
    return schedule;
  }

  std::span<const ChunkTask> tasks_;
  std::size_t segments_;
  std::size_t chunks_;
  // By chunk and segment.
  std::vector<double> chains_;
  // The longest chain of any chunk from this one on.
  std::vector<double> longest_;
  // Of all chunks, the least that follows the last task on a processor.
  PerProcessor behind_{};
  PerProcessor total_{};

  std::size_t window_ = 0;
  double limit_ = 0;
  std::vector<State> layer_;
  std::vector<State> next_;
  std::vector<Step> made_by_;
  std::vector<Arrival> arrivals_;
  // Rank, and index of the arrival.
  std::vector<std::pair<double, std::size_t>> ranked_;
  std::vector<Step> steps_;
};

// Whether each chunk begins after the end of the one `in_flight` before it. The search only knows
// that this one has begun all its segments, which is the same where chunks end on the processor on
// which they begin.
bool keeps_in_flight(const Schedule& schedule, std::size_t in_flight) {
  std::vector<double> begins, ends;
  for (const ScheduledTask& each : schedule.tasks) {
    const auto chunk = static_cast<std::size_t>(each.task.chunk);
    if (chunk >= begins.size()) {
      begins.resize(chunk + 1, std::numeric_limits<double>::infinity());
      ends.resize(chunk + 1);
    }
    begins[chunk] = std::min(begins[chunk], each.begin);
    ends[chunk] = std::max(ends[chunk], each.end);
  }
  for (std::size_t i = in_flight; i < begins.size(); ++i)
    if (begins[i] < ends[i - in_flight]) return false;
  return true;
}

}  // namespace

std::optional<Schedule> look_ahead(std::span<const ChunkTask> tasks, int segments, int in_flight,
                                   double limit) {
  Search search(tasks, segments);
  std::optional<Schedule> best;
  const std::size_t most = std::min(kMaxWindow, static_cast<std::size_t>(in_flight));
  for (std::size_t window = std::min<std::size_t>(2, most); window <= most; ++window) {
    std::optional<Schedule> found = search.run(window, limit * (1 - kLeastSaving));
    if (!found || !keeps_in_flight(*found, static_cast<std::size_t>(in_flight))) continue;
    limit = found->makespan();
    best = std::move(found);
  }
  return best;
}

}  // namespace tandem
