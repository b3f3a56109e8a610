// Spellings, aliases and suggestions of the command line.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/version.h"
#include "cli/program.h"

namespace tandem {
namespace {

using testing::demo;
using testing::expect_refusal;
using testing::Outcome;
using testing::run_for_json;
using testing::run_program;
using testing::ScratchFolder;
using testing::write_bytes;

struct Typo {
  std::vector<std::string> words;
  std::string meant;
};

// Letters transposed, missing, doubled and wrong, in commands, flags and values.
TEST(Suggestions, FindWhatWasMeant) {
  const std::vector<Typo> typos = {
      {{"qauntize"}, "quantize"},
      {{"quantise"}, "quantize"},
      {{"quntize"}, "quantize"},
      {{"quantizee"}, "quantize"},
      {{"rnu"}, "run"},
      {{"runn"}, "run"},
      {{"rum"}, "run"},
      {{"inspcet"}, "inspect"},
      {{"inspekt"}, "inspect"},
      {{"covnert"}, "convert"},
      {{"converrt"}, "convert"},
      {{"Convert"}, "convert"},
      {{"tokenise"}, "tokenize"},
      {{"tokenze"}, "tokenize"},
      {{"detokenzie"}, "detokenize"},
      {{"detokenise"}, "detokenize"},
      {{"evla"}, "eval"},
      {{"evall"}, "eval"},
      {{"comapre"}, "compare"},
      {{"compair"}, "compare"},
      {{"bnech"}, "bench"},
      {{"benhc"}, "bench"},
      {{"devcies"}, "devices"},
      {{"device"}, "devices"},
      {{"templtae"}, "template"},
      {{"tempalte"}, "template"},
      {{"logit"}, "logits"},
      {{"sytnh"}, "synth"},
      {{"hlep"}, "help"},
      {{"verison"}, "version"},
      {{"run", "m", "--temprature", "1"}, "--temperature"},
      {{"run", "m", "--temperatur", "1"}, "--temperature"},
      {{"run", "m", "--tpo-k", "1"}, "--top-k"},
      {{"run", "m", "--top_kk", "1"}, "--top-k"},
      {{"run", "m", "--promt", "x"}, "--prompt"},
      {{"run", "m", "--propmt=x"}, "--prompt"},
      {{"run", "m", "--sede", "1"}, "--seed"},
      {{"run", "m", "--tokns", "1"}, "--tokens"},
      {{"run", "m", "--therads", "1"}, "--threads"},
      {{"run", "m", "--repetition-penlty", "1"}, "--repetition-penalty"},
      {{"run", "m", "--ignroe-eos"}, "--ignore-eos"},
      {{"run", "m", "--n-predcit", "3"}, "--n-predict"},
      {{"run", "m", "--max_new_token", "3"}, "--max-new-tokens"},
      {{"run", "m", "--modle", "hybrid"}, "--mode"},
      {{"run", "m", "-prompt", "x"}, "--prompt"},
      {{"quantize", "m", "--claib", "x"}, "--calib"},
      {{"quantize", "m", "--group-szie", "32"}, "--group-size"},
      {{"quantize", "m", "--ouptut", "x"}, "--output"},
      {{"convert", "a", "b", "--outype", "f16"}, "--outtype"},
      {{"convert", "--inptu_model", "a"}, "--input_model"},
      {{"eval", "m", "--txt", "x"}, "--text"},
      {{"eval", "m", "--questoins", "x"}, "--questions"},
      {{"--verison"}, "--version"},
      {{"--hepl"}, "--help"},
      {{"--queit", "run"}, "--quiet"},
      {{"help", "qauntize"}, "quantize"},
      {{"run", "m", "-p", "x", "--mode", "hybird"}, "hybrid"},
      {{"run", "m", "-p", "x", "--mode", "flaot"}, "float"},
      {{"quantize", "m", "-o", "x", "--input-scale", "percentle"}, "percentile"},
      {{"synth", "-o", "x", "--shape", "lama-3.2-1b"}, "llama-3.2-1b"},
      {{"convert", "a", "b", "--type", "gugf"}, "gguf"},
      {{"convert", "a", "b", "--dtype", "b16"}, "bf16"},
  };
  for (const Typo& typo : typos) {
    const Outcome outcome = run_program(typo.words);
    EXPECT_EQ(outcome.status, 2) << ::testing::PrintToString(typo.words);
    EXPECT_EQ(std::ranges::count(outcome.err, '\n'), 1) << outcome.err;
    EXPECT_TRUE(outcome.err.starts_with("tandem: error: ")) << outcome.err;
    EXPECT_NE(outcome.err.find("; did you mean '" + typo.meant + "'?"), std::string::npos)
        << outcome.err;
  }
}

TEST(Suggestions, AreNotMadeUp) {
  const std::vector<std::vector<std::string>> far = {
      {"frobnicate"},       {"x"},
      {"serve-everything"}, {"run", "m", "--frobnicate"},
      {"run", "m", "-Z"},   {"run", "m", "-p", "x", "--mode", "quantum"},
      {"--frobnicate"},     {"run", "m", std::string(5000, 'x')}};
  for (const auto& words : far) {
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.status, 2);
    EXPECT_EQ(outcome.err.find("did you mean"), std::string::npos) << outcome.err;
    EXPECT_LT(outcome.err.size(), 400u);
  }
  expect_refusal({"qauntize"},
                 {"unknown command 'qauntize'; did you mean 'quantize'? (see tandem"});
  expect_refusal({"run", "--foo"}, {"run: unknown flag '--foo' (see tandem run --help)"});
  expect_refusal({"run", "a", "b", "c"}, {"unexpected argument 'b'"});
  // Flags of llama.cpp for what needs none.
  expect_refusal({"run", demo(), "-ngl", "99", "-p", "a"}, {"'-ngl', which is not needed here"});
  expect_refusal({"run", demo(), "-fa", "-p", "a"}, {"'-fa', which is not needed here"});
  expect_refusal({"run", demo(), "-no-cnv", "-p", "a"}, {"'-no-cnv', which is not needed here"});
  // The last of several wins.
  EXPECT_EQ(run_program({"-q", "run", demo(), "-p", "a", "-n", "9", "-n", "1", "-b", "32", "-ub",
                         "16", "--json"})
                .status,
            0);
  // No hint of a prompt that happens to be a word of the message.
  const Outcome missing = run_program({"run", "/no/such/a/folder", "-p", "a"});
  EXPECT_EQ(missing.err.find("--prompt"), std::string::npos) << missing.err;
  // What other projects call it.
  expect_refusal({"chat", "m"}, {"did you mean 'run --chat'?"});
  expect_refusal({"perplexity", "m"}, {"did you mean 'eval'?"});
  expect_refusal({"run", "m", "--seed"}, {"error: run: --seed: expected a value (see"});
  expect_refusal({"eval", demo()}, {"error: eval: --text or --questions is required"});
}

TEST(Overview, IsWhatTheProgramAlonePrints) {
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{}, {"-q"}, {"-v"}, {"-qv"}, {"--quiet"}}) {
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    for (const char* line : {"tandem inspect MODEL", "tandem quantize MODEL -o PACKAGE",
                             "tandem run PACKAGE --chat", "tandem help"})
      EXPECT_NE(outcome.out.find(line), std::string::npos) << line;
  }
}

