// tandem quantize, synth and inspect: what they write, what they reject, and being killed.
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <thread>

#include "cli/program.h"
#include "package/package.h"

namespace tandem {
namespace {

using testing::demo;
using testing::expect_refusal;
using testing::names_in;
using testing::Outcome;
using testing::Program;
using testing::run_for_json;
using testing::run_program;
using testing::ScratchFolder;
using testing::write_bytes;

std::vector<std::string> quantize_words(const fs::path& target, const std::string& group = "128") {
  return {
      "quantize",     demo(), "-o",        target.string(), "--calib", demo() + "/calibration.txt",
      "--samples",    "2",    "--seq-len", "128",           "-t",      "2",
      "--group-size", group};
}

TEST(QuantizeCommand, ReportsWhatItWrote) {
  const ScratchFolder folder;
  const Json report = run_for_json(quantize_words(folder.path() / "p/"));
  EXPECT_EQ(report["linears"], 43);
  EXPECT_EQ(report["calibration_tokens"], 256);
  EXPECT_EQ(report["decode_bytes"], fs::file_size(folder / "p/decode.safetensors"));
  EXPECT_EQ(report["prefill_bytes"], fs::file_size(folder / "p/prefill.safetensors"));
  EXPECT_GT(report["seconds"].get<double>(), 0);
  ASSERT_EQ(report["passes"].size(), 2u);
  EXPECT_EQ(report["passes"][0]["pass"], "quantize_decode");
  EXPECT_GT(report["passes"][0]["seconds"].get<double>(), 0);
  EXPECT_GT(report["forecast"]["seconds"].get<double>(), 0);
  EXPECT_GT(report["forecast"]["memory_bytes"].get<std::int64_t>(), 1 << 20);
  EXPECT_GT(report["memory_bytes"].get<std::int64_t>(), 1 << 20);
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"p"});

  // Again, over the first, with the module pattern before the folder.
  const Outcome again =
      run_program({"-q", "quantize", "--exclude", "*.down_proj", demo(), "-o",
                   (folder / "p").string(), "--calib", demo() + "/calibration.txt", "--samples",
                   "1", "--seq-len", "64", "--lm-head", "float"});
  EXPECT_EQ(again.status, 0) << again.err;
  EXPECT_EQ(again.err, "");
  const Json inspected = run_for_json({"inspect", (folder / "p").string()});
  EXPECT_EQ(inspected["linears"]["prefill"]["int8"]["count"], 36);
  EXPECT_EQ(inspected["linears"]["prefill"]["bf16"]["count"], 7);
  EXPECT_EQ(inspected["linears"]["decode"]["int4 g128"]["count"], 36);
}

TEST(QuantizeCommand, MakesInt4InBlocksForPrefill) {
  const ScratchFolder folder;
  std::vector<std::string> words = quantize_words(folder / "p");
  words.insert(words.end(), {"--prefill", "w4a8"});
  run_for_json(words);
  const Json inspected = run_for_json({"inspect", (folder / "p").string()});
  EXPECT_EQ(inspected["linears"]["prefill"]["int4 block 32"]["count"], 42);
  EXPECT_EQ(inspected["linears"]["decode"]["int4 g128"]["count"], 42);
  words.insert(words.end(), {"--export", "awq"});
  const Outcome bad = run_program(words);
  EXPECT_NE(bad.err.find("--prefill: expected with a package"), std::string::npos) << bad.err;
}

// More bits for activations, of which outliers leave enough: nearer to the float model.
TEST(QuantizeCommand, GivesActivationsOfPrefill16Bits) {
  const ScratchFolder folder;
  std::map<std::string, double> kl;
  for (const char* scheme : {"w8a8", "w8a16", "w4a16"}) {
    std::vector<std::string> words = quantize_words(folder / scheme);
    words.insert(words.end(), {"--prefill", scheme, "--max-kl", "9"});
    kl[scheme] = run_for_json(words)["gate"]["prefill"]["kl"].get<double>();
    const Json inspected = run_for_json({"inspect", (folder / scheme).string()});
    EXPECT_EQ(inspected["linears"]["decode"]["int4 g128"]["count"], 42);
    const Json recipe = read_json_file(folder / scheme / "tandem.json")["recipe"];
    EXPECT_EQ(recipe["rules"][0]["prefill"]["activations"],
              std::string(scheme) == "w8a8" ? "static" : "static16");
    EXPECT_EQ(recipe["rules"][0]["prefill"]["weights"],
              std::string(scheme) == "w4a16" ? "int4" : "int8");
  }
  EXPECT_LT(kl["w8a16"], kl["w8a8"] / 4);
  EXPECT_LT(kl["w8a16"], kl["w4a16"]);
}

