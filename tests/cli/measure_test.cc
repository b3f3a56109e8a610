// tandem eval, compare, bench and devices: the fields documented in docs/json.md.
#include <gtest/gtest.h>

#include <cmath>

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

using Words = std::vector<std::string>;

std::string stories() { return demo() + "/eval_stories.txt"; }

// The first five questions of the demo.
std::string few_questions(const ScratchFolder& folder) {
  Json all = read_json_file(demo() + "/eval_questions.json");
  all.erase(all.begin() + 5, all.end());
  write_bytes(folder / "questions.json", all.dump());
  return (folder / "questions.json").string();
}

TEST(EvalCommand, ReportsTextsAndQuestions) {
  const ScratchFolder folder;
  const Json report = run_for_json(
      {"eval", demo_package(), "--text", stories(), "--text", stories(), "--max-windows", "2",
       "--window", "128", "--handover", "--against", demo(), "--questions", few_questions(folder)});
  EXPECT_EQ(report["mode"], "hybrid");
  ASSERT_EQ(report["texts"].size(), 2u);
  const Json& text = report["texts"][0];
  EXPECT_EQ(text["file"], stories());
  EXPECT_EQ(text["tokens"], 2 * 127);
  EXPECT_EQ(text["windows"], 2);
  EXPECT_GT(text["perplexity"].get<double>(), 1);
  EXPECT_LT(text["perplexity"].get<double>(), 4);
  EXPECT_GT(text["perplexity_handover"].get<double>(), 1);
  EXPECT_EQ(text["tokens_handover"], 2 * 64);
  EXPECT_GT(text["kl"].get<double>(), 0);
  EXPECT_LT(text["kl"].get<double>(), 0.5);
  EXPECT_EQ(report["texts"][1], text);
  EXPECT_EQ(report["questions"]["total"], 5);
  EXPECT_GE(report["questions"]["right"].get<int>(), 3);

  const Json plain = run_for_json({"eval", demo(), "--text", stories(), "--max-windows", "1"});
  EXPECT_EQ(plain["mode"], "float");
  EXPECT_FALSE(plain["texts"][0].contains("kl"));
  EXPECT_FALSE(plain["texts"][0].contains("perplexity_handover"));
  EXPECT_FALSE(plain.contains("questions"));
  const Outcome lines = run_program({"eval", demo(), "--text", stories(), "--max-windows", "1"});
  EXPECT_NE(lines.out.find("511 tokens, perplexity 1."), std::string::npos) << lines.out;
}

TEST(EvalCommand, ComparesWithTheReference) {
  const ScratchFolder folder;
  const Words words = {"eval",        demo_package(),       "--text", stories(),       "--window",
                       "64",          "--against",          demo(),   "--max-windows", "4",
                       "--questions", few_questions(folder)};
  const Json report = run_for_json(words);
  EXPECT_EQ(report["against"], demo());
  const Json& text = report["texts"][0];
  for (const char* key : {"reference_perplexity", "log_perplexity_ratio_error", "kl", "kl_error",
                          "kl_p99", "kl_max", "percent_same_top"})
    EXPECT_GT(text[key].get<double>(), 0) << key;
  EXPECT_NEAR(
      text["log_perplexity_ratio"].get<double>(),
      std::log(text["perplexity"].get<double>() / text["reference_perplexity"].get<double>()),
      1e-9);
  EXPECT_LE(text["percent_same_top"].get<double>(), 100);
  EXPECT_GE(report["questions"]["reference_right"].get<int>(), 3);
  const Outcome lines = run_program(words);
  EXPECT_NE(lines.out.find("same top token "), std::string::npos) << lines.out;
  EXPECT_NE(lines.out.find(" right (100.0 %), of the reference "), std::string::npos) << lines.out;

  // A float model and itself.
  const Json same = run_for_json(
      {"eval", demo(), "--text", stories(), "--max-windows", "1", "--against", demo()});
  EXPECT_EQ(same["texts"][0]["kl"], 0.0);
  EXPECT_EQ(same["texts"][0]["log_perplexity_ratio"], 0.0);
  EXPECT_EQ(same["texts"][0]["percent_same_top"], 100.0);
}

TEST(EvalCommand, RefusesTextsAndQuestionsThatDoNotFit) {
  const ScratchFolder folder;
  write_bytes(folder / "short.txt", "Once.");
  write_bytes(folder / "questions.json", R"([{"question": "Who?"}])");
  expect_refusal({"-q", "eval", demo(), "--text", (folder / "short.txt").string()}, {"window"});
  expect_refusal({"-q", "eval", demo(), "--text", (folder / "none.txt").string()}, {"none.txt"});
  expect_refusal({"-q", "eval", demo(), "--questions", (folder / "questions.json").string()},
                 {"questions.json", "answer"});
}

