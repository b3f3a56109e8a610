// tandem run: how the next token is chosen, by default and by flags, and where an answer ends.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <tuple>
#include <utility>

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

constexpr const char* kPrompt = "Once upon a time";

// The demo, with another generation_config.json.
class GenerationConfig : public ::testing::Test {
 protected:
  void SetUp() override { fs::copy(demo(), model_, fs::copy_options::recursive); }
  void set(const std::string& keys) {
    write_bytes(model_ / "generation_config.json",
                R"({"eos_token_id": [4095, 4093], )" + keys + "}");
  }
  std::string text(const Words& flags, const std::string& model) const {
    Words words = {"run", model, "-p", kPrompt, "-n", "24"};
    words.insert(words.end(), flags.begin(), flags.end());
    return run_for_json(words)["text"];
  }
  std::string text(const Words& flags) const { return text(flags, model_.string()); }

  ScratchFolder folder_;
  fs::path model_ = folder_ / "model";
};

TEST_F(GenerationConfig, IsTheDefaultAndFlagsWin) {
  const std::string greedy = text({});
  set(R"("do_sample": true, "temperature": 1.5, "top_k": 0)");
  const std::string drawn = text({"--seed", "5"});
  EXPECT_EQ(drawn, text({"--seed", "5", "--temperature", "1.5", "--top-k", "0"}, demo()));
  EXPECT_NE(drawn, greedy);
  EXPECT_EQ(text({"--greedy"}), greedy);
  EXPECT_EQ(text({"--temperature", "0"}), greedy);
  EXPECT_EQ(text({"--top-k", "1"}), greedy);
  EXPECT_EQ(text({"--seed", "5", "--top-k", "3"}),
            text({"--seed", "5", "--temperature", "1.5", "--top-k", "3"}, demo()));
  set(R"("do_sample": false, "repetition_penalty": 5.0)");
  EXPECT_EQ(text({}), text({"--repetition-penalty", "5"}, demo()));
  EXPECT_NE(text({}), greedy);
  EXPECT_EQ(text({"--repetition-penalty", "1"}), greedy);
  set(R"("do_sample": true, "temperature": 0.0)");
  EXPECT_EQ(text({}), greedy);
  set(R"("do_sample": true, "temperature": null, "top_p": null, "top_k": 1)");
  EXPECT_EQ(text({}), greedy);
}

TEST_F(GenerationConfig, GoesIntoPackages) {
  set(R"("do_sample": true, "temperature": 1.5, "top_k": 0)");
  const std::string package = (folder_ / "package").string();
  ASSERT_EQ(run_program({"quantize", model_.string(), "-o", package, "--calib",
                         demo() + "/calibration.txt", "--samples", "2", "--seq-len", "64"})
                .status,
            0);
  EXPECT_EQ(text({"--seed", "5"}, package),
            text({"--seed", "5", "--temperature", "1.5", "--top-k", "0"}, package));
  EXPECT_NE(text({"--seed", "5"}, package), text({"--greedy"}, package));
  const Json search = run_for_json({"inspect", package})["search"];
  EXPECT_EQ(search["do_sample"], true);
  EXPECT_EQ(search["temperature"], 1.5);
  EXPECT_EQ(search["top_k"], 0);
  EXPECT_EQ(run_for_json({"inspect", demo()})["search"]["do_sample"], false);
}