TEST(QuantizeCommand, HoldsToALimitOrWritesNothing) {
  const ScratchFolder folder;
  const auto words = [&](const char* name, const char* limit) {
    std::vector<std::string> all = quantize_words(folder / name);
    all.insert(all.end(), {"--max-kl", limit});
    return all;
  };
  const Json good = run_for_json(words("good", "1"));
  EXPECT_EQ(good["gate"]["passed"], true);
  EXPECT_EQ(good["gate"]["windows"], 8);
  EXPECT_TRUE(good["gate"]["repairs"].empty());
  EXPECT_LT(good["gate"]["decode"]["kl"].get<double>(), 1);

  std::vector<std::string> beyond = words("bad", "0");
  beyond.insert(beyond.end(), {"--seq-len", "16", "--max-size-increase", "2", "--report",
                               (folder / "bad.html").string()});
  const Outcome bad = run_program(beyond);
  EXPECT_EQ(bad.status, 3);
  EXPECT_NE(bad.err.find("tandem: error: [quantize] not good enough, and nothing was written"),
            std::string::npos)
      << bad.err;
  // The ranking, and what was tried.
  EXPECT_NE(bad.out.find("SQNR dB"), std::string::npos) << bad.out;
  EXPECT_NE(bad.out.find("down_proj (prefill): int8 static -> "), std::string::npos) << bad.out;
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"bad.html", "good"}));
  const std::string page = read_text_file(folder / "bad.html");
  EXPECT_NE(page.find("The limit of 0 nats/token is not kept."), std::string::npos);
  EXPECT_NE(page.find("<svg"), std::string::npos);
  std::vector<std::string> inside = words("good", "1");
  inside.insert(inside.end(), {"--report", (folder / "good/r.html").string()});
  expect_refusal(inside, {"is in the output's folder"});

  expect_refusal(words("bad", "-1"), {"--max-kl"});
  beyond = quantize_words(folder / "bad");
  beyond.insert(beyond.end(), {"--max-size-increase", "5"});
  expect_refusal(beyond, {"--max-kl"});
  std::vector<std::string> missing = words("bad", "1");
  missing.insert(missing.end(), {"-q", "--max-kl-text", (folder / "none.txt").string()});
  expect_refusal(missing, {"none.txt"});
  write_bytes(folder / "short.txt", "Once.");
  missing.back() = (folder / "short.txt").string();
  expect_refusal(missing, {"tokens", "window"});
}

TEST(QuantizeCommand, SearchesWithAwq) {
  const ScratchFolder folder;
  std::vector<std::string> words = quantize_words(folder / "p");
  words.insert(words.end(), {"--algo", "awq"});
  const Outcome outcome = run_program(words);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("tandem: awq  100 % (510 of 510 trials)"), std::string::npos)
      << outcome.err;
  Json inspected = run_for_json({"inspect", (folder / "p").string()});
  EXPECT_EQ(inspected["linears"]["decode"]["int4 g128"]["count"], 42);
  ThreadPool pool(1);
  EXPECT_EQ(Package::open(folder / "p", pool).manifest()["recipe"]["passes"], Json::array({"awq"}));
  // Quark's spelling, and its order.
  words.back() = "awq";
  words[words.size() - 2] = "--quant_algo";
  words.insert(words.end(), {"--compat", "quark"});
  EXPECT_EQ(run_program(words).status, 0);
  EXPECT_EQ(Package::open(folder / "p", pool).manifest()["recipe"]["passes"],
            Json::parse(R"([{"name": "awq", "compat": "quark", "search_tokens": 0}])"));
  // Refused before anything is done.
  words = quantize_words(folder / "q");
  words.insert(words.end(), {"--algo", "awk"});
  expect_refusal(words,
                 {"--algo: expected one of rotate, smoothquant, autosmoothquant, awq, seqmse, "
                  "mse_clip, gptq, got 'awk'; did you mean 'awq'?"});
  words = quantize_words(folder / "q");
  words.insert(words.end(), {"--compat", "quark"});
  expect_refusal(words, {"--compat"});
  EXPECT_FALSE(fs::exists(folder / "q"));
}

// KL from the demo of what a file holds.
double loss_of(const fs::path& model) {
  const Json report =
      run_for_json({"eval", model.string(), "--against", demo(), "--text",
                    demo() + "/eval_stories.txt", "--max-windows", "4", "--no-cache"});
  return report["texts"][0]["kl"].get<double>();
}

// A package has operators for what the weights can't hold, a checkpoint goes without.
TEST(QuantizeCommand, Rotates) {
  const ScratchFolder folder;
  std::vector<std::string> words = quantize_words(folder / "p");
  words.insert(words.end(), {"--algo", "rotate", "--dump-after", "rotate"});
  const Outcome outcome = run_program(words);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("model.layers.5.mlp.down_proj.hadamard"), std::string::npos);
  EXPECT_LT(loss_of(folder / "p"), 0.004) << "0.011 without it";
  for (const char* format : {"awq", "quark", "gguf"}) {
    const fs::path target = folder / (std::string(format) + ".gguf");
    words = {"-q",     "quantize", demo(),     "-o",  target.string(),
             "--algo", "rotate",   "--export", format};
    EXPECT_EQ(run_program(words).status, 0) << format;
    EXPECT_LT(loss_of(target), 0.006) << format;
  }
  write_bytes(folder / "r.json", R"({"passes": ["rotate"]})");
  words.resize(5);
  words[4] = (folder / "q").string();
  words.insert(words.end(), {"--export", "awq", "--recipe", (folder / "r.json").string()});
  expect_refusal(words, {"only a package has: expected \"r3\" and \"r4\" to be false"});
  write_bytes(folder / "r.json", "{\"passes\": [\n{\"name\": \"rotate\", \"r1\": \"spin\"}]}");
  expect_refusal(words,
                 {"r.json:2: passes[0]: r1: expected \"none\" or \"hadamard\" or \"random\" or "
                  "\"learned\""});
  write_bytes(folder / "r.json", R"({"passes": [{"name": "rotate", "load": "no.safetensors"}]})");
  words[6] = "package";
  words.insert(words.end(), {"--calib", demo() + "/calibration.txt"});
  expect_refusal(words, {"no.safetensors"});
}

