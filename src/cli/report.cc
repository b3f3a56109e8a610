// tandem report: what a trace shows, as figures and as a picture; and what policies for the chunks
// of a prompt would make of given times.
#include <algorithm>
#include <array>
#include <charconv>
#include <iostream>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/log.h"
#include "cli/svg_plots.h"
#include "execute/schedule.h"
#include "execute/trace.h"

namespace tandem::cli {
namespace {

constexpr int kMostChunks = 64;
constexpr int kMostLayers = 256;
// Of one segment, in ms.
constexpr double kLongest = 1e9;

struct ReportFlags {
  std::string trace;
  std::string output;
  std::string simulate;
  int layers = 24;
  std::string chunks = "1,2,3,4,6,8,16";
  std::string policy = "lookahead";
  std::string trace_output;
  bool json = false;
};

// Reads a number at the front of `text` and drops it.
template <typename T>
bool take_number(std::string_view& text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return error == std::errc();
}

bool take(std::string_view& text, std::string_view word) {
  if (!text.starts_with(word)) return false;
  text.remove_prefix(word.size());
  return true;
}

// The segments of a model from those of one chunk through all layers: "npu=94.5,cpu=157+5,…" in ms.
// What runs on the CPU is attention.
std::vector<ChunkSegment> parse_model(const std::string& text, int layers) {
  const auto refuse = [&] {
    fail(ErrorCode::kInvalidArgument,
         "[report] --simulate: expected the times of a chunk in ms, such as "
         "npu=94.5,cpu=157,npu=220.5, or cpu=157+5 for 5 ms more with each chunk, got \"{}\"",
         text);
  };
  std::vector<ChunkSegment> layer;
  std::string_view rest = text;
  do {
    ChunkSegment segment;
    if (take(rest, "cpu=")) {
      segment.processor = Processor::kCpu;
      segment.attention = true;
    } else if (!take(rest, "npu=")) {
      refuse();
    }
    double first = 0, more = 0;
    if (!take_number(rest, first)) refuse();
    if (take(rest, "+") && !take_number(rest, more)) refuse();
    for (const double each : {first, more})
      if (!(each >= 0 && each <= kLongest)) refuse();
    segment.seconds = first * 1e-3 / layers;
    segment.seconds_per_chunk = more * 1e-3 / layers;
    layer.push_back(segment);
  } while (take(rest, ","));
  if (!rest.empty()) refuse();
  std::vector<ChunkSegment> model;
  for (int i = 0; i < layers; ++i) model.insert(model.end(), layer.begin(), layer.end());
  return model;
}

// Numbers of chunks: "1,2,4-8".
std::vector<int> parse_chunks(const std::string& text) {
  const auto refuse = [&] {
    fail(ErrorCode::kInvalidArgument,
         "[report] --chunks: expected numbers from 1 to {}, such as 1,2,4-8, got \"{}\"",
         kMostChunks, text);
  };
  std::vector<int> chunks;
  std::string_view rest = text;
  do {
    int first = 0;
    if (!take_number(rest, first)) refuse();
    int last = first;
    if (take(rest, "-") && !take_number(rest, last)) refuse();
    if (first < 1 || last < first || last > kMostChunks) refuse();
    for (int each = first; each <= last; ++each) chunks.push_back(each);
  } while (take(rest, ","));
  if (!rest.empty()) refuse();
  return chunks;
}

Gantt gantt_of(const Trace& trace) {
  enum Kind : std::uint8_t { kEvenChunk, kAnswer, kOddChunk };
  Gantt gantt{.rows = trace.devices(),
              .boxes = {},
              .end = trace.makespan() * 1e-3,
              .unit = "ms",
              .legend = std::vector<std::string>(3)};
  const double start = std::ranges::min(trace.events, {}, &TraceEvent::begin).begin;
  for (const TraceEvent& event : trace.events) {
    const auto row = std::ranges::find(gantt.rows, event.device) - gantt.rows.begin();
    // Four chunks in flight look different.
    const Kind kind = event.phase == Phase::kDecode ? kAnswer
                      : event.chunk % 2 == 0        ? kEvenChunk
                                                    : kOddChunk;
    std::string label =
        fmt::format("{} of chunk {}, segment {}: {:.3f} ms from {:.3f} ms", event.name, event.chunk,
                    event.segment, (event.end - event.begin) * 1e-3, (event.begin - start) * 1e-3);
    if (event.rows > 0) label += fmt::format(", {} rows", event.rows);
    gantt.boxes.push_back({static_cast<std::size_t>(row), (event.begin - start) * 1e-3,
                           (event.end - start) * 1e-3, kind, event.chunk % 4 < 2 ? 1.0 : 0.55,
                           std::move(label)});
    gantt.legend[kind] = kind == kAnswer      ? "decode"
                         : kind == kEvenChunk ? "prefill, even chunks"
                                              : "prefill, odd chunks";
  }
  return gantt;
}

// Empty if the NPU read no prompt.
std::string describe_bubble(const Trace& trace) {
  const Trace::NpuTime time = trace.npu_time();
  if (time.busy + time.idle <= 0) return {};
  return fmt::format("the NPU idles {:.3f} of the {:.3f} ms until its last segment: {:.1f} %",
                     time.idle * 1e-3, (time.busy + time.idle) * 1e-3, 100 * time.bubble());
}

void write_picture(const Trace& trace, const std::string& title, const std::string& file) {
  std::string description = fmt::format("{:.3f} ms.", trace.makespan() * 1e-3);
  for (const std::string& device : trace.devices())
    description += fmt::format(" {} is busy for {:.3f} ms.", device, trace.busy(device) * 1e-3);
  if (const std::string bubble = describe_bubble(trace); !bubble.empty())
    description += " In prefill " + bubble + ".";
  write_text_file(file, stand_alone(draw({"gantt", title, description}, gantt_of(trace))));
  spdlog::info("wrote {}", file);
}

void report_trace(const ReportFlags& flags) {
  const Trace trace = read_trace(input_path(flags.trace));
  std::error_code ignored;
  if (!flags.output.empty() && fs::equivalent(flags.trace, flags.output, ignored))
    fail(ErrorCode::kInvalidArgument, "[report] {}: is the trace: choose another name",
         flags.output);
  const double makespan = trace.makespan();
  const Trace::NpuTime time = trace.npu_time();
  OrderedJson report = {
      {"trace", flags.trace}, {"makespan_ms", makespan * 1e-3}, {"devices", OrderedJson::array()}};
  std::string table =
      fmt::format("{:12} {:>9} {:>12} {:>13}\n", "device", "segments", "busy ms", "of makespan");
  for (const std::string& device : trace.devices()) {
    const auto segments = std::ranges::count(trace.events, device, &TraceEvent::device);
    const double busy = trace.busy(device), percent = makespan > 0 ? 100 * busy / makespan : 0;
    report["devices"].push_back({{"device", device},
                                 {"segments", segments},
                                 {"busy_ms", busy * 1e-3},
                                 {"percent_of_makespan", percent}});
    table +=
        fmt::format("{:12} {:9} {:12.3f} {:11.1f} %\n", device, segments, busy * 1e-3, percent);
  }
  report["bubble_percent"] = nullptr;
  if (time.busy + time.idle > 0) report["bubble_percent"] = 100 * time.bubble();
  report["npu_idle_ms"] = time.idle * 1e-3;
  if (!flags.output.empty()) write_picture(trace, "Trace of " + flags.trace, flags.output);
  if (flags.json) {
    print_json(report);
    return;
  }
  std::cout << table << fmt::format("makespan {:.3f} ms\n", makespan * 1e-3);
  if (const std::string bubble = describe_bubble(trace); !bubble.empty())
    std::cout << "bubble: " << bubble << '\n';
}

void simulate(const ReportFlags& flags) {
  const std::vector<ChunkSegment> model = parse_model(flags.simulate, flags.layers);
  const std::vector<int> counts = parse_chunks(flags.chunks);
  const bool writes = !flags.output.empty() || !flags.trace_output.empty();
  if (writes && counts.size() != 1)
    fail(ErrorCode::kInvalidArgument,
         "[report] --chunks: expected one number of chunks to write a schedule of, got \"{}\"",
         flags.chunks);
  OrderedJson report = {{"schedules", OrderedJson::array()}};
  std::string table = fmt::format("{:>6}", "chunks");
  constexpr std::array kPolicies = {SchedulePolicy::kFifo, SchedulePolicy::kLlmNpu,
                                    SchedulePolicy::kLookahead};
  for (const SchedulePolicy policy : kPolicies)
    table += fmt::format(" {:>16} {:>8}", fmt::format("{} ms", to_string(policy)), "bubble");
  const SchedulePolicy written = policy_from_string(flags.policy);
  for (const int chunks : counts) {
    const std::vector<ChunkTask> tasks = chunk_tasks(model, chunks);
    table += fmt::format("\n{:6}", chunks);
    for (const SchedulePolicy policy : kPolicies) {
      const Schedule planned = schedule(tasks, policy);
      report["schedules"].push_back({{"policy", to_string(policy)},
                                     {"chunks", chunks},
                                     {"makespan_ms", planned.makespan() * 1e3},
                                     {"bubble_percent", 100 * planned.bubble()}});
      table += fmt::format(" {:16.3f} {:6.1f} %", planned.makespan() * 1e3, 100 * planned.bubble());
      if (!writes || policy != written) continue;
      const Trace trace = to_trace(planned);
      if (!flags.trace_output.empty()) write_text_file(flags.trace_output, to_chrome_json(trace));
      if (!flags.output.empty())
        write_picture(trace, fmt::format("{} chunks, policy {}", chunks, flags.policy),
                      flags.output);
    }
  }
  if (flags.json)
    print_json(report);
  else
    std::cout << table << '\n';
}

void run(const ReportFlags& flags) {
  refuse_standard_stream(flags.output, "--output", "a picture is a file");
  refuse_standard_stream(flags.trace_output, "--trace", "a trace is a file");
  if (flags.trace.empty() == flags.simulate.empty())
    fail(ErrorCode::kInvalidArgument,
         "[report] expected a trace that tandem run --trace wrote, or --simulate");
  if (flags.simulate.empty())
    report_trace(flags);
  else
    simulate(flags);
}

}  // namespace

void add_report(CLI::App& app) {
  auto* command = app.add_subcommand(
      "report", "what ran when on which device, from a trace or simulated: figures and a picture");
  auto flags = std::make_shared<ReportFlags>();
  auto* trace = command->add_option("trace", flags->trace,
                                    "trace that tandem run --trace wrote; -: standard input");
  command->add_option("-o,--output", flags->output, "draw it to this file, as SVG");
  auto* simulated =
      command
          ->add_option(
              "--simulate", flags->simulate,
              "compare policies for the chunks of a prompt instead: the times of one chunk "
              "in ms, such as npu=94.5,cpu=157,npu=220.5, divided among the layers; "
              "cpu=157+5: 5 ms more with each chunk")
          ->type_name("NAME=MS")
          ->excludes(trace);
  command->add_option("--layers", flags->layers, "layers of the simulated model")
      ->capture_default_str()
      ->check(CLI::Range(1, kMostLayers))
      ->needs(simulated);
  command->add_option("--chunks", flags->chunks, "chunks of the simulated prompts, such as 1,2,4-8")
      ->capture_default_str()
      ->type_name("INT")
      ->needs(simulated);
  command->add_option("--policy", flags->policy, "the policy that --output and --trace write")
      ->capture_default_str()
      ->check(CLI::IsMember({"fifo", "llm.npu", "lookahead"}))
      ->needs(simulated);
  command->add_option("--trace", flags->trace_output, "write the simulated trace to this file")
      ->needs(simulated);
  command->add_flag("--json", flags->json, "figures as one JSON object on standard output");
  command->callback([flags] { run(*flags); });
}

}  // namespace tandem::cli