TEST_F(GenerationConfig, WrongValuesAreNamed) {
  const Words run = {"run", model_.string(), "-p", "a", "-n", "1"};
  for (const auto& [keys, expected] :
       {std::pair{R"("do_sample": "yes")", "do_sample: expected true or false"},
        {R"("temperature": "hot")", "temperature: expected a number"},
        {R"("top_k": 2.5)", "top_k: expected an integer"},
        {R"("top_p": NaN)", "top_p"}}) {
    set(keys);
    expect_refusal(run, {"generation_config.json", expected});
  }
  // What is out of range is not used, and said unless nothing is drawn.
  for (const auto& [keys, expected] :
       {std::pair{R"("temperature": -1)", "temperature: expected 0 (greedy) or a number above"},
        {R"("top_k": -2)", "top_k: expected -1 or more"},
        {R"("top_p": 1.5)", "top_p: expected a number in [0, 1]"},
        {R"("min_p": 1.5)", "min_p"}}) {
    set(R"("do_sample": true, )" + std::string(keys));
    const Outcome warned = run_program(run);
    EXPECT_EQ(warned.status, 0);
    EXPECT_NE(warned.err.find(expected), std::string::npos) << warned.err;
    set(R"("do_sample": false, )" + std::string(keys));
    EXPECT_EQ(run_program(run).err.find(expected), std::string::npos);
  }
}

TEST_F(GenerationConfig, WhatIsNotUsedIsSaid) {
  const Words run = {"run", model_.string(), "-p", "a", "-n", "1"};
  set(R"("num_beams": 1, "max_new_tokens": 7, "suppress_tokens": [])");
  EXPECT_EQ(run_program(run).err.find("not used"), std::string::npos);
  set(R"("num_beams": 4, "stop_strings": ["there"])");
  EXPECT_NE(run_program(run).err.find("generation_config.json: not used here: num_beams, stop_"),
            std::string::npos);
  // GGUF has no place for the search.
  set(R"("do_sample": true, "temperature": 0.5)");
  const Outcome converted =
      run_program({"convert", model_.string(), (folder_ / "m.gguf").string()});
  EXPECT_NE(converted.err.find("no place for the search"), std::string::npos) << converted.err;
}

TEST(RunSearch, TemperatureZeroIsGreedy) {
  const auto text = [](const Words& flags) {
    Words words = {"run", demo(), "-p", kPrompt, "-n", "24"};
    words.insert(words.end(), flags.begin(), flags.end());
    return run_for_json(words)["text"];
  };
  EXPECT_EQ(text({"--temperature", "0"}), text({}));
  EXPECT_EQ(text({"--temperature", "0", "--sample", "--top-p", "0.5", "--seed", "3"}), text({}));
  EXPECT_EQ(text({"--temperature", "2", "--min-p", "1"}), text({}));
  EXPECT_EQ(text({"--temperature", "2", "--top-p", "0"}), text({}));
  EXPECT_EQ(text({"--temperature", "2", "--top-k", "-1", "--seed", "4"}),
            text({"--temperature", "2", "--top-k", "0", "--seed", "4"}));
}

TEST(RunSearch, SeedsAreNotCutOff) {
  for (const char* seed : {"9223372036854775808", "18446744073709551615", "1e30"})
    expect_refusal({"run", demo(), "-p", "a", "-n", "1", "--seed", seed}, {"--seed"});
  EXPECT_EQ(
      run_program({"run", demo(), "-p", "a", "-n", "1", "--seed", "9223372036854775807"}).status,
      0);
}

TEST(RunSearch, SaysThatTheContextIsFull) {
  const auto said = [](const Words& flags) {
    Words words = {"run", demo(), "-p", kPrompt, "--ignore-eos", "--max-length", "12"};
    words.insert(words.end(), flags.begin(), flags.end());
    return run_program(words).err.find("--max-length is full: the answer was cut short") !=
           std::string::npos;
  };
  EXPECT_TRUE(said({"-n", "50"}));
  EXPECT_FALSE(said({"-n", "4"}));
  EXPECT_FALSE(said({"-n", "-1"}));
}

TEST(RunSearch, WritesToTheEnd) {
  const Json all = run_for_json({"run", demo(), "-p", kPrompt, "-n", "-1", "--ignore-eos"});
  EXPECT_EQ(all["prompt_tokens"].get<int>() + all["tokens"].get<int>(), 512);
  EXPECT_EQ(
      run_for_json({"run", demo(), "-p", "What is 10 plus 1?", "--chat", "-n", "-1"})["ended"],
      "end token");
}