TEST(HelpCommand, IsTheSameAsTheFlag) {
  const auto out = [](const std::vector<std::string>& words) {
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return outcome.out;
  };
  EXPECT_EQ(out({"help"}), out({"--help"}));
  EXPECT_EQ(out({"help", "run"}), out({"run", "--help"}));
  EXPECT_EQ(out({"run", "help"}), out({"run", "--help"}));
  EXPECT_EQ(out({"version"}), std::string(build_version()) + "\n");
  EXPECT_NE(out({"help"}).find("130 after Ctrl-C, 143 after SIGTERM"), std::string::npos);
  EXPECT_NE(out({"help", "run"}).find("(also --temp)"), std::string::npos);
  expect_refusal({"help", "frobnicate"}, {"unknown command 'frobnicate'"});
}

// The answer of the demo checkpoint to the same question in other words.
TEST(Aliases, MeanTheSame) {
  const auto answer = [](std::vector<std::string> words) {
    words.insert(words.begin(), {"run", "-q", "--no_cache", "--threads=1"});
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return outcome.out;
  };
  const std::string drawn =
      answer({demo(), "--prompt", "Once upon a time", "--temperature", "0.9", "--tokens", "12",
              "--seed", "5", "--top-k", "20", "--repetition-penalty", "1.1", "--chunk", "64"});
  EXPECT_FALSE(drawn.empty());
  EXPECT_EQ(answer({"-m", demo(), "-p", "Once upon a time", "--temp", "0.9", "-n", "12", "-s", "5",
                    "--top_k", "20", "--repeat-penalty", "1.1", "-b", "64", "-c", "0"}),
            drawn);
  EXPECT_EQ(
      answer({"--model=" + demo(), "--prompt=Once upon a time", "--temp=0.9", "--max_new_tokens=12",
              "-s5", "--top_k=20", "--repeat_penalty=1.1", "--batch_size=64", "--ctx-size=0"}),
      drawn);
  EXPECT_EQ(answer({demo(), "-p", "Once upon a time", "--temp", "0.9", "--n_predict", "12",
                    "--seed=5", "--top-k=20", "--repetition_penalty=1.1", "-ub", "64"}),
            drawn);
  const std::string chat =
      answer({demo(), "--chat", "--system", "Be brief.", "-p", "Hi", "-n", "8"});
  EXPECT_EQ(answer({demo(), "-i", "-sys", "Be brief.", "-p", "Hi", "-n8"}), chat);
  EXPECT_EQ(answer({demo(), "-cnv", "--system-prompt", "Be brief.", "-p", "Hi", "-n", "8"}), chat);
}