TEST(QuantizeCommand, PutsAPrefixBeforeEverySequence) {
  const ScratchFolder folder;
  std::vector<std::string> words = quantize_words(folder / "p");
  words.insert(words.end(), {"--prefix", "4093,17"});
  const Outcome outcome = run_program(words);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_TRUE(outcome.out.ends_with("\nprefix: 4093, 17\n")) << outcome.out;
  const std::string package = (folder / "p").string();
  EXPECT_EQ(run_for_json({"inspect", package})["prefix"], Json::array({4093, 17}));
  EXPECT_NE(run_program({"inspect", package}).out.find("prefix             [4093,17]"),
            std::string::npos);
  // Texts are measured behind it, modules and limits too.
  const Json report =
      run_for_json({"eval", package, "--against", demo(), "--text", demo() + "/eval_stories.txt",
                    "--window", "64", "--max-windows", "2", "--by-layer", "--layer-windows", "2",
                    "--calib", demo() + "/calibration.txt", "--no-cache"});
  EXPECT_LT(report["layers"][0]["kl"].get<double>(), 0.05);
  words.insert(words.end(), {"--max-kl", "0.1"});
  EXPECT_EQ(run_program(words).status, 0);

  words = quantize_words(folder / "q");
  words.insert(words.end(), {"--prefix", "search"});
  const Outcome none = run_program(words);
  EXPECT_NE(none.out.find("prefix: none, since no token has outliers"), std::string::npos);
  EXPECT_FALSE(run_for_json({"inspect", (folder / "q").string()}).contains("prefix"));
  for (const char* bad : {"a", "", "1,,2", "-1", "3000000000", "1.5"}) {
    words.back() = bad;
    expect_refusal(words, {"--prefix"});
  }
  words.back() = "4096";
  words.insert(words.begin(), "-q");
  expect_refusal(words, {"prefix: expected token ids from 0 to 4095, got 4096"});
  expect_refusal(
      {"quantize", demo(), "-o", (folder / "e").string(), "--export", "awq", "--prefix", "1"},
      {"a prefix has no place in a checkpoint"});
}

TEST(QuantizeCommand, MakesAnInt8Cache) {
  const ScratchFolder folder;
  std::vector<std::string> words = quantize_words(folder / "p");
  const std::string package = (folder / "p").string();
  EXPECT_EQ(run_program(words).status, 0);
  EXPECT_EQ(run_for_json({"inspect", package})["kv"], "float16");
  expect_refusal({"run", package, "-p", "Once", "--kv", "int8", "--no-cache"},
                 {"has no scales for an int8 KV cache: expected a package that was quantized with "
                  "--kv int8"});
  words.insert(words.end(), {"--kv", "int8"});
  EXPECT_EQ(run_program(words).status, 0);
  EXPECT_EQ(run_for_json({"inspect", package})["kv"], "int8");
  EXPECT_NE(run_program({"inspect", package}).out.find("kv                 int8"),
            std::string::npos);
  const auto cache_of = [&](std::vector<std::string> flags) {
    flags.insert(flags.begin(), {"run", package, "-p", "Once", "-n", "2", "--no-cache"});
    return run_for_json(flags)["kv"].get<std::string>();
  };
  EXPECT_EQ(cache_of({}), "int8");
  EXPECT_EQ(cache_of({"--mode", "npu"}), "int8");
  EXPECT_EQ(cache_of({"--mode", "cpu", "--kv", "float16"}), "float16");
  expect_refusal(
      {"quantize", demo(), "-o", (folder / "e").string(), "--export", "awq", "--kv", "int8"},
      {"the scales of an int8 KV cache have no place in a checkpoint"});
  words.back() = "int4";
  expect_refusal(words, {"--kv"});
}