TEST(RunSearch, GoesOnWithoutAnEnd) {
  const Words endless = {"run",       demo(), "-p", kPrompt,        "--ignore-eos",
                         "--endless", "-n",   "90", "--max-length", "40"};
  const Json text = run_for_json(endless);
  EXPECT_EQ(text["tokens"], 90);
  EXPECT_EQ(text["ended"], "length");
  // An eighth of 40 at once; the last token written is not read.
  const int given = text["prompt_tokens"].get<int>() + 90 - 1;
  EXPECT_EQ(text["dropped_tokens"], (given - 40 + 4) / 5 * 5);
  Words others = endless;
  others.insert(others.end(), {"--sink", "8", "--evict", "16"});
  EXPECT_EQ(run_for_json(others)["dropped_tokens"], (given - 40 + 15) / 16 * 16);
  const Outcome outcome = run_program(others);
  EXPECT_NE(outcome.err.find(" old tokens dropped"), std::string::npos) << outcome.err;
  EXPECT_EQ(outcome.err.find("is full"), std::string::npos) << outcome.err;
  EXPECT_EQ(run_for_json({"run", demo(), "-p", kPrompt, "-n", "4"})["dropped_tokens"], 0);
  // As llama.cpp's users write it.
  EXPECT_EQ(run_for_json({"run", demo(), "-p", kPrompt, "--ignore-eos", "--context-shift", "-n",
                          "90", "-c", "40", "--keep", "4"})["text"],
            text["text"]);
  expect_refusal({"run", demo(), "-p", "a", "--sink", "4"}, {"--sink", "--endless"});
  expect_refusal({"run", demo(), "-p", "a", "--evict", "4"}, {"--evict", "--endless"});
  expect_refusal({"run", demo(), "-p", "a", "--endless", "--max-length", "513"}, {"513", "512"});
  expect_refusal({"run", demo(), "-p", "a", "--endless", "--sink", "512"}, {"512", "context"});
}

TEST(RunSearch, ChecksDraftsInOneRun) {
  // A story, and how it begins once more.
  const std::string stories = read_text_file(fs::path(demo()) / "eval_stories.txt");
  const std::string story = stories.substr(0, 350) + "\n\n" + stories.substr(0, 40);
  for (const char* mode : {"hybrid", "npu", "cpu"}) {
    const auto text = [&](const char* lookup) {
      return run_for_json({"run", demo_package(), "--mode", mode, "-p", story, "-n", "40",
                           "--ignore-eos", "--lookup", lookup});
    };
    const Json plain = text("0"), drafted = text("6");
    EXPECT_EQ(drafted["text"], plain["text"]);
    EXPECT_EQ(plain["decode_runs"], 39);
    EXPECT_EQ(plain["drafted_tokens"], 0);
    const int accepted = drafted["accepted_tokens"].get<int>();
    EXPECT_GT(accepted, 0) << mode;
    EXPECT_LE(accepted, drafted["drafted_tokens"].get<int>());
    // The last token may be an accepted one.
    EXPECT_GE(drafted["decode_runs"].get<int>() + accepted, 39);
    EXPECT_LE(drafted["decode_runs"].get<int>() + accepted, 40);
  }
  const Outcome outcome =
      run_program({"run", demo(), "-p", story, "-n", "40", "--ignore-eos", "--draft-max", "6"});
  EXPECT_NE(outcome.err.find(" drafted tokens accepted, "), std::string::npos) << outcome.err;
  expect_refusal({"run", demo(), "-p", "a", "--lookup", "65"}, {"--lookup", "64"});
  expect_refusal({"run", demo(), "-p", "a", "--lookup", "-1"}, {"--lookup"});
}

