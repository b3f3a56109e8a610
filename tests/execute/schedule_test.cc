// Schedules of a prompt's chunks: each is possible, has the bubbles that are published for its
// policy, and lookahead is as short as the shortest of all on cases small enough to try them all.
#include "execute/schedule.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <random>

#include "support.h"

namespace tandem {
namespace {

using testing::error_of;

constexpr std::array kPolicies = {SchedulePolicy::kFifo, SchedulePolicy::kLlmNpu,
                                  SchedulePolicy::kLookahead};
// llm.npu: 256 tokens of Qwen1.5-1.8B take 315 ms on the NPU, about twice what the CPU takes; the
// NPU idles 37 % of the time in order, so the CPU takes 0.37 / 0.63 of the NPU's time.
constexpr int kLayers = 24;
constexpr double kNpuSeconds = 0.315;
constexpr double kCpuSeconds = 0.587 * kNpuSeconds;

// Before attention and behind it the NPU works 0.3 and 0.7 of its time.
std::vector<ChunkSegment> paper_model(double npu, double cpu, int layers = kLayers) {
  std::vector<ChunkSegment> segments;
  for (int layer = 0; layer < layers; ++layer) {
    segments.push_back({Processor::kNpu, 0.3 * npu / layers});
    segments.push_back({Processor::kCpu, cpu / layers, true});
    segments.push_back({Processor::kNpu, 0.7 * npu / layers});
  }
  return segments;
}

double percent_of_bubbles(const std::vector<ChunkSegment>& model, int chunks,
                          SchedulePolicy policy) {
  return 100 * schedule(chunk_tasks(model, chunks), policy).bubble();
}

// Every task once, each after what it needs, one at a time on a processor.
void expect_possible(const std::vector<ChunkTask>& tasks, const Schedule& schedule,
                     int in_flight = kMaxChunks) {
  ASSERT_EQ(schedule.tasks.size(), tasks.size());
  std::map<std::pair<int, int>, ScheduledTask> done;
  double begin = 0;
  for (const ScheduledTask& each : schedule.tasks) {
    EXPECT_GE(each.begin, begin);
    begin = each.begin;
    EXPECT_EQ(each.end, each.begin + each.task.seconds);
    EXPECT_TRUE(done.insert({{each.task.chunk, each.task.segment}, each}).second);
  }
  for (const ChunkTask& task : tasks) {
    const auto found = done.find({task.chunk, task.segment});
    ASSERT_NE(found, done.end());
    EXPECT_EQ(found->second.task.processor, task.processor);
    EXPECT_EQ(found->second.task.seconds, task.seconds);
    const auto expect_done = [&](int chunk, int segment) {
      EXPECT_GE(found->second.begin, done.at({chunk, segment}).end)
          << task.chunk << "/" << task.segment << " needs " << chunk << "/" << segment;
    };
    for (int segment = 0; segment < task.segment - task.beside; ++segment)
      expect_done(task.chunk, segment);
    for (int chunk = 0; task.attention && chunk < task.chunk; ++chunk)
      expect_done(chunk, task.segment);
    if (task.chunk >= in_flight) {
      const int segments = tasks.back().segment + 1;
      expect_done(task.chunk - in_flight, segments - 1);
    }
  }
  std::array<double, 2> free{};
  for (const ScheduledTask& each : schedule.tasks) {
    double& until = free[static_cast<std::size_t>(each.task.processor)];
    EXPECT_GE(each.begin, until);
    until = each.end;
  }
  EXPECT_EQ(schedule.makespan(), std::max(free[0], free[1]));
}

// All three, lookahead the shortest; returns its makespan.
double expect_all_possible(const std::vector<ChunkTask>& tasks, int in_flight = kMaxChunks) {
  std::array<Schedule, 3> schedules;
  for (std::size_t i = 0; i < 3; ++i) {
    schedules[i] = schedule(tasks, kPolicies[i], in_flight);
    expect_possible(tasks, schedules[i], in_flight);
  }
  const Schedule& best = schedules[2];
  const bool ends_on_npu = tasks.back().processor == Processor::kNpu;
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_LE(best.makespan(), schedules[i].makespan());
    if (ends_on_npu) {
      EXPECT_LE(best.bubble(), schedules[i].bubble() + 1e-12);
    }
  }
  return best.makespan();
}

// Tries every order, but for those that are sure to take at least as long as another one, or as
// `limit`.
class Exhaustive {
 public:
  Exhaustive(const std::vector<ChunkTask>& tasks, int chunks, double limit)
      : tasks_(tasks), segments_(tasks.size() / static_cast<std::size_t>(chunks)), best_(limit) {
    State start;
    start.done.resize(static_cast<std::size_t>(chunks));
    start.ends.resize(tasks.size());
    visit(start, tasks.size());
  }
  double makespan() const { return best_; }

