// tandem report, and the trace that tandem run writes for it.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "cli/program.h"

namespace tandem {
namespace {

using testing::demo;
using testing::demo_package;
using testing::expect_refusal;
using testing::Outcome;
using testing::run_for_json;
using testing::run_program;
using testing::ScratchFolder;
using testing::write_bytes;

// The times of llm.npu's example, with attention at 0.587 of the NPU's time.
const std::string kPaper = "npu=94.5,cpu=184.905,npu=220.5";

std::string story(int times) {
  std::string text;
  for (int i = 0; i < times; ++i) text += "Once upon a time, there was a small fox named Lily. ";
  return text;
}

TEST(RunTrace, HasEverySegmentOfPromptAndAnswer) {
  const ScratchFolder folder;
  const std::string file = (folder / "trace.json").string();
  const Json answer = run_for_json({"run", demo_package(), "-p", story(8), "-n", "3", "--chunk",
                                    "32", "--trace", file, "--mode", "hybrid"});
  const auto rows = answer["prompt_tokens"].get<std::int64_t>();
  ASSERT_GT(rows, 64);
  const Json trace = read_json_file(file);
  std::map<std::string, std::set<std::string>> devices;
  std::map<std::int64_t, std::int64_t> prefill;
  std::set<std::int64_t> decode;
  std::map<std::int64_t, std::string> names;
  double now = 0;
  for (const Json& event : trace["traceEvents"]) {
    if (event["ph"] == "M") {
      names[event["tid"].get<std::int64_t>()] = event["args"]["name"].get<std::string>();
      continue;
    }
    EXPECT_EQ(event["ph"], "X");
    EXPECT_GE(event["ts"].get<double>(), now);
    now = event["ts"].get<double>() + event["dur"].get<double>();
    const auto phase = event["cat"].get<std::string>();
    devices[phase].insert(names.at(event["tid"].get<std::int64_t>()));
    const auto chunk = event["args"]["chunk"].get<std::int64_t>();
    if (phase == "prefill")
      prefill[chunk] = event["args"]["rows"].get<std::int64_t>();
    else
      decode.insert(chunk);
  }
  EXPECT_EQ(devices["prefill"], (std::set<std::string>{"npu", "cpu"}));
  EXPECT_EQ(devices["decode"], std::set<std::string>{"cpu"});
  std::int64_t read = 0;
  for (const auto& [chunk, count] : prefill) read += count;
  EXPECT_EQ(read, rows);
  EXPECT_EQ(static_cast<std::int64_t>(prefill.size()), (rows + 31) / 32);
  // The last token of the answer is not read.
  EXPECT_EQ(decode.size(), 2u);

  const Json report = run_for_json({"report", file});
  EXPECT_EQ(report["trace"], file);
  EXPECT_EQ(report["devices"][0]["device"], "npu");
  EXPECT_EQ(report["devices"][1]["device"], "cpu");
  EXPECT_GT(report["makespan_ms"].get<double>(), report["devices"][0]["busy_ms"].get<double>());
  EXPECT_GT(report["bubble_percent"].get<double>(), 0);
  EXPECT_LT(report["bubble_percent"].get<double>(), 100);
  const std::string picture = (folder / "trace.svg").string();
  const Outcome outcome = run_program({"report", "-", "-o", picture}, read_text_file(file));
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  for (const char* part : {"npu", "cpu", "makespan", "bubble: the NPU idles"})
    EXPECT_NE(outcome.out.find(part), std::string::npos) << outcome.out;
  const std::string svg = read_text_file(picture);
  for (const char* part : {"<svg ", "<style>", "prefill, even chunks", "prefill, odd chunks",
                           "decode", "model.layers.0.self_attn.q_proj of chunk 0, segment 2"})
    EXPECT_NE(svg.find(part), std::string::npos) << part;
}

// With chunks in flight, the same answer from the same segments.
TEST(RunTrace, HasTheSegmentsOfChunksInFlight) {
  const ScratchFolder folder;
  const std::string file = (folder / "trace.json").string();
  const auto run = [&](const std::string& policy) {
    return run_for_json({"run", demo_package(), "-p", story(8), "-n", "3", "--chunk", "32", "-t",
                         "2", "--trace", file, "--pipeline", policy});
  };
  const Json in_turn = run("off");
  const Json before = run_for_json({"report", file});
  for (const char* policy : {"fifo", "llm.npu", "lookahead"}) {
    EXPECT_EQ(run(policy)["ids"], in_turn["ids"]) << policy;
    const Json report = run_for_json({"report", file});
    for (const std::size_t device : {0, 1})
      EXPECT_EQ(report["devices"][device]["segments"], before["devices"][device]["segments"]);
  }
  expect_refusal({"run", demo_package(), "-p", "x", "--pipeline", "best"}, {"--pipeline", "best"});
}

TEST(RunTrace, OfAConversationAndOfOneDevice) {
  const ScratchFolder folder;
  const std::string file = (folder / "trace.json").string();
  const Outcome chat = run_program({"run", demo_package(), "--chat", "-n", "4", "--trace", file},
                                   "What is 10 plus 1?\nAnd now?\n");
  EXPECT_EQ(chat.status, 0) << chat.err;
  EXPECT_EQ(run_for_json({"report", file})["devices"].size(), 2u);
  const Outcome run = run_program({"run", demo(), "-p", "x", "-n", "2", "--trace", file});
  EXPECT_EQ(run.status, 0) << run.err;
  const Json report = run_for_json({"report", file});
  EXPECT_EQ(report["devices"].size(), 1u);
  EXPECT_EQ(report["devices"][0]["device"], "cpu");
  EXPECT_TRUE(report["bubble_percent"].is_null());
}

TEST(RunTrace, IsRefusedBeforeTheModelIsRead) {
  const ScratchFolder folder;
  expect_refusal({"run", demo(), "-p", "x", "--trace", "-"}, {"--trace", "a trace is a file"});
  expect_refusal({"run", demo(), "-p", "x", "--trace", (folder / "no/trace.json").string()},
                 {"no/trace.json", "No such file or directory"});
  expect_refusal({"run", demo(), "-p", "x", "--trace", demo() + "/config.json"},
                 {"config.json", "is a file of the model"});
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(Report, ComparesPolicies) {
  const Json report = run_for_json({"report", "--simulate", kPaper, "--chunks", "1,3-4"});
  ASSERT_EQ(report["schedules"].size(), 9u);
  const auto bubble = [&](std::size_t i) {
    return report["schedules"][i]["bubble_percent"].get<double>();
  };
  EXPECT_EQ(report["schedules"][0]["policy"], "fifo");
  EXPECT_EQ(report["schedules"][7]["policy"], "llm.npu");
  EXPECT_EQ(report["schedules"][8]["policy"], "lookahead");
  EXPECT_EQ(report["schedules"][8]["chunks"], 4);
  EXPECT_NEAR(bubble(0), 37.0, 0.05);
  EXPECT_NEAR(bubble(6), 10.1, 0.05);
  EXPECT_NEAR(bubble(7), 12.8, 0.05);
  EXPECT_NEAR(bubble(8), 0, 0.05);
  EXPECT_NEAR(report["schedules"][8]["makespan_ms"].get<double>(), 1260, 1);
  const Outcome table = run_program({"report", "--simulate", kPaper, "--chunks", "4"});
  EXPECT_EQ(table.status, 0);
  EXPECT_NE(table.out.find("     4         1401.934   10.1 %"), std::string::npos) << table.out;
  // Attention that grows by 24 ms with each chunk: 0, 24 and 48.
  const Json grown =
      run_for_json({"report", "--simulate", "cpu=1+24", "--layers", "1", "--chunks", "3"});
  EXPECT_NEAR(grown["schedules"][0]["makespan_ms"].get<double>(), 75, 1e-6);
}

TEST(Report, WritesASimulatedTrace) {
  const ScratchFolder folder;
  const std::string trace = (folder / "t.json").string(), picture = (folder / "t.svg").string();
  const Outcome outcome = run_program({"report", "--simulate", kPaper, "--chunks", "2", "--policy",
                                       "fifo", "--trace", trace, "-o", picture});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  const Json report = run_for_json({"report", trace});
  EXPECT_NEAR(report["makespan_ms"].get<double>(), 767.655, 1e-3);
  EXPECT_NEAR(report["bubble_percent"].get<double>(), 17.9, 0.05);
  EXPECT_EQ(report["devices"][0]["segments"], 96);
  EXPECT_NE(read_text_file(picture).find("2 chunks, policy fifo"), std::string::npos);
}

TEST(Report, RefusesWhatItCannotRead) {
  const ScratchFolder folder;
  const std::string file = (folder / "bad.json").string();
  write_bytes(file, R"({"traceEvents": [{"ph": "X", "ts": 1, "dur": 1}, {"ph": "X", "ts": "a"}]})");
  expect_refusal({"report", file}, {file, "traceEvents[1]: ts"});
  write_bytes(file, "no JSON");
  expect_refusal({"report", file}, {file, "line 1"});
  expect_refusal({"report", demo() + "/config.json"}, {"config.json", "traceEvents"});
  expect_refusal({"report", (folder / "none.json").string()}, {"none.json", "cannot open"});
  write_bytes(file, R"({"traceEvents": [{"ph": "X", "ts": 1, "dur": 1}]})");
  expect_refusal({"report", file, "-o", file}, {"is the trace"});
  expect_refusal({"report", file, "-o", "-"}, {"--output", "a picture is a file"});
  expect_refusal({"report", file, "-o", (folder / "no/t.svg").string()}, {"no/t.svg"});
  expect_refusal({"report"}, {"expected a trace", "--simulate"});
  for (const char* times : {"gpu=1", "npu", "npu=", "npu=x", "npu=-1", "npu=1,", "npu=1;cpu=2",
                            "cpu=1+", "cpu=1+-2", "npu=nan", "npu=inf", "npu=1e300"})
    expect_refusal({"report", "--simulate", times}, {"--simulate", times});
  for (const char* chunks : {"0", "65", "4-2", "1,", "x", "-1", "2.5", "99999999999"})
    expect_refusal({"report", "--simulate", "npu=1", "--chunks=" + std::string(chunks)},
                   {"--chunks", chunks});
  expect_refusal({"report", "--simulate", "npu=1", "--chunks", "1-2", "-o", "x.svg"},
                 {"--chunks", "one number"});
  expect_refusal({"report", "--simulate", "npu=1", "--policy", "best"}, {"--policy", "lookahead"});
  expect_refusal({"report", "--simulate", "npu=1", "--layers", "0"}, {"--layers"});
}

}  // namespace
}  // namespace tandem
