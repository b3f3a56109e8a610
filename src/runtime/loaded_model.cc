#include "runtime/loaded_model.h"

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "devices/cpu/cpu_device.h"
#include "devices/npu/npu_device.h"
#include "package/package.h"
#include "package/packed_cache.h"

namespace tandem {
namespace {

// Prompt tokens that the CPU reads at once: enough that reading the weights costs little beside
// multiplying them, few enough that a layer's activations stay in the cache.
constexpr std::int64_t kCpuRows = 128;

const Kernels& find_kernels(const std::string& name) {
  const CpuFeatures features = detect_cpu_features();
  if (name.empty()) return select_kernels(features);
  std::string known;
  for (const Kernels* kernels : available_kernels(features)) {
    if (kernels->name == name) return *kernels;
    known += fmt::format(" {}", kernels->name);
  }
  fail(ErrorCode::kInvalidArgument, "[kernels] \"{}\" is not available here: expected one of{}",
       name, known);
}

std::int64_t checkpoint_bytes(const Checkpoint& checkpoint) {
  std::int64_t bytes = 0;
  for (const auto& [name, tensor] : checkpoint.tensors())
    bytes += tensor.bytes;
  return bytes;
}

}  // namespace

std::string_view to_string(Mode mode) noexcept {
  switch (mode) {
    case Mode::kFloat:
      return "float";
    case Mode::kCpu:
      return "cpu";
    case Mode::kHybrid:
      return "hybrid";
  }
  return "unknown";
}

Mode mode_from_string(const std::string& name) {
  for (const Mode mode : {Mode::kFloat, Mode::kCpu, Mode::kHybrid}) {
    if (name == to_string(mode)) return mode;
  }
  fail(ErrorCode::kInvalidArgument, "[mode] expected \"hybrid\", \"cpu\" or \"float\", got \"{}\"",
       name);
}

LoadedModel::~LoadedModel() = default;

std::unique_ptr<LoadedModel> LoadedModel::open(const fs::path& folder, const LoadOptions& options) {
  std::error_code ignored;  // such as a name too long for the system
  if (!fs::is_directory(folder, ignored)) {
    fail(ErrorCode::kNotFound, "[model] {}: expected the folder of a package or checkpoint",
         folder.string());
  }
  auto model = std::unique_ptr<LoadedModel>(new LoadedModel());
  model->folder_ = folder;
  model->kernels_ = &find_kernels(options.kernels);
  model->pool_ =
      std::make_unique<ThreadPool>(options.threads > 0 ? options.threads : default_threads());
  const fs::path cache = options.cache.value_or(default_cache_folder());
  if (cache.empty()) {
    model->cache_ = std::make_unique<NoPackedCache>();
  } else {
    model->cache_ = std::make_unique<FilePackedCache>(cache, *model->pool_);
  }
  const fs::path generation_path = folder / "generation_config.json";
  model->generation_config_ =
      fs::exists(generation_path) ? read_json_file(generation_path) : Json::object();

  const bool is_package = Package::is_package(folder);
  model->mode_ = options.mode.value_or(is_package ? Mode::kHybrid : Mode::kFloat);
  if ((model->mode_ == Mode::kFloat) == is_package) {
    fail(ErrorCode::kInvalidArgument, "[model] {}: mode {} needs a {}; this is a {}",
         folder.string(), to_string(model->mode_),
         is_package ? "float checkpoint" : "package (see tandem quantize)",
         is_package ? "package" : "float checkpoint");
  }

  std::int64_t chunk = options.chunk;
  const std::string config_path = (folder / "config.json").string();
  if (is_package) {
    const Package package = Package::open(folder, *model->pool_);
    const JsonObject config(package.config(), config_path);
    model->info_ = read_model_info(config, &model->generation_config_);
    model->decode_graph_ = build_graph(config, *package.weights(Phase::kDecode));
    model->decode_file_bytes_ = package.weight_file_bytes(Phase::kDecode);
    model->prefill_file_bytes_ = model->decode_file_bytes_;
    if (model->mode_ == Mode::kHybrid) {
      model->prefill_graph_ = build_graph(config, *package.weights(Phase::kPrefill));
      model->prefill_file_bytes_ = package.weight_file_bytes(Phase::kPrefill);
    }
    if (chunk == 0) chunk = package.chunk();
  } else {
    const Checkpoint checkpoint = Checkpoint::open(folder);
    const JsonObject config(checkpoint.config(), config_path);
    model->info_ = read_model_info(config, &model->generation_config_);
    model->decode_graph_ = build_graph(config, CheckpointWeights(checkpoint));
    model->decode_file_bytes_ = model->prefill_file_bytes_ = checkpoint_bytes(checkpoint);
  }
  if (chunk == 0) chunk = kDefaultChunk;
  if (chunk < 1 || chunk > 4096) {
    fail(ErrorCode::kInvalidArgument, "[model] chunk: expected 1 to 4096 rows, got {}", chunk);
  }

  model->devices_.push_back(std::make_unique<NpuHostDevice>(*model->kernels_, chunk));
  model->devices_.push_back(std::make_unique<CpuDevice>(*model->kernels_));
  const std::vector<const Device*> both = {model->devices_[0].get(), model->devices_[1].get()};
  const std::vector<const Device*> cpu = {model->devices_[1].get()};
  CompileContext context{*model->pool_, *model->cache_, kCpuRows, kCpuRows};
  if (model->prefill_graph_) {
    context.max_rows = context.max_selected = chunk;
    model->prefill_ =
        std::make_unique<Executor>(*model->prefill_graph_, Phase::kPrefill, both, context);
    context.max_rows = context.max_selected = 1;
  } else if (options.chunk > 0) {
    context.max_rows = context.max_selected = chunk;
  }
  model->decode_ = std::make_unique<Executor>(model->decode_graph_, Phase::kDecode, cpu, context);
  model->kv_pool_ =
      std::make_unique<KvPool>(model->info_.layers, model->info_.kv_heads, model->info_.head_dim,
                               model->mode_ == Mode::kFloat ? DType::kF32 : DType::kF16);
  return model;
}

const Tokenizer& LoadedModel::tokenizer() {
  if (!tokenizer_) tokenizer_ = Tokenizer::open(folder_);
  return *tokenizer_;
}

const ChatTemplate& LoadedModel::chat_template() {
  if (!chat_template_) chat_template_ = ChatTemplate::open(folder_);
  return *chat_template_;
}

std::vector<TokenId> LoadedModel::encode_chat(std::string_view user, std::string_view system) {
  OrderedJson messages = OrderedJson::array();
  if (!system.empty()) messages.push_back({{"role", "system"}, {"content", system}});
  messages.push_back({{"role", "user"}, {"content", user}});
  OrderedJson context = {{"messages", std::move(messages)}, {"add_generation_prompt", true}};
  const auto token = [&](const char* key, std::optional<std::int64_t> id) {
    if (id) context[key] = tokenizer().id_to_token(static_cast<TokenId>(*id));
  };
  token("bos_token", info_.bos);
  if (!info_.eos.empty()) token("eos_token", info_.eos.front());
  return tokenizer().encode(chat_template().render(context), {.add_special_tokens = false});
}

void LoadedModel::check_ids(std::span<const TokenId> ids) const {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= info_.vocabulary) {
      fail(ErrorCode::kInvalidArgument, "[model] token {} is {}: expected an id in [0, {})", i,
           ids[i], info_.vocabulary);
    }
  }
}