 private:
  struct State {
    std::vector<std::size_t> done;
    std::vector<double> ends;
    std::array<double, 2> free{};
    // When the last task began: tasks are tried in the order in which they begin.
    double now = 0;
  };

  void visit(const State& state, std::size_t left) {
    if (left == 0) {
      best_ = std::min(best_, std::max(state.free[0], state.free[1]));
      return;
    }
    // What decides what is to come: when each processor and each chunk is free.
    std::vector<double> times = {std::max(state.free[0], state.now),
                                 std::max(state.free[1], state.now)};
    for (std::size_t i = 0; i < state.done.size(); ++i)
      times.push_back(
          std::max(state.now, state.done[i] == 0 ? 0 : end(state, i, state.done[i] - 1)));
    if (hopeless(state, times)) return;
    std::vector<std::vector<double>>& seen = seen_[state.done];
    for (const std::vector<double>& other : seen) {
      bool no_later = true;
      for (std::size_t i = 0; i < times.size(); ++i) no_later &= other[i] <= times[i];
      if (no_later) return;
    }
    seen.push_back(times);
    for (std::size_t i = 0; i < state.done.size(); ++i) {
      if (state.done[i] == segments_) continue;
      const ChunkTask& task = tasks_[i * segments_ + state.done[i]];
      const auto p = static_cast<std::size_t>(task.processor);
      double begin = std::max(times[p], times[i + 2]);
      bool ready = true;
      for (std::size_t k = 0; task.attention && k < i; ++k) {
        ready &= state.done[k] > state.done[i];
        if (ready) begin = std::max(begin, end(state, k, state.done[i]));
      }
      if (!ready) continue;
      State next = state;
      next.free[p] = next.ends[i * segments_ + state.done[i]] = begin + task.seconds;
      next.now = begin;
      ++next.done[i];
      visit(next, left - 1);
    }
  }

  double end(const State& state, std::size_t chunk, std::size_t segment) const {
    return state.ends[chunk * segments_ + segment];
  }

  // Whether work on a processor, or in a chunk, alone takes as long as the best that is known.
  bool hopeless(const State& state, const std::vector<double>& times) const {
    std::array<double, 2> work{};
    double latest = 0;
    for (std::size_t i = 0; i < state.done.size(); ++i) {
      double chain = 0;
      for (std::size_t j = state.done[i]; j < segments_; ++j) {
        const ChunkTask& task = tasks_[i * segments_ + j];
        work[static_cast<std::size_t>(task.processor)] += task.seconds;
        chain += task.seconds;
      }
      latest = std::max(latest, times[i + 2] + chain);
    }
    return std::max({latest, times[0] + work[0], times[1] + work[1]}) >= best_ * (1 - 1e-12);
  }

