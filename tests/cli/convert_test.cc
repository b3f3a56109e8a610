// tandem convert: from each format to each, with the options of mllm's converter.
#include <gtest/gtest.h>

#include "checkpoint/mllm_file.h"
#include "checkpoint/safetensors.h"
#include "cli/program.h"

namespace tandem {
namespace {

using testing::demo;
using testing::expect_refusal;
using testing::names_in;
using testing::Outcome;
using testing::run_for_json;
using testing::run_program;
using testing::ScratchFolder;

std::string fixture(const std::string& name) {
  return testing::fixture("checkpoint/fixtures/" + name).string();
}

void expect_success(const std::vector<std::string>& arguments) {
  const Outcome outcome = run_program(arguments);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "");
}

std::string answer(const std::string& model) {
  const Outcome outcome = run_program({"-q", "run", model, "--mode", "float", "-p",
                                       "Once upon a time", "-n", "16", "--no-cache", "-t", "1"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  return outcome.out;
}

TEST(Convert, ToGgufWhichRuns) {
  const ScratchFolder folder;
  const std::string file = (folder / "demo.gguf").string();
  expect_success({"convert", "--input_model", demo(), "--output_model", file});
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"demo.gguf"});
  EXPECT_EQ(answer(file), answer(demo()));
  const Json report = run_for_json({"inspect", file, "--json"});
  EXPECT_EQ(report["model"]["model_type"], "qwen2");
  EXPECT_EQ(report["tensors"].size(), 74u);
}

// A GGUF in three parts is the model that is whole in another file, whichever part is named.
TEST(Convert, FromGgufInParts) {
  const ScratchFolder folder;
  const std::string whole = fixture("split/whole.gguf");
  const std::string bytes = [&] {
    expect_success({"convert", "--input_model", whole, "--output_model", folder / "w.safetensors"});
    return read_text_file(folder / "w.safetensors");
  }();
  for (const char* part : {"1", "2", "3"}) {
    const std::string file = fixture(fmt::format("split/tiny-0000{}-of-00003.gguf", part));
    EXPECT_EQ(answer(file), answer(whole));
    EXPECT_EQ(run_for_json({"inspect", file, "--json"})["tensors"],
              run_for_json({"inspect", whole, "--json"})["tensors"]);
    expect_success({"convert", "--input_model", file, "--output_model", folder / "p.safetensors"});
    EXPECT_EQ(read_text_file(folder / "p.safetensors"), bytes);
    fs::remove(folder / "p.safetensors");
    expect_refusal({"convert", "--input_model", file, "--output_model", file}, {"is the input"});
  }
}

TEST(Convert, RoundTheWorld) {
  const ScratchFolder folder;
  const auto at = [&](const char* name) { return (folder / name).string(); };
  expect_success({"convert", "--input_model", demo(), "--output_model", at("a.gguf"), "--outtype",
                  "f32", "--type", "safetensor"});
  expect_success(
      {"convert", "--input_model", at("a.gguf"), "--output_model", at("b.mllm"), "--type", "gguf"});
  expect_success({"convert", "--input_model", at("b.mllm"), "--output_model", at("c.mllm"),
                  "--type", "mllm", "--config", demo() + "/config.json"});
  EXPECT_EQ(read_text_file(at("b.mllm")), read_text_file(at("c.mllm")));
  expect_success({"convert", "--input_model", at("a.gguf"), "--output_model", at("d.mllm"),
                  "--mllm_version", "2"});
  expect_success({"convert", "--input_model", at("d.mllm"), "--output_model", at("e"), "--config",
                  demo() + "/config.json", "--dtype", "bf16"});
  EXPECT_EQ(names_in(folder / "e"), (std::vector<std::string>{"config.json", "model.safetensors"}));
  for (const char* name : {"config.json", "tokenizer.json", "tokenizer_config.json"})
    fs::copy_file(fs::path(demo()) / name, folder / "e" / name,
                  fs::copy_options::overwrite_existing);
  EXPECT_EQ(answer(at("e")), answer(demo()));
}

TEST(Convert, TorchToMllmAsTheConverterIsCalled) {
  const ScratchFolder folder;
  const std::string file = (folder / "model.mllm").string();
  expect_refusal({"convert", "--input_model=" + fixture("torch_zip.pth"), "--output_model=" + file,
                  "--type=safetensor"},
                 {"torch_zip.pth", "--type says safetensor, its content is torch"});
  EXPECT_FALSE(fs::exists(file));
  expect_success({"convert", "--input_model=" + fixture("torch_zip.pth"), "--output_model=" + file,
                  "--type=torch"});
  // All numbers are F32 there but for bool, int8 and uint8.
  const auto store = open_mllm(file);
  const Json want = read_json_file(fixture("torch.json"));
  EXPECT_EQ(store->tensors().size(), want.size());
  for (const auto& [name, stored] : store->tensors()) {
    const std::string dtype = want[name]["dtype"];
    const bool bytes = dtype == "I8" || dtype == "BOOL" || dtype == "U8";
    EXPECT_EQ(stored.type, !bytes ? "F32" : dtype == "U8" ? "U8" : "I8") << name;
    if (!bytes) {
      EXPECT_EQ(store->load(name).to_floats(), want[name]["values"].get<std::vector<float>>())
          << name;
    }
  }
}

// Version 1 of .mllm has no shapes; the configuration says what they are.
TEST(Convert, ShapesComeFromTheConfiguration) {
  const ScratchFolder folder;
  const std::string flat = (folder / "flat.mllm").string();
  const std::string shaped = (folder / "shaped.safetensors").string();
  const std::string config = demo() + "/config.json";
  expect_success({"convert", "--input_model", demo(), "--output_model", flat});
  expect_success({"convert", "--input_model", flat, "--output_model", shaped, "--config", config,
                  "--type", "mllm"});
  const auto want = SafetensorsFile::open(fs::path(demo()) / "model.safetensors").tensors;
  const auto got = SafetensorsFile::open(shaped).tensors;
  EXPECT_EQ(got.size(), want.size());
  for (const auto& [name, tensor] : want) {
    ASSERT_TRUE(got.contains(name)) << name;
    EXPECT_EQ(got.at(name).shape(), tensor.shape()) << name;
    EXPECT_EQ(got.at(name).to_floats(), tensor.to_floats()) << name;
  }
}

// Whatever the writer, what the output lacks is said in one line.
TEST(Convert, SaysWhatIsLeftOut) {
  const ScratchFolder folder;
  const fs::path model = folder / "model";
  fs::copy(demo(), model);
  auto tensors = SafetensorsFile::open(fs::path(demo()) / "model.safetensors").tensors;
  for (const char* name : {"extra.a", "extra.b", "extra.c", "extra.d"})
    tensors[name] = Tensor::from_floats(std::vector{1.0f}, {1});
  fs::remove(model / "model.safetensors");
  write_safetensors(model / "model.safetensors", tensors);
  const auto convert = [&](const fs::path& input, const std::string& name) {
    const Outcome outcome =
        run_program({"-q", "convert", "--input_model", input.string(), "--output_model",
                     (folder / name).string(), "--config", demo() + "/config.json"});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    const auto at = outcome.err.find("warning: ");
    return at == std::string::npos ? std::string() : outcome.err.substr(at);
  };
  EXPECT_EQ(convert(model, "a.gguf"),
            "warning: [convert] " + (folder / "a.gguf").string() +
                ": 4 of 78 tensors are left out: extra.a, extra.b, extra.c and 1 more\n");
  EXPECT_EQ(convert(model, "a.safetensors"), "");
  EXPECT_EQ(convert(model, "a.mllm"), "");
  EXPECT_EQ(convert(model, "a"), "");
  // Without shapes, what the model does not ask for has none.
  EXPECT_EQ(convert(folder / "a.mllm", "b.safetensors"),
            "warning: [convert] " + (folder / "b.safetensors").string() +
                ": 4 of 78 tensors are left out: extra.a, extra.b, extra.c and 1 more\n");
}

// A dot in a folder's name is part of a version; an empty folder is filled.
TEST(Convert, FoldersMayHaveDots) {
  const ScratchFolder folder;
  for (const char* name : {"Qwen2.5-0.5B", "v1.0", "empty"}) {
    if (std::string_view(name) == "empty") fs::create_directory(folder / name);
    expect_success({"convert", demo(), (folder / name).string()});
    EXPECT_EQ(answer((folder / name).string()), answer(demo()));
  }
  expect_success({"convert", demo(), (folder / "x.GGUF").string()});
  EXPECT_EQ(read_text_file(folder / "x.GGUF").substr(0, 4), "GGUF");
  for (const char* name : {"d.gguf", "d.mllm", "d.safetensors"}) {
    fs::create_directory(folder / name);
    expect_refusal({"convert", demo(), (folder / name).string()}, {name, "is a folder"});
    EXPECT_TRUE(names_in(folder / name).empty());
  }
  expect_refusal({"convert", demo(), (folder / "model.bin").string()}, {"ends in .gguf"});
  EXPECT_EQ(names_in(folder.path()).size(), 7U);
}

// From a GGUF a folder gets the tokenizer, if there is one.
TEST(Convert, FoldersOfAGgufRun) {
  const ScratchFolder folder;
  const std::string file = (folder / "demo.gguf").string();
  const std::string with = (folder / "with").string();
  expect_success({"convert", demo(), file});
  expect_success({"convert", file, with});
  EXPECT_EQ(answer(with), answer(demo()));
  // The same file, whose vocabulary has no name that is known.
  std::string bytes = read_text_file(file);
  const std::string key = "tokenizer.ggml.model";
  bytes.replace(bytes.find(key), key.size(), "tokenizer.ggml.other");
  write_text_file(file, bytes);
  expect_success({"convert", file, (folder / "without").string()});
  EXPECT_EQ(names_in(folder / "without"),
            (std::vector<std::string>{"config.json", "model.safetensors"}));
}

TEST(Convert, RefusesBeforeItWrites) {
  const ScratchFolder folder;
  const std::string out = (folder / "x.gguf").string();
  expect_refusal(
      {"convert", "--input_model", demo(), "--output_model", (folder / "x.zip").string()},
      {"expected a name that ends in .gguf, .mllm or .safetensors"});
  expect_refusal({"convert", "--input_model", demo(), "--output_model", out, "--dtype", "q7_k"},
                 {"--dtype: expected one of f32, f16, bf16, q8_0, q4_0, q4_1, q6_k, q4_k, q2_k, "
                  "q3_k, q8_k, q4_0_4_4, got \"q7_k\""});
  for (const char* type : {"q3_k", "q8_k", "q4_0_4_4"})
    expect_refusal({"convert", "--input_model", demo(), "--output_model", out, "--dtype", type},
                   {"[gguf] files of type", "are not written here"});
  expect_refusal({"convert", "--input_model", fixture("sample.gguf"), "--output_model", out},
                 {"sample.gguf"});
  expect_refusal({"convert", "--input_model", demo(), "--output_model",
                  (folder / "x.safetensors").string(), "--dtype", "q4_0"},
                 {"safetensors hold f32, f16 and bf16, got Q4_0"});
  expect_refusal({"convert", "--input_model", fixture("v1.mllm"), "--output_model", out},
                 {"v1.mllm", "there is no config.json beside it"});
  EXPECT_TRUE(names_in(folder.path()).empty());
}

}  // namespace
}  // namespace tandem
