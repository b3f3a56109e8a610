// tandem eval --by-layer, --fix and --report: what single modules lose, and what is written about it.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "cli/program.h"

namespace tandem {
namespace {

using testing::demo;
using testing::demo_package;
using testing::expect_refusal;
using testing::names_in;
using testing::Outcome;
using testing::run_for_json;
using testing::run_program;
using testing::ScratchFolder;
using testing::write_bytes;

using Words = std::vector<std::string>;

const std::string kText = demo() + "/eval_stories.txt";
const std::string kCalibration = demo() + "/calibration.txt";

// On few tokens, so that modules are ranked by chance, but quickly.
Words examine(const std::string& model, const Words& more) {
  Words words = {"eval",          model, "--text",          kText, "--window", "16",
                 "--max-windows", "2",   "--layer-windows", "1"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

TEST(EvalByLayer, RanksTheModulesOfAPackage) {
  const Json report = run_for_json(
      examine(demo_package(), {"--against", demo(), "--by-layer", "--calib", kCalibration}));
  EXPECT_EQ(report["texts"][0]["windows"], 2);
  EXPECT_EQ(report["by_layer"]["windows"], 1);
  EXPECT_EQ(report["by_layer"]["window_tokens"], 16);
  EXPECT_GT(report["by_layer"]["decode"]["kl"].get<double>(), 0);
  EXPECT_GT(report["by_layer"]["prefill"]["kl"].get<double>(), 0);
  EXPECT_FALSE(report.contains("fix"));
  const Json& layers = report["layers"];
  ASSERT_EQ(layers.size(), 42U * 2 + 1);
  for (std::size_t i = 0; i + 1 < layers.size(); ++i)
    EXPECT_GE(layers[i]["kl"].get<double>(), layers[i + 1]["kl"].get<double>());
  for (const char* key : {"module", "phase", "form", "kl", "kl_error", "sqnr_db", "bytes"})
    EXPECT_TRUE(layers[0].contains(key)) << key;

  // In mode cpu nothing is read with prefill's weights.
  const Outcome lines =
      run_program(examine(demo_package(), {"--against", demo(), "--by-layer", "--calib",
                                           kCalibration, "--mode", "cpu"}));
  EXPECT_EQ(lines.status, 0) << lines.err;
  EXPECT_NE(lines.out.find("SQNR dB"), std::string::npos) << lines.out;
  EXPECT_NE(lines.out.find("lm_head "), std::string::npos) << lines.out;
  EXPECT_EQ(lines.out.find("prefill "), std::string::npos) << lines.out;
}

TEST(EvalFix, WritesARecipeForQuantize) {
  const ScratchFolder folder;
  const std::string recipe = (folder / "fix.json").string();
  // Mode cpu alone, which is quicker.
  const auto fix = [&](Words more) {
    more.insert(more.end(), {"--against", demo(), "--calib", kCalibration, "--mode", "cpu"});
    return run_program(examine(demo_package(), more));
  };
  const Outcome made = fix({"--fix", recipe, "--json"});
  EXPECT_EQ(made.status, 0);
  EXPECT_NE(made.err.find("next: tandem quantize " + demo() + " -o OUTPUT --recipe " + recipe),
            std::string::npos)
      << made.err;
  const Json report = parse_json(made.out, "eval");
  EXPECT_EQ(report["fix"]["recipe"], recipe);
  const Json& repairs = report["fix"]["repairs"];
  ASSERT_GT(repairs.size(), 0U);
  EXPECT_LT(repairs[0]["to"]["kl"].get<double>(), repairs[0]["from"]["kl"].get<double>());
  EXPECT_LE(report["fix"]["added_bytes"].get<double>(),
            report["by_layer"]["bytes"].get<double>() / 10);
  const Json written = read_json_file(recipe);
  EXPECT_EQ(written["rules"].size(), 2 + repairs.size());
  EXPECT_EQ(written["rules"][2]["match"], repairs[0]["module"]);
  // It is one for quantize.
  const Outcome packed =
      run_program({"-q", "quantize", demo(), "-o", (folder / "p").string(), "--recipe", recipe,
                   "--calib", kCalibration, "--samples", "2"});
  EXPECT_EQ(packed.status, 0) << packed.err;

  // A limit that can't be kept: figures, but no file.
  const Outcome beyond =
      fix({"--fix", (folder / "none.json").string(), "--max-kl", "0", "--max-size-increase", "1"});
  EXPECT_EQ(beyond.status, 3);
  EXPECT_NE(beyond.err.find("[eval] not good enough, and nothing was written"), std::string::npos)
      << beyond.err;
  EXPECT_NE(beyond.out.find("SQNR dB"), std::string::npos);
  EXPECT_EQ(names_in(folder.path()), (Words{"fix.json", "p"}));
}

TEST(EvalByLayer, RefusesWhatItCannotMeasure) {
  const ScratchFolder folder;
  const Words against = {"-q", "--against", demo(), "--by-layer"};
  const auto with = [&](Words words) {
    words.insert(words.begin(), against.begin(), against.end());
    return words;
  };
  expect_refusal(examine(demo_package(), {"--by-layer"}), {"is a package: expected --against"});
  expect_refusal(examine(demo_package(), {"-q", "--by-layer", "--against", demo_package()}),
                 {"got the package"});
  expect_refusal(examine(demo_package(), against),
                 {"was calibrated on calibration.txt: expected --calib"});
  expect_refusal(examine(demo_package(), with({"--calib", (folder / "none.txt").string()})),
                 {"none.txt"});
  expect_refusal(examine(demo_package(), with({"--calib", kCalibration, "--recipe", "r.json"})),
                 {"--recipe: expected with a checkpoint, got the package"});
  expect_refusal({"eval", demo(), "--by-layer", "--questions", demo() + "/eval_questions.json"},
                 {"--text"});
  expect_refusal(examine(demo(), {"--calib", kCalibration}), {"--calib: expected with --by-layer"});
  expect_refusal(examine(demo(), {"--max-kl", "1"}), {"--max-kl", "--fix"});
  write_bytes(folder / "r.json",
              R"({"rules": [{"match": "model.layers.9.mlp.down_proj", "decode": "float"}]})");
  expect_refusal(examine(demo(), {"-q", "--by-layer", "--recipe", (folder / "r.json").string()}),
                 {"\"model.layers.9.mlp.down_proj\" matches no module"});
  // Before anything is measured, and without a trace.
  for (const std::string& file :
       {(folder / "no/fix.json").string(), folder.path().string(), std::string("-")})
    expect_refusal(examine(demo(), {"-q", "--fix", file, "--calib", kCalibration}), {});
  expect_refusal(examine(demo(), {"-q", "--fix", demo() + "/config.json", "--calib", kCalibration}),
                 {"config.json: is a file of the model"});
  EXPECT_EQ(names_in(folder.path()), Words{"r.json"});
}

TEST(EvalReport, IsAPageOfTheSameFigures) {
  const ScratchFolder folder;
  const std::string page = (folder / "<script>.html").string();
  const Json report =
      run_for_json(examine(demo_package(), {"--against", demo(), "--by-layer", "--calib",
                                            kCalibration, "--mode", "cpu", "--report", page}));
  const std::string html = read_text_file(page);
  EXPECT_TRUE(html.starts_with("<!DOCTYPE html>"));
  EXPECT_TRUE(html.ends_with("</html>\n"));
  EXPECT_NE(html.find("Quality of " + demo_package()), std::string::npos);
  EXPECT_NE(html.find(fmt::format("{:.5f}", report["texts"][0]["kl"].get<double>())),
            std::string::npos);
  for (const Json& layer : report["layers"])
    EXPECT_NE(html.find("<td>" + layer["module"].get<std::string>() + "</td>"), std::string::npos);
  // Of figures alone, without modules.
  EXPECT_EQ(run_program({"-q", "eval", demo(), "--text", kText, "--window", "16", "--max-windows",
                         "1", "--report", page})
                .status,
            0);
  EXPECT_EQ(read_text_file(page).find("<svg"), std::string::npos);
  expect_refusal({"-q", "eval", demo(), "--text", kText, "--report", demo() + "/config.json"},
                 {"config.json: is a file of the model"});
  expect_refusal({"-q", "eval", demo(), "--text", kText, "--report", "/nosuch/r.html"},
                 {"/nosuch"});
  EXPECT_EQ(names_in(folder.path()), Words{"<script>.html"});
}

}  // namespace
}  // namespace tandem
