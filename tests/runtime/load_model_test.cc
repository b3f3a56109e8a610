// Opening models: options, modes, and damaged or hostile folders.
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
  return error_of([&] { testing::open_alone(folder, options); });
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
  expect_part(open_error(demo_dir(), {.engine = {.kernels = "abacus"}}),
              "[kernels] \"abacus\" is not available here: expected one of ref");
  for (const std::int64_t chunk : {std::int64_t{-1}, std::int64_t{4097}, std::int64_t{1} << 62})
    expect_part(open_error(demo_dir(), {.engine = {.chunk = chunk}}),
                fmt::format("[model] chunk: expected 1 to 4096 rows, got {}", chunk));
  expect_part(open_error(demo_dir(), {.engine = {.threads = 65}}),
              "[thread_pool] expected 1 to 64 threads, got 65");
  expect_part(open_error(demo_dir(), {.mode = Mode::kHybrid}), "mode hybrid needs a package");
  expect_part(open_error(demo_dir(), {.mode = Mode::kCpu}), "mode cpu needs a package");
  expect_part(open_error(demo_package(), {.mode = Mode::kFloat}),
              "mode float needs a float checkpoint");
}

TEST(LoadModel, KnowsItsModesByName) {
  for (const Mode mode : {Mode::kFloat, Mode::kCpu, Mode::kHybrid, Mode::kNpu})
    EXPECT_EQ(mode_from_string(std::string(to_string(mode))), mode);
  expect_part(error_of([] { mode_from_string("gpu"); }),
              "[mode] expected \"hybrid\", \"npu\", \"cpu\" or \"float\", got \"gpu\"");
  EXPECT_EQ(testing::open_alone(demo_dir())->engine.plan().name, "float");
  EXPECT_EQ(testing::open_alone(demo_package())->engine.plan().name, "hybrid");
}

TEST(LoadModel, HasAPlanForEachMode) {
  const std::vector<std::string> cpu = {"cpu"};
  const std::vector<std::string> both = {"npu", "cpu"};
  for (const Mode mode : {Mode::kFloat, Mode::kCpu, Mode::kHybrid, Mode::kNpu}) {
    const Plan plan = plan_for(mode);
    const bool is_npu = mode == Mode::kNpu, reads_on_npu = is_npu || mode == Mode::kHybrid;
    EXPECT_EQ(plan.name, to_string(mode));
    EXPECT_EQ(plan.prefill, reads_on_npu ? both : cpu);
    EXPECT_EQ(plan.decode, is_npu ? both : cpu);
    EXPECT_EQ(plan.prompt_graph, reads_on_npu ? Phase::kPrefill : Phase::kDecode);
    EXPECT_EQ(plan.answer_graph, is_npu ? Phase::kPrefill : Phase::kDecode);
    EXPECT_EQ(plan.kv, mode == Mode::kFloat ? DType::kF32 : DType::kF16);
  }
}

// Plans that no mode names, and what they ask in vain.
TEST(LoadModel, FollowsPlansThatItCan) {
  ThreadPool pool(1);
  const auto checkpoint = LoadedModel::open(demo_dir(), pool);
  const auto package = LoadedModel::open(demo_package(), pool);
  EXPECT_FALSE(checkpoint->is_package());
  EXPECT_TRUE(package->is_package());
  const EngineOptions options{.threads = 1};
  const auto error = [&](const std::shared_ptr<const LoadedModel>& model, const Plan& plan) {
    return error_of([&] { Engine(model, plan, options, silent()); });
  };
  expect_part(error(checkpoint, plan_for(Mode::kHybrid)),
              "models/demo: mode hybrid needs a package (see tandem quantize); this is a float "
              "checkpoint");
  Plan plan = plan_for(Mode::kHybrid);
  plan.decode = {"abacus"};
  expect_part(error(package, plan), "[model] device \"abacus\": expected npu or cpu");
  plan = plan_for(Mode::kHybrid);
  plan.prefill = {"npu"};
  expect_part(error(package, plan), "no device runs");
  plan = plan_for(Mode::kHybrid);
  plan.kv = DType::kI8;
  expect_part(error(package, plan), "has no scales for an int8 KV cache");
  plan.kv = DType::kI32;
  expect_part(error(package, plan), "expected F16, F32 or I8, got I32");
  expect_part(error_of([&] {
                Engine(package, plan_for(Mode::kCpu), {.threads = 1, .kv_limit = 1000}, silent());
              }),
              "a limit of 1000 bytes: expected room for at least one block");

  // The prompt's int8 codes give the same bits on the CPU.
  plan = plan_for(Mode::kHybrid);
  plan.prefill = {"cpu"};
  Engine on_cpu(package, plan, options, silent());
  Engine on_npu(package, plan_for(Mode::kHybrid), options, silent());
  EXPECT_EQ(on_cpu.placement(Phase::kPrefill).devices, std::vector<std::string>{"cpu"});
  const std::vector<TokenId> ids = {498, 497, 258, 477, 44, 371, 278, 258, 939, 1027};
  EXPECT_EQ(testing::all_logits(on_cpu, ids), testing::all_logits(on_npu, ids));
  // A checkpoint's cache may be of half the size.
  plan = plan_for(Mode::kFloat);
  plan.kv = DType::kF16;
  Engine half(checkpoint, plan, options, silent());
  Engine full(checkpoint, plan_for(Mode::kFloat), options, silent());
  EXPECT_EQ(2 * half.kv_pool().block_bytes(), full.kv_pool().block_bytes());
}