TEST(Aliases, LeaveValuesAlone) {
  const auto ids = [](std::vector<std::string> words) {
    words.insert(words.begin(), {"tokenize", demo()});
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return outcome.out;
  };
  // What looks like a flag is text where text is expected.
  EXPECT_EQ(run_program({"detokenize", demo()}, ids({"-p", "--no_special"})).out, "--no_special");
  EXPECT_EQ(run_program({"detokenize", demo()}, ids({"--prompt=--a_b=c"})).out, "--a_b=c");
  EXPECT_EQ(run_program({"detokenize", demo()}, ids({"-p--temp"})).out, "--temp");
  EXPECT_EQ(run_program({"detokenize", demo()}, ids({"-p", "run"})).out, "run");
}

TEST(Aliases, FilesOfTextAndIdsAreGivenAlike) {
  const ScratchFolder folder;
  const std::string text = (folder / "text.txt").string(), ids = (folder / "ids.txt").string();
  write_bytes(text, "Once upon a time");
  const Outcome spelled = run_program({"tokenize", demo(), "-p", "Once upon a time"});
  write_bytes(ids, spelled.out);
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"-f", text}, {"--file", text}, {"-f" + text}})
    EXPECT_EQ(run_program({"tokenize", "-m", demo(), words.front(),
                           words.back() == words.front() ? "--no-special" : words.back()})
                  .out,
              spelled.out);
  EXPECT_EQ(run_program({"tokenize", demo(), "-f", "-"}, "Once upon a time").out, spelled.out);
  const std::vector<std::vector<std::string>> ways = {
      {"-f", ids}, {"--file", ids}, {"--ids", ids}, {"--ids", "-"}, {"-f", "-"}};
  for (const auto& way : ways) {
    EXPECT_EQ(run_program({"detokenize", demo(), way[0], way[1]}, spelled.out).out,
              "Once upon a time");
    const std::string out = (folder / "logits.safetensors").string();
    const Outcome logits =
        run_program({"-q", "logits", demo(), way[0], way[1], "-o", out, "--no-cache"}, spelled.out);
    EXPECT_EQ(logits.status, 0) << logits.err;
    EXPECT_TRUE(fs::exists(out));
    fs::remove(out);
  }
  expect_refusal({"detokenize", demo(), "--ids", "-1"}, {"--ids", "-1"});
  expect_refusal({"detokenize", demo(), "--ids", "1,x"}, {"1,x"});
  expect_refusal({"logits", demo(), "--ids", "1,99999", "-o", (folder / "l").string()}, {"99999"});
  expect_refusal({"logits", demo(), "--ids", "1,2", "-o", "-"}, {"--output", "got -"});
}

TEST(Quiet, AndVerboseMeanSomethingInEveryCommand) {
  const ScratchFolder folder;
  write_bytes(folder / "m.json", R"([{"role": "user", "content": "Hi"}])");
  const std::vector<std::vector<std::string>> commands = {
      {"tokenize", demo(), "-p", "Hi"},
      {"detokenize", demo(), "--ids", "1,2"},
      {"template", demo(), "--messages", (folder / "m.json").string()},
      {"inspect", demo()},
      {"run", demo(), "-p", "Hi", "-n", "2", "--no-cache"}};
  for (const auto& command : commands) {
    const Outcome plain = run_program(command);
    for (const char* flag : {"-q", "-v"}) {
      std::vector<std::string> before = command, after = command;
      before.insert(before.begin(), flag);
      after.emplace_back(flag);
      for (const Outcome& outcome : {run_program(before), run_program(after)}) {
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        EXPECT_EQ(outcome.out, plain.out);
        if (std::string(flag) == "-q") {
          EXPECT_EQ(outcome.err, "");
        } else {
          EXPECT_NE(outcome.err.find("tandem: done after "), std::string::npos) << outcome.err;
          EXPECT_NE(outcome.err.find("tandem: version "), std::string::npos) << outcome.err;
        }
      }
    }
  }
}