TEST(EvalCommand, StatesTheStandardError) {
  const Json report =
      run_for_json({"eval", demo(), "--text", stories(), "--max-windows", "4", "--handover"});
  const Json& text = report["texts"][0];
  EXPECT_GT(text["perplexity_error"].get<double>(), 0);
  EXPECT_LT(text["perplexity_error"].get<double>(), text["perplexity"].get<double>() / 10);
  EXPECT_GT(text["perplexity_handover_error"].get<double>(), 0);
  EXPECT_FALSE(report["cpu"].get<std::string>().empty());
  const Outcome lines = run_program({"eval", demo(), "--text", stories(), "--max-windows", "1"});
  EXPECT_NE(lines.out.find(" ± 0."), std::string::npos) << lines.out;
}

// Files are looked at before the first of them is scored.
TEST(EvalCommand, ChecksAllFilesFirst) {
  for (const Words& more : {Words{"--questions", "nosuch.json"}, Words{"--text", "nosuch.txt"}}) {
    Words words = {"eval", demo(), "--text", stories()};
    words.insert(words.end(), more.begin(), more.end());
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.status, 2);
    EXPECT_EQ(outcome.err.find("windows)"), std::string::npos) << outcome.err;
  }
  expect_refusal({"compare", demo_package(), demo(), "--text", stories()}, {"swapped?"});
  expect_refusal({"compare", demo(), "/nosuch", "--text", stories()}, {"/nosuch: no such file"});
  expect_refusal({"compare", demo(), demo_package(), "--text", stories(), "-p", "0"}, {"--prompt"});
  expect_refusal({"synth", "--shape", "demo", "-o", "/tmp/none", "--seed", "-1"}, {"--seed"});
}

TEST(EvalCommand, SaysWhatItDoesNotDoAsAsked) {
  const ScratchFolder folder;
  const Outcome cut =
      run_program({"eval", demo(), "--text", stories(), "--window", "1000", "--max-windows", "1"});
  EXPECT_EQ(cut.status, 0) << cut.err;
  EXPECT_NE(cut.err.find("tandem: warning: [eval] " + stories() + ": windows of 512 tokens"),
            std::string::npos)
      << cut.err;
  using namespace std::string_literals;
  for (const std::string& json :
       {"[{\"text\": \"Once upon a time\"}]"s, "{\"a\": 1}\n{\"a\": 2}\n"s, "\n  [\n1,\n2\n]\n"s,
        "\xEF\xBB\xBF\n[1, 2]"s, "\"Once upon a time\""s,
        // Text in another encoding, and files that are no text.
        "\xFF\xFEO\0n\0c\0e\0"s, "O\0n\0c\0e\0"s, "caf\xE9"s, "\x1F\x8B\x08\0\0"s}) {
    write_bytes(folder / "text.txt", json);
    const std::string file = (folder / "text.txt").string();
    expect_refusal({"-q", "eval", demo(), "--text", file}, {"text.txt", "expected plain text"});
    expect_refusal({"quantize", demo(), "-o", (folder / "out").string(), "--calib", file},
                   {"[quantize]", "expected plain text"});
    expect_refusal({"-q", "compare", demo(), demo_package(), "--text", file},
                   {"expected plain text"});
  }
  // A bracket alone is no JSON, nor is a line of speech.
  std::string text = "\"Hello!\"\n[Chapter 1]\n" + read_text_file(stories()).substr(0, 4000);
  write_bytes(folder / "text.txt", text);
  EXPECT_EQ(run_program({"-q", "eval", demo(), "--text", (folder / "text.txt").string(), "--window",
                         "64", "--max-windows", "1"})
                .status,
            0);
}

TEST(EvalCommand, NamesWeightsThatAreNoFloats) {
  const ScratchFolder folder;
  const std::string gguf = (folder / "demo-q4_0.gguf").string();
  ASSERT_EQ(run_program({"-q", "convert", demo(), gguf, "--dtype", "q4_0"}).status, 0);
  const Outcome coded = run_program({"run", gguf, "-p", "Once", "-n", "2", "--no-cache"});
  EXPECT_EQ(coded.err.find("float mode"), std::string::npos) << coded.err;
  EXPECT_NE(coded.err.find("weights as stored (int4"), std::string::npos) << coded.err;
  const Outcome real = run_program({"run", demo(), "-p", "Once", "-n", "2", "--no-cache"});
  EXPECT_NE(real.err.find("float mode"), std::string::npos) << real.err;
}