  const std::vector<ChunkTask>& tasks_;
  std::size_t segments_;
  double best_;
  std::map<std::vector<std::size_t>, std::vector<std::vector<double>>> seen_;
};

TEST(Schedule, OneChunkIsSerial) {
  for (const SchedulePolicy policy : kPolicies) {
    EXPECT_NEAR(percent_of_bubbles(paper_model(0.315, 0.157), 1, policy), 33.3, 0.05);
    EXPECT_NEAR(percent_of_bubbles(paper_model(kNpuSeconds, kCpuSeconds), 1, policy), 37.0, 0.05);
  }
  const Schedule serial = schedule(chunk_tasks(paper_model(0.315, 0.157), 1), kPolicies[0]);
  EXPECT_NEAR(serial.makespan(), 0.472, 1e-9);
  EXPECT_NEAR(serial.busy(Processor::kNpu), 0.315, 1e-9);
  EXPECT_NEAR(serial.busy(Processor::kCpu), 0.157, 1e-9);
}

TEST(Schedule, BubblesOfThePaper) {
  struct Row {
    int chunks;
    double fifo, llm_npu, lookahead;
  };
  constexpr Row kRows[] = {
      {1, 37.0, 37.0, 37.0}, {2, 17.9, 12.5, 0.6}, {3, 11.8, 0.0, 0.0}, {4, 10.1, 12.8, 0.0},
      {6, 6.8, 0.0, 0.0},    {8, 5.2, 3.5, 0.0},   {16, 2.7, 3.5, 0.1},
  };
  const auto model = paper_model(kNpuSeconds, kCpuSeconds);
  for (const Row& row : kRows) {
    const auto bubbles = [&](SchedulePolicy policy) {
      return percent_of_bubbles(model, row.chunks, policy);
    };
    EXPECT_NEAR(bubbles(SchedulePolicy::kFifo), row.fifo, 0.05) << row.chunks;
    EXPECT_NEAR(bubbles(SchedulePolicy::kLlmNpu), row.llm_npu, 0.05) << row.chunks;
    EXPECT_NEAR(bubbles(SchedulePolicy::kLookahead), row.lookahead, 0.05) << row.chunks;
  }
}

TEST(Schedule, AnyNumberOfChunksKeepsTheNpuBusy) {
  for (const double cpu : {0.157, kCpuSeconds}) {
    const auto model = paper_model(kNpuSeconds, cpu);
    for (int chunks = 1; chunks <= 16; ++chunks) {
      const auto tasks = chunk_tasks(model, chunks);
      const double makespan = expect_all_possible(tasks);
      // A chunk alone has nothing to overlap with.
      if (chunks > 1) {
        EXPECT_LT(makespan, 1.007 * chunks * kNpuSeconds) << chunks;
      }
    }
  }
}

TEST(Schedule, OtherShapes) {
  // Attention that grows, a CPU that has more to do than the NPU, norms on the CPU, a CPU at both
  // ends, and work on one processor alone.
  std::vector<std::vector<ChunkSegment>> models(4);
  models[0] = paper_model(0.3, 0.1);
  for (ChunkSegment& segment : models[0]) segment.seconds_per_chunk = segment.attention ? 4e-4 : 0;
  models[1] = paper_model(0.2, 0.3);
  for (int layer = 0; layer < 12; ++layer)
    for (const ChunkSegment& segment : {ChunkSegment{Processor::kCpu, 1e-3},
                                        {Processor::kNpu, 3e-3},
                                        {Processor::kCpu, 4e-3, true},
                                        {Processor::kNpu, 1.5e-3},
                                        {Processor::kCpu, 5e-4},
                                        {Processor::kNpu, 6e-3}})
      models[2].push_back(segment);
  models[2].push_back({Processor::kCpu, 2e-3});
  models[3] = {{Processor::kNpu, 1}, {Processor::kNpu, 0}, {Processor::kNpu, 2, true}};
  for (const auto& model : models)
    for (const int chunks : {1, 2, 3, 5, 8}) expect_all_possible(chunk_tasks(model, chunks));
  EXPECT_EQ(schedule(chunk_tasks(models[3], 4), SchedulePolicy::kLookahead).makespan(), 12);
  const auto grown = chunk_tasks(models[0], 3);
  EXPECT_NEAR(grown[2 * models[0].size() + 1].seconds, 0.1 / kLayers + 8e-4, 1e-12);
}

// Four chunks in flight do nearly all that any number does.
TEST(Schedule, KeepsChunksInFlightFew) {
  const auto model = paper_model(kNpuSeconds, kCpuSeconds);
  for (const int in_flight : {1, 2, 3, 4}) {
    const auto tasks = chunk_tasks(model, 9);
    const double makespan = expect_all_possible(tasks, in_flight);
    if (in_flight == 1) {
      EXPECT_NEAR(makespan, 9 * (kNpuSeconds + kCpuSeconds), 1e-9);
    }
    if (in_flight == 4) {
      EXPECT_LT(makespan, 1.007 * 9 * kNpuSeconds);
    }
  }
}

TEST(Schedule, RunsSegmentsOfAChunkBesideEachOther) {
  // A norm, a product with its shadow beside it, their sum.
  const std::vector<ChunkSegment> layer = {
      {Processor::kCpu, 1},
      {Processor::kNpu, 4},
      {.processor = Processor::kCpu, .seconds = 3, .beside = 1},
      {Processor::kCpu, 0.5, true}};
  std::vector<ChunkSegment> model;
  for (int i = 0; i < 3; ++i) model.insert(model.end(), layer.begin(), layer.end());
  for (const SchedulePolicy policy : kPolicies)
    EXPECT_EQ(schedule(chunk_tasks(model, 1), policy).makespan(), 3 * 5.5);
  for (const int chunks : {2, 3, 6})
    for (const int in_flight : {2, 4, kMaxChunks})
      EXPECT_GE(expect_all_possible(chunk_tasks(model, chunks), in_flight), chunks * 3 * 4.5);
  // The shadow is the longer one, and any order of the two processors.
  std::mt19937 random(5);
  for (int repetition = 0; repetition < 40; ++repetition) {
    std::vector<ChunkSegment> any;
    for (int i = 0; i < 8; ++i)
      any.push_back({.processor = random() % 2 == 0 ? Processor::kNpu : Processor::kCpu,
                     .seconds = 0.1 * static_cast<double>(random() % 20),
                     .attention = random() % 4 == 0,
                     .beside = std::min(i, static_cast<int>(random() % 3))});
    expect_all_possible(chunk_tasks(any, 4), 3);
  }
}

TEST(Schedule, LookaheadFindsTheShortest) {
  std::mt19937 random(7);
  const auto between = [&](double low, double high) {
    return low + (high - low) * static_cast<double>(random()) / 4294967296.0;
  };
  for (const int chunks : {2, 3, 4}) {
    for (const int layers : {2, 3, 4}) {
      for (int repetition = 0; repetition < 6; ++repetition) {
        const double attention = between(0.3, 3);
        std::vector<ChunkSegment> model;
        for (int layer = 0; layer < layers; ++layer) {
          model.push_back({Processor::kNpu, between(0.2, 1)});
          model.push_back({Processor::kCpu, attention * between(0.5, 1.5), true, between(0, 0.2)});
          model.push_back({Processor::kNpu, between(0.5, 2)});
        }
        const auto tasks = chunk_tasks(model, chunks);
        const double found = expect_all_possible(tasks);
        const double least = Exhaustive(tasks, chunks, 1.001 * found).makespan();
        EXPECT_GE(found, least * (1 - 1e-9));
        EXPECT_LE(found, least * 1.001) << chunks << " chunks, " << layers << " layers";
      }
    }
  }
}

TEST(Schedule, IsTheSameEveryTime) {
  const auto tasks = chunk_tasks(paper_model(kNpuSeconds, kCpuSeconds), 5);
  const Schedule a = schedule(tasks, SchedulePolicy::kLookahead);
  const Schedule b = schedule(tasks, SchedulePolicy::kLookahead);
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    EXPECT_EQ(a.tasks[i].task.chunk, b.tasks[i].task.chunk);
    EXPECT_EQ(a.tasks[i].begin, b.tasks[i].begin);
  }
}

