#include "runtime/loaded_model.h"

#include <algorithm>
#include <unordered_set>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/gguf.h"
#include "devices/cpu/cpu_device.h"
#include "devices/npu/npu_device.h"
#include "graph/rotary.h"
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

void check_batch(std::span<KvSequence* const> sequences, std::size_t inputs) {
  if (sequences.size() != inputs) {
    fail(ErrorCode::kInvalidArgument, "[model] {} sequences for tokens of {}", sequences.size(),
         inputs);
  }
  const std::unordered_set<KvSequence*> different(sequences.begin(), sequences.end());
  if (different.size() != sequences.size() || different.contains(nullptr))
    fail(ErrorCode::kInvalidArgument, "[model] the sequences of a batch must differ");
}

std::int64_t checkpoint_bytes(const Checkpoint& checkpoint) {
  std::int64_t bytes = 0;
  for (const auto& [name, tensor] : checkpoint.tensors()) bytes += tensor.bytes;
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
  const bool is_file = fs::is_regular_file(folder, ignored);
  if (!is_file && !fs::is_directory(folder, ignored)) {
    fail(ErrorCode::kNotFound, "[model] {}: expected the folder of a package or checkpoint",
         folder.string());
  }
  auto model = std::unique_ptr<LoadedModel>(new LoadedModel());
  // A GGUF file holds the vocabulary too; beside any other file lies what a folder would hold.
  model->folder_ = is_file && !is_gguf(folder) ? folder.parent_path() : folder;
  model->chat_template_path_ =
      options.chat_template.empty() ? model->folder_ : options.chat_template;
  model->kernels_ = &find_kernels(options.kernels);
  model->pool_ =
      std::make_unique<ThreadPool>(options.threads > 0 ? options.threads : default_threads());
  const fs::path cache = options.cache.value_or(default_cache_folder());
  if (cache.empty()) {
    model->cache_ = std::make_unique<NoPackedCache>();
  } else {
    model->cache_ = std::make_unique<FilePackedCache>(cache, *model->pool_);
  }
  const fs::path generation_path = model->folder_ / "generation_config.json";
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
  if (is_package) {
    const Package package = Package::open(folder, *model->pool_);
    const JsonObject config(package.config(), (folder / "config.json").string());
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
    const JsonObject config = checkpoint.config_object();
    model->info_ = read_model_info(config, &model->generation_config_);
    model->decode_graph_ = build_graph(config, CheckpointWeights(checkpoint));
    model->decode_file_bytes_ = model->prefill_file_bytes_ = checkpoint_bytes(checkpoint);
  }
  if (chunk == 0) chunk = kDefaultChunk;
  if (chunk < 1 || chunk > 4096) {
    fail(ErrorCode::kInvalidArgument, "[model] chunk: expected 1 to 4096 rows, got {}", chunk);
  }

  if (options.batch < 1 || options.batch > 4096) {
    fail(ErrorCode::kInvalidArgument, "[model] batch: expected 1 to 4096 sequences, got {}",
         options.batch);
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
    context.max_rows = context.max_selected = options.batch;
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
  if (chat_template_) return *chat_template_;
  try {
    chat_template_ = ChatTemplate::open(chat_template_path_);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNotFound || chat_template_path_ != folder_) throw;
    fail(ErrorCode::kNotFound,
         "[model] {}: this model has no chat template; name one (--chat-template FILE), or send "
         "the prompt as plain text",
         folder_.string());
  }
  return *chat_template_;
}

OrderedJson LoadedModel::chat_context() {
  OrderedJson context = read_special_tokens(folder_);
  const auto fall_back = [&](const char* key, std::optional<std::int64_t> id) {
    if (id && !context.contains(key))
      context[key] = tokenizer().id_to_token(static_cast<TokenId>(*id));
  };
  fall_back("bos_token", info_.bos);
  if (!info_.eos.empty()) fall_back("eos_token", info_.eos.front());
  fall_back("pad_token", info_.pad);
  return context;
}