TEST(LoadModel, RefusesBadTokens) {
  const auto model = testing::open_demo(Mode::kFloat);
  KvSequence sequence = model->engine.new_sequence();
  for (const TokenId bad : {-1, 4096, INT32_MIN, INT32_MAX}) {
    const std::vector<TokenId> ids = {0, bad};
    const std::string expected = fmt::format("is {}: expected an id in [0, 4096)", bad);
    expect_part(error_of([&] { model->engine.prefill(sequence, ids); }), expected);
    expect_part(error_of([&] { model->engine.prefill_all(sequence, ids, [](auto, auto) {}); }),
                expected);
    expect_part(error_of([&] { model->engine.decode(sequence, bad); }), expected);
  }
  expect_part(error_of([&] { model->engine.prefill(sequence, {}); }), "no tokens to read");
  model->engine.prefill_all(sequence, {}, [](auto, auto) { ADD_FAILURE() << "no row to give"; });
  EXPECT_EQ(sequence.length(), 0);
}

TEST(LoadModel, SpellsAConversationAsTheTemplateDoes) {
  const auto model = testing::open_demo(Mode::kFloat);
  const auto decode = [&](const std::vector<TokenId>& ids) {
    return model->text.tokenizer().decode(ids);
  };
  const std::string plain = decode(model->text.encode_chat("Hello"));
  expect_part(plain, "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n");
  const std::string led = decode(model->text.encode_chat("Hello", "Be brief."));
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
      const auto model =
          LocalModel::open(scratch_.path(), {.engine = {.threads = 1}, .cache = fs::path()});
      KvSequence sequence = model->engine.new_sequence();
      const std::vector<TokenId> ids = {0, 0, 0};
      model->engine.prefill(sequence, ids);
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
  EXPECT_NO_THROW(LocalModel::open(folder(), {.engine = {.threads = 1}, .cache = fs::path()}));
}

// What was verified is remembered in the cache, unless every byte is to be read.
TEST_F(DamagedPackage, ReadsEveryByteWhereAskedTo) {
  const fs::path cache = scratch_ / "cache";
  const auto open = [&](bool verify) {
    LocalModel::open(folder(), {.engine = {.threads = 1}, .cache = cache, .verify = verify});
  };
  open(false);
  std::vector<fs::path> records;
  for (const auto& entry : fs::directory_iterator(cache))
    if (entry.path().extension() == ".verified") records.push_back(entry.path());
  ASSERT_FALSE(records.empty());
  // What is remembered of the files is true of them no more, as after a change on the disk itself.
  for (const fs::path& record : records) write_text_file(record, std::string(32, '0'));
  expect_part(error_of([&] { open(false); }), "content does not match the hash in tandem.json");
  EXPECT_NO_THROW(open(true));
  // Now the records are right again, and a changed file shows either way.
  EXPECT_NO_THROW(open(false));
  std::string changed = read_text_file(folder() / "prefill.safetensors");
  changed[changed.size() / 2] ^= 1;
  write_text_file(folder() / "prefill.safetensors", changed);
  for (const bool verify : {true, false})
    expect_part(error_of([&] { open(verify); }), "prefill.safetensors");
}

// Packed weights come from the folder that LoadOptions names, and give the same bits from there.
TEST(LoadModel, KeepsPackedWeightsBetweenStarts) {
  const ScratchFolder scratch;
  const auto logits = [&](const fs::path& cache) {
    const auto model = LocalModel::open(demo_package(), {.engine = {.threads = 2}, .cache = cache});
    KvSequence sequence = model->engine.new_sequence();
    const std::vector<TokenId> ids = {498, 497, 258};
    auto all = testing::copy(model->engine.prefill(sequence, ids));
    const auto next = model->engine.decode(sequence, 477);
    all.insert(all.end(), next.begin(), next.end());
    return all;
  };
  const auto want = logits({});
  EXPECT_EQ(logits(scratch / "cache"), want);
  std::size_t panels = 0;
  for (const auto& entry : fs::directory_iterator(scratch / "cache")) {
    if (entry.path().extension() == ".panels")
      ++panels;
    else
      EXPECT_EQ(entry.path().extension(), ".verified");
  }
  // Int4 and int8 of each Linear, and the head.
  EXPECT_EQ(panels, 2U * 42U + 1U);
  EXPECT_EQ(logits(scratch / "cache"), want);
}

}  // namespace
}  // namespace tandem