TEST(CompareCommand, PutsThreeModesSideBySide) {
  const ScratchFolder folder;
  const Json report =
      run_for_json({"compare", demo(), demo_package(), "--text", stories(), "--max-windows", "1",
                    "-p", "16", "--questions", few_questions(folder)});
  ASSERT_EQ(report["columns"].size(), 3u);
  const char* const names[] = {"float", "int4", "hybrid"};
  const char* const modes[] = {"float", "cpu", "hybrid"};
  for (std::size_t i = 0; i < 3; ++i) {
    const Json& column = report["columns"][i];
    EXPECT_EQ(column["name"], names[i]);
    EXPECT_EQ(column["mode"], modes[i]);
    EXPECT_EQ(column["texts"][0]["tokens"], 511);
    EXPECT_GT(column["texts"][0]["perplexity"].get<double>(), 1);
    EXPECT_EQ(column["texts"][0]["kl"].get<double>() > 0, i > 0);
    EXPECT_EQ(column["questions"]["total"], 5);
    for (const char* key :
         {"prefill_weight_bytes", "decode_weight_bytes", "prefill_tokens_per_s",
          "percent_of_int8_peak", "decode_tokens_per_s", "percent_of_read_peak", "ttft_ms"})
      EXPECT_GT(column[key].get<double>(), 0) << key;
  }
  EXPECT_LT(report["columns"][2]["decode_weight_bytes"],
            report["columns"][0]["decode_weight_bytes"]);
}

TEST(BenchCommand, ReportsSpeedsBesideBounds) {
  // The list of lengths must not swallow the folder after it.
  const Json report =
      run_for_json({"bench", "-p", "16,24", demo_package(), "-g", "4", "-r", "1", "-t", "1"});
  EXPECT_EQ(report["mode"], "hybrid");
  EXPECT_EQ(report["threads"], 1);
  EXPECT_EQ(report["repetitions"], 1);
  EXPECT_FALSE(report["cpu"].get<std::string>().empty());
  EXPECT_FALSE(report["kernels"].get<std::string>().empty());
  EXPECT_GT(report["peaks"]["int8_gops"].get<double>(), 1);
  EXPECT_GT(report["peaks"]["read_gbps"].get<double>(), 0.1);
  EXPECT_FALSE(report["peaks"]["int8_kernels"].get<std::string>().empty());
  ASSERT_EQ(report["prefill"].size(), 2u);
  ASSERT_EQ(report["decode"].size(), 2u);
  EXPECT_EQ(report["prefill"][1]["tokens"], 24);
  EXPECT_EQ(report["decode"][1]["context"], 24);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(report["prefill"][i]["tokens_per_s_deviation"], 0);
    for (const char* key : {"tokens_per_s", "percent_of_int8_peak", "ttft_ms"})
      EXPECT_GT(report["prefill"][i][key].get<double>(), 0) << key;
    for (const char* key : {"tokens_per_s", "read_gbps", "percent_of_read_peak"})
      EXPECT_GT(report["decode"][i][key].get<double>(), 0) << key;
  }
  EXPECT_EQ(report["ttft_ms"], report["prefill"][0]["ttft_ms"]);
  const Outcome beyond =
      run_program({"bench", demo(), "-p", "510", "-g", "4", "-r", "1", "--no-cache"});
  EXPECT_EQ(beyond.status, 0);
  EXPECT_NE(beyond.err.find("514 tokens, prompt and answer, are more than the model's context of "
                            "512"),
            std::string::npos)
      << beyond.err;
  expect_refusal({"bench", demo_package(), "-p", "0"}, {"prompt length"});
  expect_refusal({"bench", demo_package(), "-r", "0"}, {"repetitions"});
  expect_refusal({"bench", demo_package(), "-g", "-1"}, {"generate"});
}

TEST(DevicesCommand, ListsWhatTheMachineHas) {
  const Json report = run_for_json({"devices", "-t", "1"});
  EXPECT_EQ(report["cpu"]["threads"], 1);
  EXPECT_FALSE(report["cpu"]["model"].get<std::string>().empty());
  EXPECT_TRUE(report["cpu"]["features"].is_string());
  int selected = 0;
  for (const auto& table : report["cpu"]["kernels"]) {
    EXPECT_GT(table["int8_gops"].get<double>(), 0);
    if (!table["selected"].get<bool>()) continue;
    ++selected;
    EXPECT_EQ(table["name"], report["peaks"]["int8_kernels"]);
  }
  EXPECT_EQ(selected, 1);
  EXPECT_EQ(report["npu"]["executor"], "host");
  EXPECT_EQ(report["npu"]["runs_on"], "cpu");
  EXPECT_GT(report["npu"]["int8_gops"].get<double>(), 0);
  EXPECT_GT(report["peaks"]["read_gbps"].get<double>(), 0);
}

}  // namespace
}  // namespace tandem