TEST(MissingFiles, AreExplained) {
  const ScratchFolder folder;
  fs::create_directories(folder / "models/demo");
  write_bytes(folder / "calibration.txt", "Once upon a time");
  const auto at = [&](const char* name) { return (folder / name).string(); };
  expect_refusal({"inspect", at("models/dmeo")},
                 {"dmeo", "(folder: package", "did you mean '" + at("models/demo") + "'?"});
  expect_refusal({"-q", "eval", demo(), "--text", at("calibratoin.txt")},
                 {"(--text: text to score", "did you mean '" + at("calibration.txt") + "'?"});
  expect_refusal({"tokenize", demo(), "-f", at("calibration.text")},
                 {"(--file: file with the text)", "did you mean '" + at("calibration.txt") + "'?"});
  expect_refusal({"quantize", demo(), "-o", at("out"), "--calib", at("calbration.txt")},
                 {"--calib", "did you mean '" + at("calibration.txt") + "'?"});
  expect_refusal({"inspect", at("nothing-like-it")}, {"no such file or folder (folder: package"});
}

TEST(SwappedArguments, ArePointedOut) {
  const ScratchFolder folder;
  const auto at = [&](const char* name) { return (folder / name).string(); };
  expect_refusal({"convert", at("new.gguf"), demo()}, {"new.gguf", "swapped"});
  expect_refusal({"convert", "--input", at("new.gguf"), "--output", demo()}, {"swapped"});
  expect_refusal({"quantize", at("new"), "-o", demo(), "--calib", demo() + "/calibration.txt"},
                 {"new", "swapped"});
  EXPECT_TRUE(testing::names_in(folder.path()).empty());
}

TEST(Values, AreRefusedInOneForm) {
  expect_refusal({"run", demo(), "-p", "x", "--temperature", "warm"},
                 {"--temperature: expected a number, got 'warm'"});
  expect_refusal({"run", demo(), "-p", "x", "-t", "100"},
                 {"--threads: expected a number from 1 to 64, got '100'"});
  expect_refusal({"run", demo(), "-p", "x", "-n", "1.5"}, {"--tokens: expected a number from -1"});
  expect_refusal({"run", demo(), "-p", "x", "--temp", "-0.1"},
                 {"temperature: expected 0 (greedy) or a number above, got -0.1\n"});
  expect_refusal({"run", demo(), "-p", "x", "--min-p", "-0.1"}, {"[0, 1], got -0.1\n"});
}

TEST(StandardInput, ServesWhereverTextIsTaken) {
  const std::string text = read_text_file(demo() + "/eval_stories.txt").substr(0, 8000);
  const Outcome eval =
      run_program({"-q", "eval", demo(), "-f", "-", "--window", "64", "--chunks", "2"}, text);
  EXPECT_EQ(eval.status, 0) << eval.err;
  EXPECT_NE(eval.out.find("126 tokens, perplexity "), std::string::npos) << eval.out;
  EXPECT_TRUE(eval.out.starts_with("-: ")) << eval.out;
  EXPECT_EQ(run_program({"-q", "run", demo(), "-f", "-", "-n", "4", "--no-cache"}, "Once upon").out,
            run_program({"-q", "run", demo(), "-p", "Once upon", "-n", "4", "--no-cache"}).out);
  expect_refusal({"-q", "eval", demo(), "--text", "-", "--window", "64"}, {"the text has 2 tokens"},
                 "Once.");
  expect_refusal({"-q", "eval", demo(), "--text", "-", "--questions", "-"}, {"given twice"}, text);
  const ScratchFolder folder;
  const Outcome convert = run_program({"convert", demo() + "/model.safetensors",
                                       (folder / "x.safetensors").string(), "--config", "-"},
                                      read_text_file(demo() + "/config.json"));
  EXPECT_EQ(convert.status, 0) << convert.err;
  for (const std::vector<std::string>& words : {std::vector<std::string>{"run", "-", "-p", "x"},
                                                {"inspect", "-"},
                                                {"convert", "-", "x.gguf"},
                                                {"convert", demo(), "-"},
                                                {"quantize", demo(), "-o", "-", "--calib", "x"},
                                                {"synth", "--shape", "demo", "-o", "-"},
                                                {"tokenize", "-", "-p", "x"},
                                                {"template", "-", "--messages", "x"}})
    expect_refusal(words, {"got -: "});
}

}  // namespace
}  // namespace tandem
