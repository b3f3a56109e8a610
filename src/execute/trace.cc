// The trace event format is described in "Trace Event Format" (Google, 2016): complete events with
// times in microseconds, and metadata that names the rows.
#include "execute/trace.h"

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "base/merge_sort.h"

namespace tandem {
namespace {

constexpr std::int64_t kProcess = 1;
// In microseconds: 30 years.
constexpr double kLatest = 1e15;

Phase phase_from_category(const std::string& category) {
  return category == to_string(Phase::kDecode) ? Phase::kDecode : Phase::kPrefill;
}

// A count among an event's arguments; 0 if it has none.
std::int64_t count_of(const JsonObject& arguments, std::string_view key) {
  return arguments.get_int_or(key, 0, 0, std::numeric_limits<std::int64_t>::max());
}

double time_of(const JsonObject& event, std::string_view key) {
  const double time = event.has(key) ? event.get_number(key) : -1;
  if (time < 0 || time > kLatest)
    fail(ErrorCode::kFormat, "[trace] {}.{}: expected microseconds in [0, {:.0e}]", event.where(),
         key, kLatest);
  return time;
}

// What tells rows apart.
std::pair<std::int64_t, std::int64_t> row_of(const JsonObject& event) {
  constexpr std::int64_t kLeast = std::numeric_limits<std::int64_t>::min();
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  return {event.get_int_or("pid", 0, kLeast, kMost), event.get_int_or("tid", 0, kLeast, kMost)};
}

}  // namespace

std::vector<std::string> Trace::devices() const {
  std::map<std::string, double> first;
  for (const TraceEvent& event : events) {
    const auto [at, inserted] = first.emplace(event.device, event.begin);
    at->second = std::min(at->second, event.begin);
  }
  std::vector<std::string> names;
  for (const auto& [name, begin] : first) names.push_back(name);
  const auto rank = [&](const std::string& name) {
    return std::pair(name != to_string(Processor::kNpu), first.at(name));
  };
  merge_sort(names, [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
  return names;
}

double Trace::makespan() const {
  if (events.empty()) return 0;
  return std::ranges::max(events, {}, &TraceEvent::end).end -
         std::ranges::min(events, {}, &TraceEvent::begin).begin;
}

double Trace::busy(std::string_view device) const {
  double sum = 0;
  for (const TraceEvent& event : events)
    if (event.device == device) sum += event.end - event.begin;
  return sum;
}

Trace::NpuTime Trace::npu_time() const {
  std::map<std::int64_t, std::vector<const TraceEvent*>> chunks;
  for (const TraceEvent& event : events)
    if (event.phase == Phase::kPrefill) chunks[event.chunk].push_back(&event);
  NpuTime time;
  for (auto chunk = chunks.begin(); chunk != chunks.end();) {
    // One prompt.
    double begin = std::numeric_limits<double>::infinity(), end = -begin, busy = 0;
    std::int64_t last = chunk->first;
    for (; chunk != chunks.end() && chunk->first - last <= 1; last = chunk++->first) {
      for (const TraceEvent* event : chunk->second) {
        begin = std::min(begin, event->begin);
        if (event->device != to_string(Processor::kNpu)) continue;
        end = std::max(end, event->end);
        busy += event->end - event->begin;
      }
    }
    if (end < begin) continue;
    time.busy += busy;
    time.idle += std::max(0.0, end - begin - busy);
  }
  return time;
}

Trace to_trace(const Schedule& schedule) {
  Trace trace;
  for (const ScheduledTask& each : schedule.tasks) {
    const ChunkTask& task = each.task;
    trace.events.push_back({.device = std::string(to_string(task.processor)),
                            .name = task.attention ? "attention" : "segment",
                            .chunk = task.chunk,
                            .segment = task.segment,
                            .begin = each.begin * 1e6,
                            .end = each.end * 1e6});
  }
  return trace;
}

std::string to_chrome_json(const Trace& trace) {
  OrderedJson events = OrderedJson::array();
  std::map<std::string, std::int64_t> threads;
  for (const std::string& device : trace.devices()) {
    const auto thread = static_cast<std::int64_t>(threads.size()) + 1;
    threads[device] = thread;
    events.push_back({{"ph", "M"},
                      {"name", "thread_name"},
                      {"pid", kProcess},
                      {"tid", thread},
                      {"args", {{"name", device}}}});
  }
  for (const TraceEvent& event : trace.events)
    events.push_back(
        {{"ph", "X"},
         {"name", event.name},
         {"cat", to_string(event.phase)},
         {"pid", kProcess},
         {"tid", threads.at(event.device)},
         {"ts", event.begin},
         {"dur", event.end - event.begin},
         {"args", {{"chunk", event.chunk}, {"segment", event.segment}, {"rows", event.rows}}}});
  const OrderedJson file = {{"traceEvents", std::move(events)}, {"displayTimeUnit", "ms"}};
  return file.dump(-1, ' ', false, OrderedJson::error_handler_t::replace) + '\n';
}

Trace read_trace(const fs::path& path) {
  const Json json = read_json_file(path);
  const std::string file = path.string();
  const auto list = json.is_object() ? json.find("traceEvents") : json.end();
  if (!json.is_object() || list == json.end() || !list->is_array())
    fail(ErrorCode::kFormat,
         "[trace] {}: expected an object with \"traceEvents\", a list of events", file);
  Trace trace;
  std::vector<std::pair<std::int64_t, std::int64_t>> rows;
  std::map<std::pair<std::int64_t, std::int64_t>, std::string> names;
  for (std::size_t i = 0; i < list->size(); ++i) {
    const JsonObject event((*list)[i], fmt::format("{}: traceEvents[{}]", file, i));
    const std::string kind = event.get_string_or("ph", "");
    const std::string name = event.get_string_or("name", "");
    const bool has_arguments = event.has("args");
    if (kind == "M" && name == "thread_name" && has_arguments)
      names[row_of(event)] = event.child("args").get_string_or("name", "");
    if (kind != "X") continue;
    TraceEvent read;
    read.name = name;
    read.phase = phase_from_category(event.get_string_or("cat", ""));
    read.begin = time_of(event, "ts");
    read.end = read.begin + time_of(event, "dur");
    if (has_arguments) {
      const JsonObject arguments = event.child("args");
      read.chunk = count_of(arguments, "chunk");
      read.segment = count_of(arguments, "segment");
      read.rows = count_of(arguments, "rows");
    }
    rows.push_back(row_of(event));
    trace.events.push_back(std::move(read));
  }
  if (trace.events.empty())
    fail(ErrorCode::kFormat, "[trace] {}: traceEvents: expected complete events (\"ph\": \"X\")",
         file);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto named = names.find(rows[i]);
    trace.events[i].device =
        named != names.end() ? named->second : fmt::format("thread {}", rows[i].second);
  }
  return trace;
}

std::int64_t TraceRecorder::begin_chunk() {
  const std::lock_guard lock(mutex_);
  return chunks_++;
}

void TraceRecorder::add(TraceEvent event, Clock::time_point begin, Clock::time_point end) {
  using Microseconds = std::chrono::duration<double, std::micro>;
  event.begin = Microseconds(begin - start_).count();
  event.end = Microseconds(end - start_).count();
  const std::lock_guard lock(mutex_);
  trace_.events.push_back(std::move(event));
}

Trace TraceRecorder::trace() const {
  const std::lock_guard lock(mutex_);
  return trace_;
}

}  // namespace tandem