TEST(QuantizeCommand, ComputesOutliersInFloat) {
  const ScratchFolder folder;
  const std::string package = (folder / "p").string();
  std::vector<std::string> words = quantize_words(package);
  words.insert(words.end(), {"--shadow-budget", "3"});
  const Json made = run_for_json(words)["shadow"];
  EXPECT_GT(made["modules"].get<int>(), 0);
  EXPECT_GE(made["channels"].get<int>(), made["modules"].get<int>());
  EXPECT_GT(made["bytes"].get<int>(), 0);
  EXPECT_LE(made["bytes"].get<int>(), 0.03 * 6 * 786432) << "of six blocks' weights";
  const Json inspected = run_for_json({"inspect", package});
  EXPECT_EQ(inspected["recipe"]["calibration"]["shadow"], Json({{"budget", 3.0}}));
  EXPECT_NE(run_program({"inspect", package, "--graph"}).out.find("= ShadowLinear("),
            std::string::npos);
  EXPECT_EQ(run_program({"run", package, "-p", "Once", "-n", "4"}).status, 0);

  // The same on both devices where both read the same graph.
  write_bytes(folder / "r.json", R"({"rules": [
      {"match": "model.*", "decode": {"weights": "int8", "activations": "static"},
       "prefill": "decode"},
      {"match": "lm_head", "decode": "float", "prefill": "decode"}],
      "calibration": {"samples": 2, "window": 128, "shadow": {"threshold": 8}}})");
  const Outcome both =
      run_program({"quantize", demo(), "-o", package, "--calib", demo() + "/calibration.txt",
                   "--recipe", (folder / "r.json").string()});
  EXPECT_EQ(both.status, 0) << both.err;
  EXPECT_NE(both.out.find("\nshadow: "), std::string::npos) << both.out;
  EXPECT_NE(both.out.find(" hot channels of "), std::string::npos) << both.out;
  write_bytes(folder / "ids.json", "[5, 900, 17, 3000, 42, 7, 7, 1, 12, 13]");
  const auto logits = [&](const char* mode) {
    const fs::path output = folder / mode;
    const Outcome outcome = run_program({"logits", package, "--ids", (folder / "ids.json").string(),
                                         "-o", output.string(), "--mode", mode});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return read_text_file(output);
  };
  EXPECT_EQ(logits("hybrid"), logits("cpu"));

  words = quantize_words(package);
  words.insert(words.end(), {"--shadow-threshold", "1000000"});
  EXPECT_NE(run_program(words).out.find("\nshadow: none, since no channels are worth it\n"),
            std::string::npos);
  for (const char* bad : {"0.5", "a", "-1"}) {
    words.back() = bad;
    expect_refusal(words, {"--shadow-threshold"});
  }
  words.back() = "64";
  words.insert(words.end(), {"--shadow-budget", "3"});
  expect_refusal(words, {"--shadow-budget", "--shadow-threshold"});
  words = quantize_words(package);
  words.insert(words.end(), {"--shadow-budget", "101"});
  expect_refusal(words, {"--shadow-budget"});
  expect_refusal({"quantize", demo(), "-o", (folder / "e").string(), "--export", "awq",
                  "--shadow-budget", "3"},
                 {"shadows have no place in a checkpoint"});
}

// A head that a pass took apart from the embedding is stored even where it stays float.
TEST(QuantizeCommand, ExportsAHeadThatIsTiedNoLonger) {
  const ScratchFolder folder;
  write_bytes(folder / "r.json", R"({"passes": ["untie_head", "fold_norms"],
      "rules": [{"match": "*", "decode": {"weights": "uint4", "group": 128}, "prefill": "decode"},
                {"match": "lm_head", "decode": "float", "prefill": "decode"}]})");
  for (const char* format : {"awq", "quark", "gguf"}) {
    const fs::path target = folder / (std::string(format) + ".gguf");
    EXPECT_EQ(run_program({"-q", "quantize", demo(), "-o", target.string(), "--export", format,
                           "--recipe", (folder / "r.json").string()})
                  .status,
              0)
        << format;
    EXPECT_LT(loss_of(target), 0.01) << format;
  }
}

TEST(QuantizeCommand, SmoothsWithTheAlphaThatIsAskedFor) {
  const ScratchFolder folder;
  ThreadPool pool(1);
  const auto passes = [&](const std::vector<std::string>& flags) {
    std::vector<std::string> words = quantize_words(folder / "p");
    words.insert(words.end(), flags.begin(), flags.end());
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return Package::open(folder / "p", pool).manifest()["recipe"]["passes"].dump();
  };
  const std::string searched = R"([{"alpha":"search","name":"smoothquant"}])";
  EXPECT_EQ(passes({"--algo", "smoothquant", "--smooth-alpha", "0.7"}),
            R"([{"alpha":0.7,"name":"smoothquant"}])");
  EXPECT_EQ(passes({"--algo", "smoothquant", "--smooth-alpha", "search"}), searched);
  EXPECT_EQ(passes({"--quant_algo", "autosmoothquant"}), searched);
  const auto refuse = [&](const std::vector<std::string>& flags, const std::string& why) {
    std::vector<std::string> words = quantize_words(folder / "q");
    words.insert(words.end(), flags.begin(), flags.end());
    expect_refusal(words, {why});
    EXPECT_FALSE(fs::exists(folder / "q"));
  };
  for (const std::string wrong : {"1.5", "-0.1", "serch", "nan"})
    refuse({"--algo", "smoothquant", "--smooth-alpha", wrong},
           "--smooth-alpha: expected a number from 0 to 1, or search, got '" + wrong + "'");
  refuse({"--algo", "autosmoothquant", "--smooth-alpha", "0.7"},
         "--smooth-alpha: autosmoothquant searches it: expected search, got 0.7");
  refuse({"--algo", "awq", "--smooth-alpha", "0.5"},
         "--smooth-alpha: expected with --algo smoothquant");
}

