// mllm's tools in their own words: from the demo checkpoint to an answer of its two models.
#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "base/json.h"
#include "checkpoint/byte_writer.h"
#include "checkpoint/mllm_file.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/torch_file.h"
#include "cli/program.h"
#include "piped_output.h"

namespace tandem::testing {
namespace {

using Words = std::vector<std::string>;

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
  return text;
}

// As a shell splits it, as far as this page needs.
Words split_line(const std::string& line) {
  Words words;
  std::istringstream parts(line);
  for (std::string part; parts >> std::ws;) {
    if (parts.peek() == '"') {
      parts.get();
      std::getline(parts, part, '"');
    } else {
      parts >> part;
    }
    if (!parts && part.empty()) break;
    words.push_back(part);
    part.clear();
  }
  return words;
}

// What a script prints, which is JSON.
Json output_of(const std::string& command) {
  const PipedOutput output = piped_output(command);
  EXPECT_EQ(output.status, 0) << command;
  return parse_json(output.text, "a script");
}

class MllmWords : public ::testing::Test {
 protected:
  // The section of the page, with its placeholders filled in.
  static std::string section(const ScratchFolder& folder) {
    std::string page = read_text_file(source_dir() / "docs/from-the-seeds.md");
    page.erase(0, page.find("## mllm"));
    for (const auto& [from, to] : {std::pair{"MODEL", demo()},
                                   {"TEXT", (folder / "text.txt").string()},
                                   {"CONFIG2", (folder / "config2.json").string()},
                                   {"CONFIG", (folder / "config.json").string()},
                                   {"WORK", (folder / "work").string()}})
      page = replaced(page, from, to);
    return page;
  }
  // The first block of code in some language.
  static std::string block(const std::string& page, const std::string& language) {
    const std::string fence = "```" + language + "\n";
    const std::size_t begin = page.find(fence) + fence.size();
    return page.substr(begin, page.find("```", begin) - begin);
  }

