// Opening models: options, modes, and folders that are damaged or mean harm.
#include <gtest/gtest.h>

#include <cstdlib>

#include "checkpoint/safetensors.h"
#include "runtime/demo_package.h"

namespace tandem {
namespace {

using testing::demo_dir;
using testing::demo_package;
using testing::error_of;
using testing::ScratchFolder;

std::string open_error(const fs::path& folder, LoadOptions options = {}) {
  options.cache = fs::path();
  options.threads = 1;
  return error_of([&] { LoadedModel::open(folder, options); });
}

void expect_part(const std::string& error, const std::string& part) {
  EXPECT_NE(error.find(part), std::string::npos) << error;
}

TEST(LoadModel, RefusesWhatIsNoModel) {
  const ScratchFolder scratch;
  expect_part(open_error(scratch / "missing"), "missing: no such file or folder");
  write_text_file(scratch / "file", "text");
  expect_part(open_error(scratch / "file"), "expected a safetensors, PyTorch, GGUF or .mllm file");
  expect_part(open_error(scratch / std::string(5000, 'x')), "no such file or folder");
  expect_part(open_error(fs::path()), "no such file or folder");
  expect_part(open_error(scratch.path()), "expected config.json with model.safetensors");
}

TEST(LoadModel, RefusesBadOptions) {
  expect_part(open_error(demo_dir(), {.kernels = "abacus"}),
              "[kernels] \"abacus\" is not available here: expected one of ref");
  for (const std::int64_t chunk : {std::int64_t{-1}, std::int64_t{4097}, std::int64_t{1} << 62})
    expect_part(open_error(demo_dir(), {.chunk = chunk}),
                fmt::format("[model] chunk: expected 1 to 4096 rows, got {}", chunk));
  expect_part(error_of([] { LoadedModel::open(demo_dir(), {.threads = 65, .cache = fs::path()}); }),
              "[thread_pool] expected 1 to 64 threads, got 65");
  expect_part(open_error(demo_dir(), {.mode = Mode::kHybrid}), "mode hybrid needs a package");
  expect_part(open_error(demo_dir(), {.mode = Mode::kCpu}), "mode cpu needs a package");
  expect_part(open_error(demo_package(), {.mode = Mode::kFloat}),
              "mode float needs a float checkpoint");
}

TEST(LoadModel, KnowsItsModesByName) {
  for (const Mode mode : {Mode::kFloat, Mode::kCpu, Mode::kHybrid})
    EXPECT_EQ(mode_from_string(std::string(to_string(mode))), mode);
  expect_part(error_of([] { mode_from_string("npu"); }),
              "[mode] expected \"hybrid\", \"cpu\" or \"float\", got \"npu\"");
  EXPECT_EQ(LoadedModel::open(demo_dir(), {.cache = fs::path()})->mode(), Mode::kFloat);
  EXPECT_EQ(LoadedModel::open(demo_package(), {.cache = fs::path()})->mode(), Mode::kHybrid);
}

TEST(LoadModel, RefusesBadTokens) {
  const auto model = testing::open_demo(Mode::kFloat);
  KvSequence sequence = model->new_sequence();
  for (const TokenId bad : {-1, 4096, INT32_MIN, INT32_MAX}) {
    const std::vector<TokenId> ids = {0, bad};
    const std::string expected = fmt::format("is {}: expected an id in [0, 4096)", bad);
    expect_part(error_of([&] { model->prefill(sequence, ids); }), expected);
    expect_part(error_of([&] { model->prefill_all(sequence, ids, [](auto, auto) {}); }), expected);
    expect_part(error_of([&] { model->decode(sequence, bad); }), expected);
  }
  expect_part(error_of([&] { model->prefill(sequence, {}); }), "no tokens to read");
  model->prefill_all(sequence, {}, [](auto, auto) { ADD_FAILURE() << "no row to give"; });
  EXPECT_EQ(sequence.length(), 0);
}

TEST(LoadModel, SpellsAConversationAsTheTemplateDoes) {
  const auto model = testing::open_demo(Mode::kFloat);
  const auto decode = [&](const std::vector<TokenId>& ids) {
    return model->tokenizer().decode(ids);
  };
  const std::string plain = decode(model->encode_chat("Hello"));
  expect_part(plain, "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n");
  const std::string led = decode(model->encode_chat("Hello", "Be brief."));
  EXPECT_EQ(led,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
            "<|im_start|>assistant\n");
}

// A tiny model in a folder of its own, to be damaged.
class DamagedModel : public ::testing::Test {
 protected:
  void SetUp() override {
    const fs::path source = testing::fixture("models/fixtures/llama_rope");
    for (const char* name : {"config.json", "generation_config.json", "model.safetensors"})
      fs::copy_file(source / name, scratch_ / name);
    tensors_ = SafetensorsFile::open(source / "model.safetensors").tensors;
    config_ = read_json_file(source / "config.json");
  }
  std::string error_with(const std::map<std::string, Tensor>& tensors) {
    fs::remove(scratch_ / "model.safetensors");
    write_safetensors(scratch_ / "model.safetensors", tensors);
    return open_error(scratch_.path());
  }
  // The error, or nothing if the model opens and reads a prompt.
  std::string outcome(const Json& config) {
    write_text_file(scratch_ / "config.json", config.dump());
    try {
      const auto model = LoadedModel::open(scratch_.path(), {.threads = 1, .cache = fs::path()});
      KvSequence sequence = model->new_sequence();
      const std::vector<TokenId> ids = {0, 0, 0};
      model->prefill(sequence, ids);
      return {};
    } catch (const Error& error) {
      return error.what();
    }
  }