TEST(QuantizeCommand, GoesOnOrBeginsWithResume) {
  const ScratchFolder folder;
  const std::string target = (folder / "p").string();
  std::vector<std::string> words = quantize_words(target);
  words.insert(words.end(), {"--algo", "gptq", "--resume"});
  // Nothing was interrupted.
  EXPECT_EQ(run_program(words).status, 0);
  EXPECT_FALSE(fs::exists(target + ".resume"));
  fs::create_directories(target + ".resume");
  write_bytes(target + ".resume/job.json", R"({"checkpoint": {}})");
  expect_refusal(words, {target + ".resume: was begun with another checkpoint: run without"});
}

TEST(QuantizeCommand, WritesCheckpointsInOtherToolsWords) {
  const ScratchFolder folder;
  for (const std::string format : {"awq", "gptq", "quark"}) {
    const std::string target = (folder / format).string();
    const Outcome outcome = run_program(
        {"quantize", demo(), "-o", target, "--export", format, "--max-shard-size", "2MB"});
    EXPECT_TRUE(fs::exists(folder / format / "model.safetensors.index.json"));
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    const Json inspected = run_for_json({"inspect", target});
    EXPECT_EQ(inspected["linears"]["float"]["int4 g128"]["count"], 42) << inspected.dump();
    EXPECT_EQ(
        read_json_file(folder / format / "config.json")["quantization_config"]["quant_method"],
        format);
    const Outcome run =
        run_program({"-q", "run", target, "-p", "Once upon a time", "-n", "8", "--no-cache"});
    EXPECT_EQ(run.status, 0) << run.err;
    EXPECT_FALSE(run.out.empty());
    // What is there stays there.
    expect_refusal({"quantize", demo(), "-o", target, "--export", format}, {target});
  }
  expect_refusal({"quantize", demo(), "-o", (folder / "x").string(), "--export", "awq",
                  "--pack-method", "order"},
                 {"--pack-method: expected with --export quark, got --export awq"});
  expect_refusal({"quantize", demo(), "-o", (folder / "x").string(), "--pack-method", "order"},
                 {"--pack-method: expected with --export quark, got --export package"});
  expect_refusal({"quantize", demo(), "-o", (folder / "x").string(), "--max-shard-size", "2XB"},
                 {"--max-shard-size"});
  expect_refusal({"quantize", demo(), "-o", (folder / "x").string(), "--max-shard-size", "2GB"},
                 {"--max-shard-size: expected with --export awq"});
  expect_refusal(
      {"quantize", demo(), "-o", (folder / "x").string(), "--export", "awq", "--lm-head", "32"},
      {"lm_head: AWQ has one group size"});
  EXPECT_FALSE(fs::exists(folder / "x"));
}

// By way of a quantized checkpoint: the same decode weights as directly, and as good in prefill.
TEST(QuantizeCommand, KeepsTheCodesOfAQuantizedCheckpoint) {
  const ScratchFolder folder;
  const std::string awq = (folder / "awq").string();
  EXPECT_EQ(run_program({"quantize", demo(), "-o", awq, "--export", "awq"}).status, 0);
  std::vector<std::string> words = quantize_words(folder / "kept");
  words[1] = awq;
  const Outcome outcome = run_program(words);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("kept 4-bit codes of 42 modules, group 128\n"), std::string::npos)
      << outcome.err;
  EXPECT_NE(outcome.out.find(": 1 weights quantized, 42 kept after 256 calibration tokens"),
            std::string::npos)
      << outcome.out;
  const Json inspected = run_for_json({"inspect", (folder / "kept").string()});
  EXPECT_EQ(inspected["linears"]["decode"]["int4 g128"]["count"], 42);
  EXPECT_EQ(inspected["linears"]["decode"]["int4 g32"]["count"], 1);
  EXPECT_EQ(inspected["linears"]["prefill"]["int8"]["count"], 42);
  const std::vector<std::string> prompt = {"-p", "Once upon a time", "-n", "8", "--no-cache"};
  std::vector<std::string> run = {"-q", "run", (folder / "kept").string()};
  run.insert(run.end(), prompt.begin(), prompt.end());
  EXPECT_FALSE(run_program(run).out.empty());

  EXPECT_EQ(run_program(quantize_words(folder / "direct")).status, 0);
  const auto kl = [&](const char* package) {
    return run_for_json({"eval", (folder / package).string(), "--text",
                         demo() + "/eval_stories.txt", "--against", demo(), "--max-windows", "2",
                         "--no-cache"})["texts"][0]["kl"]
        .get<double>();
  };
  EXPECT_LT(kl("kept"), 2 * kl("direct"));

  words = {"quantize", awq, "-o", (folder / "x").string(), "--algo", "awq"};
  expect_refusal(words, {"awq: changes float weights", "q_proj is int4 g128"});
}