  void SetUp() override {
    fs::create_directory(folder_ / "work");
    const std::string text = read_text_file(demo_dir() / "calibration.txt");
    write_text_file(folder_ / "text.txt", text.substr(0, 40'000));
    page_ = section(folder_);
    config_ = parse_json(block(page_, "json"), "page");
    write_config("config.json");
    Json second = config_;
    second["export_config"]["output_model"] = (folder_ / "work/rotated.bin").string();
    write_text_file(folder_ / "config2.json", second.dump(2));
  }
  void write_config(const std::string& name) { write_text_file(folder_ / name, config_.dump(2)); }
  // Both models, as the page makes them.
  void make_pair() {
    std::istringstream lines(block(page_, "bash"));
    int count = 0;
    for (std::string line; std::getline(lines, line) && !line.starts_with("tandem run");) {
      Words words = split_line(line);
      words.erase(words.begin());
      const Outcome outcome = run_program(words);
      EXPECT_EQ(outcome.status, 0) << line << outcome.err;
      ++count;
    }
    EXPECT_EQ(count, 6);
  }
  std::string work(const std::string& name) const { return (folder_ / "work" / name).string(); }

  const ScratchFolder folder_;
  std::string page_;
  Json config_;
};

TEST_F(MllmWords, PageOfCommands) {
  std::istringstream lines(block(page_, "bash"));
  Words answers;
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    Words words = split_line(line);
    ASSERT_EQ(words.front(), "tandem") << line;
    words.erase(words.begin());
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.status, 0) << line << outcome.err;
    if (words.front() == "run") answers.push_back(outcome.out);
  }
  EXPECT_EQ(count, 9);
  ASSERT_EQ(answers.size(), 2U);
  const Outcome wanted = run_program(
      {"-q", "run", demo(), "--chat", "-p", "What color is the sky?", "-n", "32", "--no-cache"});
  EXPECT_EQ(answers[0],
            "[Q] <|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
            "What color is the sky?<|im_end|>\n<|im_start|>assistant\n\n[A] " +
                wanted.out);
  EXPECT_EQ(answers[1], wanted.out);
}

// The pair's files as other programs see them: PyTorch's by Python's own modules, mllm's by a script
// made from the format's description, which writes them again.
TEST_F(MllmWords, FilesAreReadByOthers) {
  make_pair();
  const std::string unpickle = fixture("checkpoint/unpickle.py").string();
  const Json matrices = output_of("python3 " + unpickle + " " + work("rotation-matrix.bin"));
  EXPECT_EQ(matrices["R"]["shape"], Json({256, 256}));
  EXPECT_EQ(matrices["R"]["dtype"], "F64");
  EXPECT_EQ(matrices["R_v"].size(), 6U);
  const auto torch = open_torch_file(work("int8.bin"));
  const std::string script = fixture("checkpoint/read_mllm.py").string();
  for (const char* name : {"int8.mllm", "fp32.mllm", "q4k.mllm"}) {
    const Json read = output_of("python3 " + script + " " + work(name) + " " + work("again"));
    EXPECT_EQ(read["version"], 1);
    EXPECT_EQ(read_text_file(work("again")), read_text_file(work(name)));
    const auto store = open_mllm(work(name));
    ASSERT_EQ(read["tensors"].size(), store->tensors().size());
    for (const auto& [tensor, stored] : store->tensors()) {
      const Json& other = read["tensors"][tensor];
      EXPECT_EQ(other["type"], stored.type) << tensor;
      if (std::string(name) != "int8.mllm") continue;
      const Tensor written = torch->load(tensor);
      const double first =
          written.dtype() == DType::kF32 ? written.to_floats()[0] : written.as<std::int8_t>()[0];
      EXPECT_EQ(other["first"], first) << tensor;
    }
  }
  const Json q4k = output_of("python3 " + script + " " + work("q4k.mllm") + " " + work("again"));
  EXPECT_EQ(q4k["tensors"]["model.embed_tokens.weight"]["type"], "Q4_0");
  EXPECT_EQ(q4k["tensors"]["lm_head.weight"]["type"], "Q4_K");
  EXPECT_EQ(q4k["tensors"]["model.norm.weight"]["type"], "F32");
  EXPECT_EQ(q4k["tensors"]["model.layers.0.mlp.up_proj.weight"]["type"], "Q4_K");
  EXPECT_EQ(q4k["tensors"]["model.layers.0.self_attn.q_proj.bias"]["type"], "F32");
  // Also what version 2 adds.
  const Outcome outcome =
      run_program({"convert", work("fp32.mllm"), work("v2.mllm"), "--mllm_version", "2"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  const Json v2 = output_of("python3 " + script + " " + work("v2.mllm") + " " + work("again"));
  EXPECT_EQ(v2["tensors"]["model.layers.0.mlp.up_proj.weight"]["shape"], Json({768, 256}));
  EXPECT_EQ(read_text_file(work("again")), read_text_file(work("v2.mllm")));
}

// Every type that mllm's quantize knows, as the script reads it and as it answers.
TEST_F(MllmWords, EveryTypeOfQuantize) {
  const auto succeed = [](const Words& words) {
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return outcome.out;
  };
  succeed({"convert", demo(), work("fp32.mllm")});
  for (const char* name : {"config.json", "tokenizer.json", "tokenizer_config.json"})
    fs::copy_file(demo_dir() / name, work(name));
  const auto answer = [&](const std::string& model) {
    return succeed(
        {"-q", "run", model, "--chat", "-p", "What color is the sky?", "-n", "24", "--no-cache"});
  };
  const std::string floats = answer(work("fp32.mllm"));
  const std::string script = fixture("checkpoint/read_mllm.py").string();
  const std::string module = "model.layers.0.mlp.down_proj.weight";
  std::map<std::string, std::string> answers;
  for (const char* type : {"Q4_0", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q6_K", "Q8_K", "Q4_0_4_4"}) {
    const std::string file = work(std::string(type) + ".mllm");
    Words words = {"quantize", work("fp32.mllm"), file, type};
    if (std::string(type) == "Q4_0_4_4") words.emplace_back("vl");
    succeed(words);
    const Json read = output_of("python3 " + script + " " + file + " " + work("again"));
    EXPECT_EQ(read["tensors"]["lm_head.weight"]["type"], type);
    EXPECT_EQ(read["tensors"][module]["type"], type);
    EXPECT_EQ(read["tensors"][module]["elements"], 256 * 768);
    EXPECT_EQ(read["tensors"]["model.embed_tokens.weight"]["type"], "Q4_0");
    EXPECT_EQ(read["tensors"]["model.norm.weight"]["type"], "F32");
    EXPECT_EQ(read_text_file(work("again")), read_text_file(file));
    answers[type] = answer(file);
  }
  EXPECT_EQ(answers["Q8_K"], floats);
  EXPECT_EQ(answers["Q6_K"], floats);
  // The same codes in another order; and as version 2, and back as floats.
  EXPECT_EQ(answers["Q4_0_4_4"], answers["Q4_0"]);
  succeed({"convert", work("fp32.mllm"), work("v2.mllm"), "--mllm_version", "2", "--dtype",
           "q4_0_4_4"});
  const Json v2 = output_of("python3 " + script + " " + work("v2.mllm") + " " + work("again"));
  EXPECT_EQ(v2["tensors"][module]["type"], "Q4_0_4_4");
  EXPECT_EQ(v2["tensors"][module]["shape"], Json({256, 768}));
  for (const char* from : {"Q4_0_4_4", "Q4_0"})
    succeed(
        {"convert", work(std::string(from) + ".mllm"), work(std::string(from) + ".safetensors")});
  EXPECT_EQ(read_text_file(work("Q4_0_4_4.safetensors")), read_text_file(work("Q4_0.safetensors")));
  expect_refusal({"quantize", work("fp32.mllm"), work("k.mllm"), "KAI_Q4_0"},
                 {"--dtype: expected one of", "q4_0_4_4", "got \"kai_q4_0\""});
}

// Every command, flag and key of mllm's guide has its place on the page.
TEST_F(MllmWords, ThePageKnowsTheGuidesWords) {
  for (const char* word : {"get_distribution.py",
                           "--config_file",
                           "export_qnn_model.py",
                           "export_rotate_model.py",
                           "converter.py",
                           "--input_model",
                           "--output_model",
                           "--type",
                           "quantize IN OUT",
                           "profile_config",
                           "dataset_path",
                           "output_path",
                           "num_samples",
                           "no_bias",
                           "model_config",
                           "model_type",
                           "tokenizer_name",
                           "model_name",
                           "online_rotation",
                           "random_rotate",
                           "save_rotation",
                           "R_path",
                           "export_config",
                           "scale_file",
                           "output_model",
                           "t01m_clip_threshold",
                           "quant_bias",
                           "demo_qwen_npu",
                           "--vocab",
                           "-v",
                           "--merge",
                           "-e",
                           "--qnn-model",
                           "-m",
                           "--decoding-model",
                           "main_qwen_npu",
                           "QWenNPUConfig",
                           "tokens_limit",
                           "HFHUBROPE",
                           "wget",
                           "qnn_context.bin",
                           "QNN_SDK_ROOT",
                           "HEXAGON_SDK_ROOT",
                           "ANDROID_NDK_ROOT",
                           "envsetup.sh",
                           "setup_sdk_env.source",
                           "make htp_aarch64",
                           "make htp_v75",
                           "build_android_qnn.sh",
                           "run_qwen_qnn.sh",
                           "LLaMAPackage",
                           "compiledb",
                           "clangd.path",
                           ".jsonl.zst"})
    EXPECT_NE(page_.find(word), std::string::npos) << word;
}

// Keys with other values than the page's configuration has: a model as it is, with matrices of a file,
// with codes for biases, and scales of all kinds.
TEST_F(MllmWords, EveryKeyDoesWhatItSays) {
  const auto with = [&](const std::string& command, const std::vector<Json>& changes,
                        const Words& more = {}) {
    Json config = config_;
    for (const Json& change : changes) config.merge_patch(change);
    write_text_file(folder_ / "c.json", config.dump());
    Words words = {"-q", command, "--config_file", (folder_ / "c.json").string()};
    words.insert(words.end(), more.begin(), more.end());
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
  };
  const Words brief = {"--seq-len", "32"};
  with("profile", {}, brief);
  const std::string rotated = read_text_file(work("distribution.json"));
  // Matrices of a file are those that random ones were kept as.
  const Json loaded = {{"random_rotate", nullptr},
                       {"save_rotation", nullptr},
                       {"R_path", work("rotation-matrix.bin")}};
  with("profile", {Json{{"profile_config", {{"model_config", loaded}}}}}, brief);
  EXPECT_EQ(read_text_file(work("distribution.json")), rotated);
  // Without a rotation, where outputs may be seen with their biases, which may be codes.
  const Json plain = {{"online_rotation", false},
                      {"random_rotate", nullptr},
                      {"save_rotation", nullptr},
                      {"R_path", nullptr}};
  const Json with_biases = {{"profile_config", {{"no_bias", false}, {"model_config", plain}}},
                            {"export_config", {{"quant_bias", true}, {"model_config", plain}}}};
  with("profile", {with_biases}, brief);
  EXPECT_NE(read_text_file(work("distribution.json")), rotated);
  const auto exported = [&](const Json& changes) {
    with("export-qnn", {with_biases, Json{{"export_config", changes}}});
    return open_torch_file(work("int8.bin"));
  };
  const std::string module = "model.layers.1.self_attn.v_proj",
                    other = "model.layers.0.mlp.up_proj";
  const auto number = [](const TensorStore& store, const std::string& name) {
    return store.load(name).to_floats()[0];
  };
  const Json seen = read_json_file(work("distribution.json"));
  const auto close = exported({{"t01m_clip_threshold", 1}});
  EXPECT_EQ(close->load(module + ".bias").dtype(), DType::kI32);
  EXPECT_GT(number(*close, module + ".bias.scale"), 0);
  EXPECT_EQ(number(*close, other + ".input_scale"), seen["top_0_1"][other]["input"].get<float>());
  EXPECT_EQ(number(*close, "lm_head.output_scale"),
            seen["top_0_1"]["lm_head"]["output"].get<float>());
  const auto all = exported({{"clip_all", true},
                             {"quant_bias", false},
                             {"t01m_clip_threshold", nullptr},
                             {"model_config", {{"skip_layers", {module}}}}});
  EXPECT_EQ(all->load(module + ".bias").dtype(), DType::kF32);
  EXPECT_EQ(number(*all, other + ".input_scale"), seen["ori"][other]["input"].get<float>());
  EXPECT_EQ(number(*all, module + ".input_scale"), seen["top_0_1"][module]["input"].get<float>());
}

// What no .mllm says is in config.json; in one line what is missing.
TEST_F(MllmWords, WithoutAConfiguration) {
  fs::create_directory(folder_ / "bare");
  const std::string file = (folder_ / "bare/model.mllm").string();
  const Outcome outcome = run_program({"-q", "convert", demo(), file});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  for (const std::string& model : {file, (folder_ / "bare").string()})
    expect_refusal({"-q", "run", model, "-p", "Hi"},
                   {model + ": there is no config.json beside it"});
  expect_refusal({"-q", "run", "--qnn-model", file, "--decoding-model", demo(), "-p", "Hi"},
                 {file + ": there is no config.json beside it"});
}

// mllm's demo takes its tokenizer as two files, and its flags are short.
TEST_F(MllmWords, VocabularyAndMerges) {
  make_pair();
  const Json tokenizer = read_json_file(demo_dir() / "tokenizer.json");
  std::map<int, std::string> tokens;
  for (const auto& [token, id] : tokenizer["model"]["vocab"].items()) tokens[id.get<int>()] = token;
  for (const Json& token : tokenizer["added_tokens"])
    tokens[token["id"].get<int>()] = token["content"].get<std::string>();
  ByteWriter vocabulary;
  vocabulary.number(std::int32_t{23333});
  vocabulary.number(static_cast<std::int32_t>(tokens.size()));
  for (const auto& [id, token] : tokens) {
    vocabulary.number(id);
    vocabulary.number(static_cast<std::int32_t>(token.size()));
    vocabulary.text(token);
    vocabulary.number(static_cast<float>(id));
  }
  std::string merges;
  for (const Json& merge : tokenizer["model"]["merges"])
    merges += merge.is_string()
                  ? merge.get<std::string>() + "\n"
                  : merge[0].get<std::string>() + " " + merge[1].get<std::string>() + "\n";
  fs::create_directory(folder_ / "elsewhere");
  write_text_file(folder_ / "qwen_vocab.mllm", vocabulary.view());
  write_text_file(folder_ / "elsewhere/merges.txt", merges);
  const Words pair = {
      "-q",           "run", "-m", work("int8.mllm"), "--decoding-model", work("q4k.mllm"), "-p",
      "Who is Paul?", "-n",  "16", "--no-cache"};
  const Outcome wanted = run_program(pair);
  // Without a tokenizer and a template of their own.
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) fs::remove(work(name));
  Words words = pair;
  words.insert(words.end(), {"-v", (folder_ / "qwen_vocab.mllm").string(), "-e",
                             (folder_ / "elsewhere/merges.txt").string()});
  const Outcome outcome = run_program(words);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.out, wanted.out);
  words.back() = "none.txt";
  expect_refusal(words, {"none.txt"});
  Words without(words.begin(), words.end() - 2);
  expect_refusal(without, {"qwen_vocab.mllm: expected the merges beside it"});
  words[words.size() - 3] = (demo_dir() / "tokenizer.json").string();
  words.back() = (folder_ / "elsewhere/merges.txt").string();
  expect_refusal(words, {"tokenizer.json: holds its merges"});
}

TEST_F(MllmWords, PairsThatDoNotFit) {
  make_pair();
  const auto refuse = [&](const std::string& prompts, const std::string& answers, Words parts) {
    expect_refusal({"-q", "run", "--qnn-model", prompts, "--decoding-model", answers, "-p", "Hi"},
                   parts);
  };
  // One is rotated, the other is not.
  refuse(work("int8.mllm"), demo(), {"int8.mllm", demo(), "rotated by the same matrices"});
  refuse(work("none.mllm"), work("q4k.mllm"), {"none.mllm"});
  refuse(work("int8.mllm"), demo_package(), {"is a package"});
  Json config = read_json_file(demo_dir() / "config.json");
  fs::create_directory(folder_ / "other");
  fs::copy_file(work("q4k.mllm"), folder_ / "other/q4k.mllm");
  config["num_hidden_layers"] = 5;
  write_text_file(folder_ / "other/config.json", config.dump());
  refuse(work("int8.mllm"), (folder_ / "other/q4k.mllm").string(), {"expected the layers of", "5"});
}

// int8 as a model of its own, and dequantized for formats that have no such thing.
TEST_F(MllmWords, Int8Alone) {
  make_pair();
  const Words ask = {"-p", "Once upon a time", "-n", "16", "--no-cache"};
  const auto answer = [&](const std::string& model) {
    Words words = {"-q", "run", model};
    words.insert(words.end(), ask.begin(), ask.end());
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return outcome.out;
  };
  EXPECT_EQ(answer(work("int8.mllm")), answer(work("int8.bin")));
  for (const char* from : {"int8.mllm", "int8.bin"}) {
    const Outcome outcome = run_program({"convert", work(from), work("f.safetensors")});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    const auto floats = SafetensorsFile::open(work("f.safetensors")).tensors;
    const std::string module = "model.layers.0.mlp.up_proj.weight";
    const auto store = open_torch_file(work("int8.bin"));
    const float scale = store->load(module + ".scale").to_floats()[0];
    const auto codes = store->load(module).as<std::int8_t>();
    const std::vector<float> values = floats.at(module).to_floats();
    ASSERT_EQ(floats.at(module).shape(), (Shape{768, 256}));
    for (std::size_t row = 0; row < 768; row += 5)
      for (std::size_t column = 0; column < 256; column += 3)
        ASSERT_NEAR(values[row * 256 + column], codes[column * 768 + row] * scale,
                    std::fabs(codes[column * 768 + row] * scale) / 1000);
  }
}

TEST_F(MllmWords, ReportIsAPicture) {
  const Outcome outcome =
      run_program({"profile", "--config_file", (folder_ / "config.json").string(), "--compat",
                   "mllm", "--report", work("p.svg"), "--seq-len", "64"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("43 Linears on 8 samples, 512 tokens"), std::string::npos);
  const std::string picture = read_text_file(work("p.svg"));
  EXPECT_EQ(picture.find("<svg "), 0U);
  EXPECT_NE(picture.find("mlp.down_proj of layer 5: largest "), std::string::npos);
  std::size_t marks = 0;
  for (std::size_t at = 0; (at = picture.find("<circle", at)) != std::string::npos; ++at) ++marks;
  EXPECT_EQ(marks, 43U * 2 * 2);
  EXPECT_NE(picture.find("<title>lm_head: largest "), std::string::npos);
}

// A dataset's samples are whole documents, without what is beyond 6000 characters.
TEST_F(MllmWords, SamplesAreDocuments) {
  const std::string text = read_text_file(folder_ / "text.txt");
  const auto line = [](const std::string& document) {
    return Json{{"text", document}, {"meta", 1}}.dump() + "\n";
  };
  fs::create_directory(folder_ / "pile");
  const auto profiled = [&](const std::string& lines, Words more = {}) {
    write_text_file(folder_ / "pile/val.jsonl", lines);
    Words words = {"-q", "profile", "--config_file", (folder_ / "config.json").string()};
    words.insert(words.end(), more.begin(), more.end());
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return std::pair{outcome.out.substr(outcome.out.find("inputs")),
                     read_text_file(work("distribution.json"))};
  };
  Json& profile = config_["profile_config"];
  profile["dataset_path"] = (folder_ / "pile").string();
  profile["num_samples"] = 2;
  write_config("config.json");
  const std::string two = line(text.substr(0, 900)) + line("") + line(text.substr(1000, 300));
  const auto seen = profiled(two);
  EXPECT_NE(seen.first.find("43 Linears on 2 samples, "), std::string::npos) << seen.first;
  // A third document counts for nothing, nor does its order in a longer file.
  EXPECT_EQ(profiled(two + line(text.substr(2000, 400))), seen);
  EXPECT_NE(profiled(line(text.substr(0, 900)) + line(text.substr(1000, 400))), seen);
  const std::string second = line("One.");
  const auto cut = profiled(line(text.substr(0, 6000)) + second);
  EXPECT_EQ(profiled(line(text.substr(0, 9000)) + second), cut);
  EXPECT_NE(profiled(two, {"--seq-len", "10"}).first.find("2 samples, 20 tokens"),
            std::string::npos);
  write_text_file(folder_ / "pile/val.jsonl", line(""));
  expect_refusal({"-q", "profile", "--config_file", (folder_ / "config.json").string()},
                 {"dataset_path", "val.jsonl: expected documents with text"});
}

TEST_F(MllmWords, MistakesAreNamed) {
  const auto refuse = [&](const std::string& command, Words parts) {
    write_config("bad.json");
    expect_refusal({"-q", command, "--config_file", (folder_ / "bad.json").string()}, parts);
    EXPECT_TRUE(fs::is_empty(folder_ / "work"));
  };
  refuse("export-qnn", {"distribution.json"});
  Json& profile = config_["profile_config"];
  profile["dataset_path"] = (folder_ / "work").string();
  refuse("profile", {"dataset_path", "val.jsonl"});
  profile["dataset_path"] = (folder_ / "text.txt").string();
  profile["num_samples"] = 1;
  refuse("profile", {"bad.json:", "profile_config.num_samples"});
  profile["num_samples"] = 2;
  profile["model_config"]["R_path"] = "see explanation below";
  refuse("profile", {"bad.json:", "profile_config.model_config.R_path"});
  profile["model_config"].erase("R_path");
  profile["output_path"] = (folder_ / "none/d.json").string();
  refuse("profile", {"none"});
  expect_refusal({"profile"}, {"--config-file"});
  expect_refusal({"quantize", work("a.mllm"), work("b.mllm"), "Q9_9"},
                 {"--dtype: expected one of"});
}

}  // namespace
}  // namespace tandem::testing