std::vector<TokenId> LoadedModel::encode_messages(const OrderedJson& messages,
                                                  const ChatOptions& options) {
  if (!messages.is_array())
    fail(ErrorCode::kInvalidArgument, "[model] messages: expected a list of objects");
  OrderedJson context = chat_context();
  context["documents"] = nullptr;
  context.update(options.variables);
  context["messages"] = messages;
  context["tools"] = options.tools;
  context["add_generation_prompt"] = options.add_generation_prompt;
  const RenderedChat chat = chat_template().render_marked(context);
  EncodeOptions encode{.add_special_tokens = false};
  if (!options.parse_special_tokens) encode.plain = chat.from_chat;
  return tokenizer().encode(chat.text, encode);
}

std::vector<TokenId> LoadedModel::encode_chat(std::string_view user, std::string_view system,
                                              const ChatOptions& options) {
  OrderedJson messages = OrderedJson::array();
  if (!system.empty()) messages.push_back({{"role", "system"}, {"content", system}});
  messages.push_back({{"role", "user"}, {"content", user}});
  return encode_messages(messages, options);
}

void LoadedModel::check_ids(std::span<const TokenId> ids) const {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= info_.vocabulary) {
      fail(ErrorCode::kInvalidArgument, "[model] token {} is {}: expected an id in [0, {})", i,
           ids[i], info_.vocabulary);
    }
  }
}

std::span<const float> LoadedModel::run(Executor& executor, std::span<const Part> parts,
                                        std::span<const std::int32_t> selected) {
  std::vector<TokenId> ids;
  std::vector<SequenceSlice> slices;
  for (const Part& part : parts) {
    KvSequence& sequence = *part.sequence;
    const auto rows = static_cast<std::int64_t>(part.ids.size());
    sequence.reserve(rows);
    slices.push_back({static_cast<std::int64_t>(ids.size()), rows, sequence.length(),
                      sequence.blocks(), sequence.dtype(), part.total});
    ids.insert(ids.end(), part.ids.begin(), part.ids.end());
  }
  const std::span<const float> logits = executor.run(*pool_, ids, slices, selected);
  for (const Part& part : parts) part.sequence->advance(part.ids);
  return logits;
}

void LoadedModel::refresh(KvSequence& sequence, std::int64_t total) {
  const std::int64_t epoch = rotary_epoch(decode_graph_, total);
  if (sequence.rotary_epoch() == epoch) return;
  const std::vector<TokenId> ids(sequence.ids().begin(), sequence.ids().end());
  sequence.rewind(0);
  sequence.begin_epoch(epoch);
  Executor& executor = prefill_ ? *prefill_ : *decode_;
  const auto run_rows = static_cast<std::size_t>(executor.max_rows());
  for (std::size_t first = 0; first < ids.size(); first += run_rows) {
    const std::size_t count = std::min(run_rows, ids.size() - first);
    const Part part{&sequence, std::span(ids).subspan(first, count), total};
    run(executor, {&part, 1}, {});
  }
}