TEST(RunSearch, ReadsPromptsAsTheyAreMeant) {
  const ScratchFolder folder;
  const Json plain = run_for_json({"run", demo(), "-p", kPrompt, "-n", "8"});
  for (const char* end : {"", "\n", "\r\n"}) {
    write_bytes(folder / "prompt.txt", kPrompt + std::string(end));
    const Json report =
        run_for_json({"run", demo(), "-f", (folder / "prompt.txt").string(), "-n", "8"});
    EXPECT_EQ(report["prompt_tokens"], plain["prompt_tokens"]);
    EXPECT_EQ(report["text"], plain["text"]);
  }
  write_bytes(folder / "prompt.txt", kPrompt + std::string("\n\n"));
  EXPECT_GT(run_for_json({"run", demo(), "-f", (folder / "prompt.txt").string(), "-n",
                          "8"})["prompt_tokens"],
            plain["prompt_tokens"]);
  // An empty prompt begins like every text of a model whose texts begin with a token.
  EXPECT_EQ(run_for_json({"run", demo(), "-p", "", "-n", "2"})["prompt_tokens"], 1);
}

TEST(RunSearch, EndsAtAStopText) {
  const Json whole = run_for_json({"run", demo(), "-p", kPrompt, "-n", "40"});
  const std::string text = whole["text"];
  ASSERT_GT(text.size(), 40u);
  // Across the borders of tokens, from the middle of a word to the middle of another.
  const std::string stop = text.substr(23, 12);
  const std::size_t at = text.find(stop);
  const Json cut = run_for_json(
      {"run", demo(), "-p", kPrompt, "-n", "40", "--stop", "not in there", "--stop", stop});
  EXPECT_EQ(cut["text"], text.substr(0, at));
  EXPECT_EQ(cut["ended"], "stop text");
  EXPECT_LT(cut["tokens"], whole["tokens"]);
  const Outcome lines =
      run_program({"-q", "run", demo(), "-p", kPrompt, "-n", "40", "--stop", stop});
  EXPECT_EQ(lines.out, text.substr(0, at) + "\n");
  EXPECT_EQ(run_for_json({"run", demo(), "-p", kPrompt, "-n", "40", "--stop", text + "!"})["text"],
            text);
}

TEST(RunSearch, WritesNoRunOfTokensTwice) {
  const Json report = run_for_json(
      {"run", demo(), "-p", kPrompt, "-n", "200", "--ignore-eos", "--no-repeat-ngram-size", "2"});
  std::set<std::pair<int, int>> pairs;
  const auto ids = report["ids"].get<std::vector<int>>();
  for (std::size_t i = 1; i < ids.size(); ++i)
    EXPECT_TRUE(pairs.emplace(ids[i - 1], ids[i]).second) << i;
}

TEST(RunSearch, HintsAtTheChatTemplate) {
  const auto said = [](const Words& flags) {
    Words words = {"run", demo(), "-p", kPrompt, "-n", "2"};
    words.insert(words.end(), flags.begin(), flags.end());
    return run_program(words).err.find("--chat has this model answer it") != std::string::npos;
  };
  EXPECT_TRUE(said({}));
  EXPECT_FALSE(said({"--raw"}));
  EXPECT_FALSE(said({"--chat"}));
}