TEST(QuantizeCommand, SaysWhatItMadeAndOfHowMuchText) {
  const ScratchFolder folder;
  const std::string text = (folder / "short.txt").string();
  write_bytes(text, read_text_file(demo() + "/calibration.txt").substr(0, 8000));
  const std::string package = (folder / "a package").string();
  const Outcome outcome = run_program(
      {"quantize", demo(), "-o", package, "--calib", text, "--samples", "500", "--seq-len", "64"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("fewer than the recipe's 500 of 64 (32000)"), std::string::npos)
      << outcome.err;
  EXPECT_NE(outcome.err.find("next: tandem run '" + package + "' -p \"Once upon a time\"\n"),
            std::string::npos)
      << outcome.err;
  const Outcome enough = run_program(
      {"quantize", demo(), "-o", package, "--calib", text, "--samples", "2", "--seq-len", "64"});
  EXPECT_EQ(enough.err.find("warning"), std::string::npos) << enough.err;
}

TEST(QuantizeCommand, RefusesFoldersThatAreNotItsOwn) {
  const ScratchFolder folder;
  fs::create_directories(folder / "home");
  write_bytes(folder / "home/letter.txt", "Dear");
  expect_refusal(quantize_words(folder / "home"), {"home", "is not a package"});
  expect_refusal(quantize_words(folder.path() / "home/"), {"home", "is not a package"});
  expect_refusal(quantize_words(folder / "home/letter.txt"), {"letter.txt", "not a folder"});
  expect_refusal(quantize_words(demo()), {"models/demo", "is the checkpoint"});
  EXPECT_EQ(names_in(folder / "home"), std::vector<std::string>{"letter.txt"});

  std::vector<std::string> words = quantize_words(folder / "p");
  words.insert(words.end(), {"--exclude", "*.nothing"});
  expect_refusal(words, {"*.nothing", "matches no module"});
  words = quantize_words(folder / "p");
  words[5] = (folder / "none.txt").string();
  expect_refusal(words, {"none.txt"});
  words[1] = (folder / "none").string();
  expect_refusal(words, {"none"});
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"home"});
}

// What a file of packages' format 2 holds that depends on the weights and the recipe alone.
std::vector<std::string> contents(const fs::path& package) {
  std::vector<std::string> hashes;
  const Json manifest = read_json_file(package / "tandem.json");
  for (const char* name : {"graph.json", "decode.safetensors", "prefill.safetensors"})
    hashes.push_back(manifest["files"][name]["hash"]);
  return hashes;
}

TEST(QuantizeCommand, RecipeInAFileEqualsTheFlags) {
  const ScratchFolder folder;
  std::vector<std::string> words = quantize_words(folder / "flags", "64");
  words.insert(words.end(), {"--lm-head", "64", "--exclude", "*.0.mlp.down_proj", "--input-scale",
                             "max", "--chunk", "32"});
  ASSERT_EQ(run_program(words).status, 0);
  write_bytes(folder / "r.json", R"({
    "rules": [
      {"match": "*", "decode": {"weights": "uint4", "group": 64},
                     "prefill": {"weights": "int8", "activations": "static"}},
      {"match": "lm_head", "decode": {"weights": "uint4", "group": 64}, "prefill": "decode"},
      {"match": "re:layers\\.0\\..*down", "decode": "float", "prefill": "decode"}
    ],
    "calibration": {"samples": 2, "window": 128, "input_scale": "max"},
    "chunk": 32
  })");
  const auto by_recipe = [&](const char* target, std::vector<std::string> more) {
    std::vector<std::string> all = {"quantize", demo(),
                                    "-o",       (folder / target).string(),
                                    "--calib",  demo() + "/calibration.txt",
                                    "--recipe", (folder / "r.json").string()};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  const Outcome outcome = run_program(by_recipe("file", {}));
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(contents(folder / "file"), contents(folder / "flags"));
  EXPECT_EQ(read_json_file(folder / "file/tandem.json")["recipe"]["chunk"], 32);

  // What flags say besides replaces what the file says.
  ASSERT_EQ(run_program(by_recipe("more", {"--chunk", "48", "--samples", "1", "--exclude",
                                           "lm_head", "--input-scale", "percentile"}))
                .status,
            0);
  const Json recipe = run_for_json({"inspect", (folder / "more").string()})["recipe"];
  EXPECT_EQ(recipe["chunk"], 48);
  EXPECT_EQ(recipe["calibration"]["samples"], 1);
  EXPECT_EQ(recipe["calibration"]["window"], 128);
  EXPECT_EQ(recipe["calibration"]["input_scale"], "percentile");
  EXPECT_EQ(recipe["rules"][3]["match"], "lm_head");
  // But for what the file is there to say.
  for (const std::vector<std::string>& both :
       {std::vector<std::string>{"--group-size", "32"}, {"--lm-head", "float"}}) {
    const Outcome refused = run_program(by_recipe("both", both));
    EXPECT_EQ(refused.status, 2);
    EXPECT_NE(refused.err.find("--recipe"), std::string::npos) << refused.err;
    EXPECT_FALSE(fs::exists(folder / "both"));
  }
}