  ScratchFolder scratch_;
  std::map<std::string, Tensor> tensors_;
  Json config_;
};

TEST_F(DamagedModel, NamesTheTensorThatIsMissingOrMisshapen) {
  for (const auto& [name, tensor] : tensors_) {
    auto fewer = tensors_;
    fewer.erase(name);
    const std::string error = error_with(fewer);
    expect_part(error, name);
    expect_part(error, "missing");
  }
  for (const auto& [name, tensor] : tensors_) {
    auto other = tensors_;
    Shape shape = tensor.shape();
    shape.insert(shape.begin(), 1);
    other[name] = Tensor(tensor.dtype(), shape, tensor.bytes(), nullptr);
    const std::string error = error_with(other);
    expect_part(error, name);
    expect_part(error, "expected " + to_string(tensor.shape()));
  }
}

TEST_F(DamagedModel, SurvivesCutFiles) {
  const std::string whole = read_text_file(scratch_ / "model.safetensors");
  for (const std::size_t keep :
       {std::size_t{0}, std::size_t{7}, std::size_t{100}, whole.size() / 2, whole.size() - 1}) {
    write_text_file(scratch_ / "model.safetensors", whole.substr(0, keep));
    expect_part(open_error(scratch_.path()), "model.safetensors");
  }
  write_text_file(scratch_ / "model.safetensors", whole);
  for (const char* text : {"", "{", "[]", "null", "{}"}) {
    write_text_file(scratch_ / "config.json", text);
    expect_part(open_error(scratch_.path()), "config.json");
  }
  write_text_file(scratch_ / "config.json", config_.dump());
  write_text_file(scratch_ / "generation_config.json", "[1, 2");
  expect_part(open_error(scratch_.path()), "generation_config.json");
}

// Whatever a key says, opening and reading ends in a result or in one error of ours.
TEST_F(DamagedModel, SurvivesNonsenseInEveryKey) {
  ASSERT_EQ(outcome(config_), "");
  const std::vector<Json> nonsense = {nullptr,   -1,
                                      0,         1,
                                      3,         1e300,
                                      true,      "",
                                      "llama",   Json::array(),
                                      {1, 2},    -1e-300,
                                      1LL << 40, Json::object()};
  int errors = 0;
  for (const auto& [key, value] : config_.items())
    for (const Json& bad : nonsense) {
      Json config = config_;
      config[key] = bad;
      const std::string error = outcome(config);
      if (error.empty()) continue;
      ++errors;
      EXPECT_EQ(error[0], '[') << key << ' ' << bad << ": " << error;
    }
  EXPECT_GT(errors, 50);
}

TEST_F(DamagedModel, RefusesWhatItDoesNotKnow) {
  Json config = config_;
  config["model_type"] = "oracle";
  expect_part(outcome(config), "oracle");
  config = config_;
  config["num_hidden_layers"] = 4096;
  expect_part(outcome(config), "missing");
  config = config_;
  config["vocab_size"] = 1 << 24;
  expect_part(outcome(config), "expected [16777216");
}

class DamagedPackage : public ::testing::Test {
 protected:
  void SetUp() override { fs::copy(demo_package(), folder(), fs::copy_options::recursive); }
  fs::path folder() const { return scratch_ / "package"; }

  ScratchFolder scratch_;
};

TEST_F(DamagedPackage, NoticesThatAFileWasChanged) {
  for (const char* name :
       {"decode.safetensors", "prefill.safetensors", "config.json", "tandem.json"}) {
    const std::string whole = read_text_file(folder() / name);
    std::string changed = whole;
    changed[changed.size() / 2] ^= 1;
    write_text_file(folder() / name, changed);
    expect_part(open_error(folder()), name);
    write_text_file(folder() / name, whole);
  }
  EXPECT_NO_THROW(LoadedModel::open(folder(), {.threads = 1, .cache = fs::path()}));
}

// Packed weights come from the folder that LoadOptions names, and give the same bits from there.
TEST(LoadModel, KeepsPackedWeightsBetweenStarts) {
  const ScratchFolder scratch;
  const auto logits = [&](const fs::path& cache) {
    const auto model = LoadedModel::open(demo_package(), {.threads = 2, .cache = cache});
    KvSequence sequence = model->new_sequence();
    const std::vector<TokenId> ids = {498, 497, 258};
    auto all = testing::copy(model->prefill(sequence, ids));
    const auto next = model->decode(sequence, 477);
    all.insert(all.end(), next.begin(), next.end());
    return all;
  };
  const auto want = logits({});
  EXPECT_EQ(logits(scratch / "cache"), want);
  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator(scratch / "cache")) {
    EXPECT_EQ(entry.path().extension(), ".panels");
    ++files;
  }
  EXPECT_EQ(files, 2U * 42U + 1U);  // int4 and int8 of each Linear, and the head
  EXPECT_EQ(logits(scratch / "cache"), want);
}

}  // namespace
}  // namespace tandem