TEST(Schedule, RefusesWhatIsNoPrompt) {
  const auto refusal = [](std::vector<ChunkTask> tasks) {
    return error_of([&] { schedule(tasks, SchedulePolicy::kLookahead); });
  };
  EXPECT_TRUE(schedule({}, SchedulePolicy::kLookahead).tasks.empty());
  EXPECT_EQ(schedule({}, SchedulePolicy::kFifo).bubble(), 0);
  const std::vector<ChunkTask> tasks = chunk_tasks(paper_model(1, 1, 2), 2);
  auto wrong = tasks;
  wrong.pop_back();
  EXPECT_NE(refusal(wrong).find("equally many segments"), std::string::npos);
  wrong = tasks;
  std::swap(wrong[1], wrong[2]);
  EXPECT_NE(refusal(wrong).find("task 1: expected chunk by chunk"), std::string::npos);
  EXPECT_NE(refusal({{1, 0}}).find("task 0: expected chunk by chunk"), std::string::npos);
  wrong = tasks;
  wrong.back().attention = true;
  EXPECT_NE(refusal(wrong).find("segment 5 of chunk 1: expected the processor"), std::string::npos);
  for (const double seconds : {-1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    wrong = tasks;
    wrong[3].seconds = seconds;
    EXPECT_NE(refusal(wrong).find("segment 3 of chunk 0: expected seconds"), std::string::npos);
  }
  wrong = tasks;
  for (ChunkTask& task : wrong) task.beside = 1;
  EXPECT_NE(refusal(wrong).find("segment 0 of chunk 0: expected the processor"), std::string::npos);
  EXPECT_NE(error_of([&] {
              schedule(tasks, SchedulePolicy::kFifo, 0);
            }).find("expected 1 chunk in flight or more, got 0"),
            std::string::npos);
  EXPECT_NE(refusal(chunk_tasks({{{Processor::kNpu, 1}}}, 4096)).find("at most 4095 chunks"),
            std::string::npos);
}

TEST(Schedule, PoliciesHaveNames) {
  for (const SchedulePolicy policy : kPolicies)
    EXPECT_EQ(policy_from_string(std::string(to_string(policy))), policy);
  EXPECT_NE(error_of([] { policy_from_string("best"); }).find("got \"best\""), std::string::npos);
}

}  // namespace
}  // namespace tandem