TEST(QuantizeCommand, RecipeWithoutStaticScalesNeedsNoText) {
  const ScratchFolder folder;
  write_bytes(folder / "r.json", R"({"passes": ["fold_norms", "untie_head"], "rules": [
      {"match": "*", "decode": {"weights": "int4", "group": 32},
                     "prefill": {"weights": "int8", "activations": "dynamic"}}]})");
  const std::string target = (folder / "p").string();
  const Json report =
      run_for_json({"quantize", demo(), "-o", target, "--recipe", (folder / "r.json").string()});
  EXPECT_EQ(report["calibration_tokens"], 0);
  ASSERT_EQ(report["passes"].size(), 4u);
  EXPECT_EQ(report["passes"][1]["pass"], "untie_head");
  for (const char* mode : {"cpu", "hybrid"}) {
    const Outcome run = run_program(
        {"run", target, "-p", "Once upon a time", "-n", "4", "--mode", mode, "--ignore-eos"});
    EXPECT_EQ(run.status, 0) << run.err;
  }
  // With static scales a built-in text serves, which is said.
  const Outcome outcome = run_program({"-q", "quantize", demo(), "-o", (folder / "q").string(),
                                       "--samples", "2", "--seq-len", "64"});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_NE(outcome.err.find("built-in text"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("--calib FILE"), std::string::npos) << outcome.err;
}

TEST(QuantizeCommand, RefusesRecipesByFileLineAndKey) {
  const ScratchFolder folder;
  const std::string file = (folder / "r.json").string();
  const std::vector<std::string> words = {"quantize", demo(), "-o", (folder / "p").string(),
                                          "--recipe", file};
  expect_refusal(words, {"r.json"});
  const std::pair<const char*, std::vector<std::string>> cases[] = {
      {"{\n\"ruels\": []}", {file + ":2", "ruels", "unknown key"}},
      {"{\"rules\": [\n{\"match\": \"re:(\"}]}", {file + ":2", "rules[0].match"}},
      {"{\"rules\": [{\"match\": \"*.nothing\"}]}", {"*.nothing", "matches no module"}},
      {"{\"passes\": [\n\"unroll\"]}", {file + ":2", "fold_norms, untie_head", "unroll"}},
      {"{", {"r.json", "line"}},
  };
  for (const auto& [text, parts] : cases) {
    write_bytes(file, text);
    expect_refusal(words, parts);
  }
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"r.json"});
}

TEST(QuantizeCommand, PrintsTheGraphAfterAPass) {
  const ScratchFolder folder;
  write_bytes(folder / "r.json", R"({"passes": ["fold_norms"], "rules": []})");
  const auto words = [&](const char* pass) {
    return std::vector<std::string>{"-q",
                                    "quantize",
                                    demo(),
                                    "-o",
                                    (folder / "p").string(),
                                    "--recipe",
                                    (folder / "r.json").string(),
                                    "--dump-after",
                                    pass};
  };
  const Outcome folded = run_program(words("fold_norms"));
  EXPECT_EQ(folded.status, 0) << folded.err;
  EXPECT_NE(folded.err.find(" model.layers.5.mlp.down_proj "), std::string::npos);
  EXPECT_NE(folded.err.find("RmsNorm("), std::string::npos);
  EXPECT_EQ(folded.out.find("RmsNorm("), std::string::npos);
  EXPECT_EQ(run_program(words("quantize_prefill")).status, 0);
  expect_refusal(words("unroll"), {"\"unroll\"", "fold_norms, quantize_decode, quantize_prefill"});
  expect_refusal(words("untie_head"), {"expected one of fold_norms,"});
}

TEST(QuantizeCommand, KilledAtAnyMomentLeavesTheOldPackageOrTheNew) {
  using namespace std::chrono;
  const ScratchFolder folder;
  const fs::path target = folder / "p";
  const auto start = steady_clock::now();
  ASSERT_EQ(run_program(quantize_words(target)).status, 0);
  const auto whole = steady_clock::now() - start;
  ThreadPool pool(1);
  constexpr int kKills = 20;
  int killed = 0;
  std::string group = "128";
  for (int i = 0; i < kKills; ++i) {
    const std::string next = group == "128" ? "64" : "128";
    {
      Program program(quantize_words(target, next));
      std::this_thread::sleep_for(whole * (i + 1) / kKills);
      program.send(SIGKILL);
      killed += program.wait().status == 128 + SIGKILL ? 1 : 0;
    }
    const Package package = Package::open(target, pool);
    group = package.manifest()["recipe"]["rules"][0]["decode"]["group"].dump();
    EXPECT_TRUE(group == "128" || group == "64");
    for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) package.graph(phase);
  }
  EXPECT_GE(killed, 1);  // all but a few, unless the machine got much faster meanwhile
  ASSERT_EQ(run_program(quantize_words(target)).status, 0);
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"p"});
}