TEST(RunSearch, PenalizesAndBiases) {
  const auto ids = [](const Words& flags) {
    Words words = {"run", demo(), "-p", kPrompt, "-n", "24"};
    words.insert(words.end(), flags.begin(), flags.end());
    return run_for_json(words)["ids"].get<std::vector<int>>();
  };
  const auto times = [](const std::vector<int>& list, int id) {
    return std::ranges::count(list, id);
  };
  const std::vector<int> plain = ids({});
  const int first = plain.front();
  const std::string name = std::to_string(first);
  EXPECT_EQ(ids({"--presence-penalty", "0", "--frequency_penalty", "0"}), plain);
  // What is repeated most gets rarer.
  int most = first;
  for (const int id : plain)
    if (times(plain, id) > times(plain, most)) most = id;
  ASSERT_GT(times(plain, most), 1);
  EXPECT_LT(times(ids({"--presence-penalty", "2", "--frequency-penalty", "2"}), most),
            times(plain, most));
  EXPECT_EQ(ids({"--presence-penalty", "-2", "--frequency_penalty=-0.5"}).size(), 24U);
  for (const std::string& bias : {name + "-inf", name + "-100", "{\"" + name + "\": -100}"})
    EXPECT_EQ(times(ids({"--logit-bias", bias}), first), 0) << bias;
  EXPECT_EQ(ids({"-l", name + "+100"}), std::vector<int>(24, first));
  EXPECT_EQ(ids({"--logit-bias", "7+100", "--logit-bias", "7-1e1", "-l", name + "+20"}).front(),
            first);

  const Words run = {"run", demo(), "-p", "a", "-n", "1"};
  for (const auto& [flag, value, expected] :
       {std::tuple{"--presence-penalty", "2.5", "presence_penalty: expected a number in [-2, 2]"},
        {"--frequency-penalty", "-3", "frequency_penalty"},
        {"--frequency-penalty", "nan", "frequency_penalty"},
        {"--logit-bias", "7", "15043+1.5"},
        {"--logit-bias", "cat+1", "15043+1.5"},
        {"--logit-bias", "7+much", "15043+1.5"},
        {"--logit-bias", "{\"7\": \"a\"}", "15043+1.5"},
        {"--logit-bias", "{\"7\"", "--logit-bias"},
        {"--logit-bias", "99999999999+1", "15043+1.5"},
        {"--logit-bias", "7+101", "token 7: expected a number in [-100, 100]"},
        {"--logit-bias", "7+inf", "token 7: expected a number in [-100, 100]"},
        {"--logit-bias", "4096+1", "expected a token in [0, 4096), got 4096"},
        {"--logprobs", "21", "--logprobs"}}) {
    Words words = run;
    words.push_back(std::string(flag) + "=" + value);
    expect_refusal(words, {expected});
  }
}

TEST(RunSearch, ReportsLogProbabilities) {
  const Words run = {"run", demo(), "-p", "What is 10 plus 1?", "--chat"};
  const auto with = [&](const Words& more) {
    Words words = run;
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  const Json plain = run_for_json(run);
  EXPECT_FALSE(plain.contains("logprobs"));
  const Json json = run_for_json(with({"--logprobs", "3"}));
  EXPECT_EQ(json["text"], plain["text"]);
  ASSERT_EQ(json["logprobs"].size(), json["ids"].size());
  std::string text;
  for (std::size_t i = 0; i < json["ids"].size(); ++i) {
    const Json& token = json["logprobs"][i];
    EXPECT_EQ(token["id"], json["ids"][i]);
    EXPECT_LE(token["logprob"].get<double>(), 0);
    text += token["token"].get<std::string>();
    ASSERT_EQ(token["top_logprobs"].size(), 3U);
    // Greedy: the chosen one is the likeliest.
    EXPECT_EQ(token["top_logprobs"][0]["id"], token["id"]);
    EXPECT_EQ(token["top_logprobs"][0]["logprob"], token["logprob"]);
    EXPECT_GE(token["top_logprobs"][1]["logprob"], token["top_logprobs"][2]["logprob"]);
  }
  EXPECT_EQ(text, json["text"].get<std::string>());
  EXPECT_TRUE(run_for_json(with({"--logprobs", "0"}))["logprobs"][0]["top_logprobs"].empty());
  // For people, on standard error.
  const Outcome shown = run_program(with({"--logprobs", "2"}));
  EXPECT_EQ(shown.out, plain["text"].get<std::string>() + "\n");
  EXPECT_NE(shown.err.find("\" plus\""), std::string::npos) << shown.err;
  // In a conversation, too.
  const Outcome turn =
      run_program({"run", demo(), "--chat", "--json", "--logprobs", "1"}, "What is 10 plus 1?\n");
  EXPECT_EQ(Json::parse(turn.out)["logprobs"].size(), json["ids"].size());
}

}  // namespace
}  // namespace tandem