void LoadedModel::read(std::span<KvSequence* const> sequences,
                       std::span<const std::span<const TokenId>> ids, bool every_row,
                       const Rows& rows) {
  check_batch(sequences, ids.size());
  std::vector<std::int64_t> totals;
  for (std::size_t s = 0; s < ids.size(); ++s) {
    check_ids(ids[s]);
    if (ids[s].empty()) fail(ErrorCode::kInvalidArgument, "[model] no tokens to read");
    totals.push_back(sequences[s]->length() + static_cast<std::int64_t>(ids[s].size()));
  }
  for (std::size_t s = 0; s < ids.size(); ++s) refresh(*sequences[s], totals[s]);
  Executor& executor = prefill_ ? *prefill_ : *decode_;
  const auto run_rows = static_cast<std::size_t>(executor.max_rows());
  struct Output {  // logit rows of one run that belong to one sequence
    std::size_t sequence, first, count;
  };
  std::vector<Part> parts;
  std::vector<Output> outputs;
  std::vector<std::int32_t> selected;
  std::size_t s = 0, at = 0;  // the next token to read is ids[s][at]
  while (s < ids.size()) {
    parts.clear();
    outputs.clear();
    selected.clear();
    for (std::size_t row = 0; row < run_rows && s < ids.size();) {
      const std::size_t count = std::min(run_rows - row, ids[s].size() - at);
      parts.push_back({sequences[s], ids[s].subspan(at, count), totals[s]});
      const bool ends = at + count == ids[s].size();
      const std::size_t wanted = every_row ? count : ends ? 1 : 0;
      if (wanted > 0) outputs.push_back({s, at + count - wanted, wanted});
      for (std::size_t i = 0; i < wanted; ++i)
        selected.push_back(static_cast<std::int32_t>(row + count - wanted + i));
      row += count;
      at = ends ? 0 : at + count;
      s += ends ? 1 : 0;
    }
    std::span<const float> logits = run(executor, parts, selected);
    for (const Output& output : outputs) {
      const std::size_t size = output.count * static_cast<std::size_t>(info_.vocabulary);
      rows(output.sequence, static_cast<std::int64_t>(output.first), logits.first(size));
      logits = logits.subspan(size);
    }
  }
}

std::span<const float> LoadedModel::prefill(KvSequence& sequence, std::span<const TokenId> ids) {
  KvSequence* const one = &sequence;
  std::span<const float> last;
  read({&one, 1}, {&ids, 1}, false,
       [&](std::size_t, std::int64_t, std::span<const float> logits) { last = logits; });
  return last;
}

void LoadedModel::prefill_all(
    KvSequence& sequence, std::span<const TokenId> ids,
    const std::function<void(std::int64_t, std::span<const float>)>& rows) {
  KvSequence* const one = &sequence;
  if (ids.empty()) return;
  read({&one, 1}, {&ids, 1}, true,
       [&](std::size_t, std::int64_t first, std::span<const float> run) { rows(first, run); });
}

std::span<const float> LoadedModel::decode(KvSequence& sequence, TokenId id) {
  KvSequence* const one = &sequence;
  return decode_batch({&one, 1}, {&id, 1});
}

std::span<const float> LoadedModel::prefill_batch(std::span<KvSequence* const> sequences,
                                                  std::span<const std::span<const TokenId>> ids) {
  batch_logits_.clear();
  read(sequences, ids, false, [&](std::size_t, std::int64_t, std::span<const float> logits) {
    batch_logits_.insert(batch_logits_.end(), logits.begin(), logits.end());
  });
  return batch_logits_;
}

void LoadedModel::prefill_batch_all(
    std::span<KvSequence* const> sequences, std::span<const std::span<const TokenId>> ids,
    const std::function<void(std::size_t, std::int64_t, std::span<const float>)>& rows) {
  read(sequences, ids, true, rows);
}

std::span<const float> LoadedModel::decode_batch(std::span<KvSequence* const> sequences,
                                                 std::span<const TokenId> ids) {
  check_batch(sequences, ids.size());
  check_ids(ids);
  for (KvSequence* sequence : sequences) refresh(*sequence, sequence->length() + 1);
  const auto run_rows = static_cast<std::size_t>(decode_->max_rows());
  std::vector<Part> parts;
  std::vector<std::int32_t> selected;
  std::span<const float> logits;
  batch_logits_.clear();
  for (std::size_t first = 0; first < ids.size(); first += run_rows) {
    parts.clear();
    selected.clear();
    const std::size_t end = std::min(first + run_rows, ids.size());
    for (std::size_t s = first; s < end; ++s) {
      selected.push_back(static_cast<std::int32_t>(parts.size()));
      parts.push_back({sequences[s], ids.subspan(s, 1), sequences[s]->length() + 1});
    }
    logits = run(*decode_, parts, selected);
    if (ids.size() > run_rows)
      batch_logits_.insert(batch_logits_.end(), logits.begin(), logits.end());
  }
  return ids.size() > run_rows ? std::span<const float>(batch_logits_) : logits;
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