TEST(QuantizeCommand, InterruptedEndsCleanly) {
  const ScratchFolder folder;
  std::vector<std::string> words = quantize_words(folder / "p");
  words[7] = "100000";  // windows: as many as the text has
  Program program(words);
  // The temporary folder appears after the signal handler is in place.
  for (int i = 0; i < 500 && fs::is_empty(folder.path()); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  program.send(SIGINT);
  const Outcome outcome = program.wait();
  EXPECT_EQ(outcome.status, 130) << outcome.err;
  EXPECT_NE(outcome.err.find("interrupted"), std::string::npos);
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(SynthCommand, WritesACheckpointAndReplacesOnlyItsOwn) {
  const ScratchFolder folder;
  const std::string target = (folder / "s").string();
  const std::vector<std::string> words = {"synth", "--shape", "demo", "-o", target + "/"};
  const Outcome first = run_program(words);
  EXPECT_EQ(first.status, 0);
  EXPECT_NE(first.err.find("synth  100 % (74 of 74 tensors), "), std::string::npos) << first.err;
  EXPECT_EQ(run_program({"-q", "synth", "--shape", "demo", "-o", target}).err, "");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"s"});
  EXPECT_EQ(run_for_json({"inspect", target})["model"]["layers"], 6);
  const Outcome run = run_program({"run", target, "-p", "ab", "-n", "3", "--ignore-eos"});
  EXPECT_EQ(run.status, 0) << run.err;

  write_bytes(folder / "s/notes.txt", "mine");
  expect_refusal(words, {"notes.txt"});
  fs::copy(demo(), folder / "copy");
  for (const char* name : {"README.md", "calibration.txt", "eval_questions.json",
                           "eval_stories.txt", "reference.json", "reference_logits.safetensors"})
    fs::remove(folder / "copy" / name);
  expect_refusal({"synth", "--shape", "demo", "-o", (folder / "copy").string()},
                 {"copy", "were not made by synth"});
}

TEST(InspectCommand, DescribesCheckpointAndPackage) {
  const Json checkpoint = run_for_json({"inspect", demo()});
  EXPECT_EQ(checkpoint["kind"], "checkpoint");
  EXPECT_EQ(checkpoint["model"]["model_type"], "qwen2");
  EXPECT_EQ(checkpoint["model"]["hidden_size"], 256);
  EXPECT_EQ(checkpoint["model"]["context_length"], 512);
  EXPECT_EQ(checkpoint["linears"]["float"]["bf16"]["count"], 43);
  EXPECT_EQ(checkpoint["tensors"].size(), 74u);

  const Json package = run_for_json({"inspect", testing::demo_package()});
  EXPECT_EQ(package["kind"], "package");
  EXPECT_EQ(package["model"]["model_type"], "qwen2");
  EXPECT_EQ(package["recipe"]["rules"][0]["decode"]["group"], 128);
  EXPECT_EQ(package["linears"]["prefill"]["int8"]["count"], 42);
  EXPECT_EQ(package["linears"]["prefill"]["int4 g32"]["count"], 1);
  EXPECT_EQ(package["linears"]["decode"]["int4 g128"]["count"], 42);

  const Outcome text = run_program({"inspect", testing::demo_package(), "--tensors", "--graph"});
  EXPECT_EQ(text.status, 0);
  for (const char* part :
       {"package, qwen2", "model.layers.5.mlp.down_proj.codes", "prefill:", "decode:"})
    EXPECT_NE(text.out.find(part), std::string::npos) << part;
}

TEST(InspectCommand, VerifyReadsWhatARecordWouldHide) {
  const ScratchFolder folder;
  const fs::path package = folder / "p";
  fs::copy(testing::demo_package(), package);
  const std::vector<std::string> words = {"inspect", package.string()};
  EXPECT_EQ(run_program(words).status, 0);
  // The time of the content is set back, but not that of the status.
  const fs::path file = package / "decode.safetensors";
  const auto time = fs::last_write_time(file);
  std::string bytes = read_text_file(file);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  write_bytes(file, bytes);
  fs::last_write_time(file, time);
  expect_refusal(words, {"decode.safetensors", "was changed"});
  expect_refusal({"inspect", package.string(), "--verify"}, {"decode.safetensors", "was changed"});
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  write_bytes(file, bytes);
  EXPECT_EQ(run_program({"inspect", package.string(), "--verify"}).status, 0);
}

TEST(InspectCommand, RefusesAPackageOfAnEarlierFormat) {
  const ScratchFolder folder;
  write_bytes(folder / "tandem.json", R"({"format": 1, "files": {}, "hash": "0"})");
  for (const char* command : {"inspect", "run"}) {
    std::vector<std::string> words = {command, folder.path().string()};
    if (words[0] == "run") words.insert(words.end(), {"-p", "x"});
    expect_refusal(
        words, {"tandem.json", "format 1, this version reads 2", "quantize the checkpoint again"});
  }
}

}  // namespace
}  // namespace tandem