std::span<const float> LoadedModel::run(Executor& executor, KvSequence& sequence,
                                        std::span<const TokenId> ids,
                                        std::span<const std::int32_t> selected) {
  const auto rows = static_cast<std::int64_t>(ids.size());
  sequence.reserve(rows);
  const SequenceSlice slice{0, rows, sequence.length(), sequence.blocks(), sequence.dtype()};
  const std::span<const float> logits = executor.run(*pool_, ids, {&slice, 1}, selected);
  sequence.advance(rows);
  return logits;
}

std::span<const float> LoadedModel::prefill(KvSequence& sequence, std::span<const TokenId> ids) {
  if (ids.empty()) fail(ErrorCode::kInvalidArgument, "[model] no tokens to read");
  check_ids(ids);
  Executor& executor = prefill_ ? *prefill_ : *decode_;
  const auto run_rows = static_cast<std::size_t>(executor.max_rows());
  std::span<const float> logits;
  for (std::size_t first = 0; first < ids.size(); first += run_rows) {
    const auto part = ids.subspan(first, std::min(run_rows, ids.size() - first));
    const bool last = first + part.size() == ids.size();
    const std::vector<std::int32_t> selected(last ? 1 : 0,
                                             static_cast<std::int32_t>(part.size()) - 1);
    logits = run(executor, sequence, part, selected);
  }
  return logits;
}

void LoadedModel::prefill_all(
    KvSequence& sequence, std::span<const TokenId> ids,
    const std::function<void(std::int64_t, std::span<const float>)>& rows) {
  check_ids(ids);
  Executor& executor = prefill_ ? *prefill_ : *decode_;
  const auto run_rows = static_cast<std::size_t>(executor.max_rows());
  std::vector<std::int32_t> selected;
  for (std::size_t first = 0; first < ids.size(); first += run_rows) {
    const auto part = ids.subspan(first, std::min(run_rows, ids.size() - first));
    selected.clear();
    for (std::size_t row = 0; row < part.size(); ++row)
      selected.push_back(static_cast<std::int32_t>(row));
    rows(static_cast<std::int64_t>(first), run(executor, sequence, part, selected));
  }
}

std::span<const float> LoadedModel::decode(KvSequence& sequence, TokenId id) {
  check_ids({&id, 1});
  constexpr std::int32_t kFirst = 0;
  return run(*decode_, sequence, {&id, 1}, {&kFirst, 1});
}

const Graph& LoadedModel::graph(Phase phase) const noexcept {
  return phase == Phase::kPrefill && prefill_graph_ ? *prefill_graph_ : decode_graph_;
}

const Executor& LoadedModel::executor(Phase phase) const noexcept {
  return phase == Phase::kPrefill && prefill_ ? *prefill_ : *decode_;
}

std::int64_t LoadedModel::block_parameters() const {
  std::int64_t parameters = 0;
  for (const Node& node : decode_graph_.nodes()) {
    if (node.op != Op::kLinear || node.layer < 0) continue;
    const Weight& weight = node.as<LinearAttributes>().weight;
    parameters += output_channels(weight) * input_channels(weight);
  }
  return parameters;
}

std::int64_t LoadedModel::weight_file_bytes(Phase phase) const {
  return phase == Phase::kPrefill ? prefill_file_bytes_ : decode_file_bytes_;
}

}  // namespace tandem
