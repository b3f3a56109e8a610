// Opening a model: finding its files, detecting their format, and mapping tensor names.
#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <fstream>
#include <utility>

#include "base/error.h"
#include "base/hub_cache.h"
#include "base/printable.h"
#include "checkpoint/gguf/gguf_checkpoint.h"
#include "checkpoint/gguf/gguf_parts.h"
#include "checkpoint/merged_store.h"
#include "checkpoint/mllm_file.h"
#include "checkpoint/other_models.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/torch_file.h"

namespace tandem {
namespace {

constexpr std::string_view kWeight = ".weight";

bool is_f8_weight(const TensorStore& store, const std::string& name) {
  return name.ends_with(kWeight) && store.tensors().at(name).type.starts_with("F8_");
}

// Shards may be in subfolders of the model, never outside it.
bool stays_inside(const fs::path& relative) {
  if (relative.empty() || relative.is_absolute() || !relative.has_filename()) return false;
  for (const fs::path& part : relative)
    if (part == ".." || part.native().find('\0') != std::string::npos) return false;
  return true;
}

std::shared_ptr<const TensorStore> open_safetensors(const fs::path& path) {
  SafetensorsFile file = SafetensorsFile::open(path);
  return std::make_shared<PlainStore>(std::move(file.tensors), true, std::move(file.unread));
}

// A length, followed by a JSON header.
bool looks_like_safetensors(std::span<const std::byte> bytes) {
  return bytes.size() > 8 && bytes[8] == std::byte{'{'};
}

using OpenFile = std::shared_ptr<const TensorStore> (*)(const fs::path&);

// The tensors listed in an index, each read from the shard it is listed under.
class ShardedStore : public TensorStore {
 public:
  ShardedStore(const fs::path& folder, const fs::path& index_path, OpenFile open_shard,
               std::vector<fs::path>& files) {
    const Json json = read_json_file(index_path);
    const JsonObject index = JsonObject(json, index_path.string()).child("weight_map");
    std::map<std::string, std::shared_ptr<const TensorStore>> shards;
    for (const auto& [name, value] : index.json().items()) {
      const std::string shard = index.get_string(name);
      const fs::path path = folder / shard;
      auto opened = shards.find(shard);
      if (opened == shards.end()) {
        if (!stays_inside(shard))
          fail(ErrorCode::kFormat, "[checkpoint] {}: {}: shard \"{}\" is not inside the folder",
               index_path.string(), printable(name), printable(shard));
        if (!fs::is_regular_file(path))
          fail(ErrorCode::kNotFound, "[checkpoint] {}: {}: shard \"{}\" is missing",
               index_path.string(), printable(name), printable(shard));
        opened = shards.emplace(shard, open_shard(path)).first;
        files.push_back(path);
      }
      const TensorStore& store = *opened->second;
      if (const auto tensor = store.tensors().find(name); tensor != store.tensors().end()) {
        tensors_.emplace(name, tensor->second);
      } else if (const auto other = store.unread().find(name); other != store.unread().end()) {
        unread_.emplace(name, other->second);
      } else {
        // Nothing may need it: a tied head, or a buffer that was not saved.
        absent_.emplace(name, fmt::format("{} lists it in shard \"{}\", which does not hold it",
                                          index_path.filename().string(), printable(shard)));
        continue;
      }
      shard_of_.emplace(name, Shard{opened->second, path});
    }
    // What a shard holds counts although the index does not list it, as in transformers.
    for (const auto& [shard, store] : shards) {
      for (const auto& [name, tensor] : store->tensors())
        if (tensors_.emplace(name, tensor).second)
          shard_of_.emplace(name, Shard{store, folder / shard});
    }
  }

  Tensor load(const std::string& name) const override {
    return shard_of_.at(name).store->load(name);
  }
  fs::path file_of(const std::string& name) const override {
    const auto found = shard_of_.find(name);
    return found == shard_of_.end() ? fs::path() : found->second.path;
  }
  std::string listed_but_absent(const std::string& name) const override {
    const auto found = absent_.find(name);
    return found == absent_.end() ? std::string() : found->second;
  }

 private:
  struct Shard {
    std::shared_ptr<const TensorStore> store;
    fs::path path;
  };
  std::map<std::string, Shard> shard_of_;
  // What the index says of the tensors that no shard holds.
  std::map<std::string, std::string> absent_;
};

// A store without shapes, combined with shapes from elsewhere.
class ShapedStore : public TensorStore {
 public:
  ShapedStore(std::shared_ptr<const TensorStore> flat, const std::map<std::string, Shape>& shapes)
      : flat_(std::move(flat)) {
    for (const auto& [name, shape] : shapes) {
      const auto found = flat_->tensors().find(name);
      if (found == flat_->tensors().end() ||
          element_count(found->second.shape) != element_count(shape))
        continue;
      Shape& stored = tensors_.emplace(name, found->second).first->second.shape;
      stored = shape;
      // mllm's int8 codes are transposed.
      if (is_packed_part(*flat_, name)) std::ranges::reverse(stored);
    }
    // The other parts of such a Linear are numbers.
    for (const auto& [name, tensor] : flat_->tensors())
      if (is_packed_part(*flat_, name)) tensors_.emplace(name, tensor);
  }
  Tensor load(const std::string& name) const override {
    return flat_->load_as(name, tensors_.at(name).shape);
  }
  std::optional<Weight> load_weight(const std::string& name, std::int64_t n,
                                    std::int64_t k) const override {
    return flat_->load_weight(name, n, k);
  }

 private:
  std::shared_ptr<const TensorStore> flat_;
};

// The biases that codes of mllm's and their scale stand for.
Tensor scaled(const Tensor& codes, const Tensor& scale, const fs::path& file,
              const std::string& name) {
  if (!is_float(scale.dtype()) || scale.elements() != 1)
    fail(ErrorCode::kFormat, "[checkpoint] {}: {}: expected one float, got {} {}", file.string(),
         name, to_string(scale.dtype()), to_string(scale.shape()));
  std::vector<float> values(static_cast<std::size_t>(codes.elements()));
  if (codes.dtype() == DType::kI32) {
    std::ranges::copy(codes.as<std::int32_t>(), values.begin());
  } else {
    values = codes.to_floats();
  }
  for (float& value : values) value *= scale.to_floats()[0];
  return Tensor::from_floats(values, codes.shape());
}

// The only file in `folder` that ends in `suffix`, or a part of the only model that is split into
// several; an empty path if there is none. Throws kInvalidArgument if there are several.
fs::path only_file(const fs::path& folder, std::string_view suffix) {
  // By the name of the first part, which may be missing.
  std::map<fs::path, fs::path> found;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == suffix && entry.is_regular_file())
      found.emplace(first_gguf_part(entry.path()), entry.path());
  if (found.size() > 1)
    fail(ErrorCode::kInvalidArgument, "[checkpoint] {}: holds {} files {}: name one of them",
         folder.string(), found.size(), suffix);
  return found.empty() ? fs::path() : found.begin()->second;
}

}  // namespace

Checkpoint Checkpoint::open(const fs::path& name, const fs::path& config, Observer& observer) {
  std::error_code ignored;
  const fs::path path = find_model(name);
  Checkpoint checkpoint;
  checkpoint.path_ = path;
  if (fs::is_directory(path, ignored)) {
    checkpoint.folder_ = checkpoint.text_path_ = path;
    checkpoint.open_folder(config);
  } else if (fs::is_regular_file(path, ignored)) {
    checkpoint.folder_ = path.has_parent_path() ? path.parent_path() : fs::path(".");
    checkpoint.text_path_ = checkpoint.folder_;
    checkpoint.open_file(config);
  } else {
    fail(ErrorCode::kNotFound, "[checkpoint] {}: no such file or folder", path.string());
  }
  if (!checkpoint.config_file_.empty())
    checkpoint.packed_ = PackedSettings(checkpoint.config_object(), checkpoint.separate_, observer);
  require_scales(*checkpoint.store_, checkpoint.packed_, path.string());
  return checkpoint;
}

void Checkpoint::merge_lora(const fs::path& adapter) {
  LoraAdapter opened = LoraAdapter::open(adapter);
  for (const char* name : {"tokenizer.json", "tokenizer.model", "vocab.json"})
    if (fs::exists(opened.folder / name)) text_path_ = opened.folder;
  const bool had_head = tensors().contains(kHeadWeight);
  const auto old = tensors().find(kTableWeight);
  const Shape table = old == tensors().end() ? Shape{} : old->second.shape;
  store_ = merge_adapter(store_, std::move(opened), path_.string());
  if (tensors().contains(kHeadWeight) != had_head) config_["tie_word_embeddings"] = false;
  if (!table.empty() && tensors().at(kTableWeight).shape != table && config_.contains("vocab_size"))
    config_["vocab_size"] = tensors().at(kTableWeight).shape[0];
}

JsonObject Checkpoint::config_object() const {
  if (config_file_.empty())
    fail(ErrorCode::kNotFound,
         "[checkpoint] {}: there is no config.json beside it, which says what its tensors make up: "
         "copy it there from the model that the file was made of",
         path_.string());
  return {config_, config_file_.string()};
}

void Checkpoint::read_config(const fs::path& config) {
  config_file_ = config.empty() ? folder_ / "config.json" : config;
  config_ = read_json_file(config_file_);
  config_object();
  separate_ = read_separate_settings(folder_);
  // A configuration named from elsewhere brings the file next to it.
  for (const fs::path& folder : {folder_, config_file_.parent_path()}) {
    const fs::path generation = folder / "generation_config.json";
    if (!fs::exists(generation)) continue;
    generation_config_ = read_json_file(generation);
    break;
  }
}

std::string Checkpoint::packed_base_name() const {
  const auto found = config_.find("quantization_config");
  for (const Json* settings : {found == config_.end() ? nullptr : &*found, &separate_.settings}) {
    if (settings == nullptr || !settings->is_object()) continue;
    const auto name = settings->find("model_file_base_name");
    if (name != settings->end() && name->is_string() && stays_inside(name->get<std::string>()))
      return name->get<std::string>();
  }
  return {};
}

void Checkpoint::open_folder(const fs::path& config) {
  const auto open_whole = [&](const std::string& name, OpenFile open_it) {
    const fs::path file = folder_ / name;
    if (!fs::exists(file)) return false;
    read_config(config);
    store_ = open_it(file);
    weight_files_ = {file};
    return true;
  };
  const auto open_shards = [&](const std::string& name, OpenFile open_it) {
    const fs::path index = folder_ / name;
    if (!fs::exists(index)) return false;
    read_config(config);
    store_ = std::make_shared<ShardedStore>(folder_, index, open_it, weight_files_);
    return true;
  };
  if (open_whole("model.safetensors", open_safetensors) ||
      open_shards("model.safetensors.index.json", open_safetensors) ||
      open_whole("pytorch_model.bin", open_torch_file) ||
      open_shards("pytorch_model.bin.index.json", open_torch_file))
    return;
  if (const fs::path file = only_file(folder_, ".gguf"); !file.empty()) return open_gguf(file);
  if (const fs::path file = only_file(folder_, ".mllm"); !file.empty()) {
    if (!config.empty() || fs::exists(folder_ / "config.json")) read_config(config);
    store_ = open_mllm(file);
    weight_files_ = {file};
    return;
  }
  if (fs::exists(folder_ / "config.json") || !config.empty()) {
    read_config(config);
    if (const std::string base = packed_base_name();
        !base.empty() && (open_whole(base + ".safetensors", open_safetensors) ||
                          open_shards(base + ".safetensors.index.json", open_safetensors) ||
                          open_whole(base + ".bin", open_torch_file)))
      return;
  }
  if (const std::string other = describe_other_model(folder_); !other.empty())
    fail(ErrorCode::kUnsupported, "[checkpoint] {}: {}", folder_.string(), other);
  fail(ErrorCode::kNotFound,
       "[checkpoint] {}: expected config.json with model.safetensors, "
       "model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json or a .mllm "
       "file, or a .gguf file",
       folder_.string());
}

void Checkpoint::open_file(const fs::path& config) {
  if (const std::string other = describe_other_model(path_); !other.empty())
    fail(ErrorCode::kUnsupported, "[checkpoint] {}: {}", path_.string(), other);
  if (is_gguf(path_)) return open_gguf(path_);
  const auto file = MappedFile::open(path_);
  if (looks_like_mllm(file->bytes())) {
    store_ = open_mllm(path_);
  } else if (looks_like_torch_file(file->bytes())) {
    store_ = open_torch_file(path_);
  } else if (looks_like_safetensors(file->bytes())) {
    store_ = open_safetensors(path_);
  } else {
    if (const std::string part = describe_checkpoint_file(path_); !part.empty())
      fail(ErrorCode::kFormat, "[checkpoint] {}: {}", path_.string(), part);
    fail(ErrorCode::kFormat,
         "[checkpoint] {}: expected a safetensors, PyTorch, GGUF or .mllm file, or a folder",
         path_.string());
  }
  if (!config.empty() || fs::exists(folder_ / "config.json")) read_config(config);
  weight_files_ = {path_};
}

void Checkpoint::open_gguf(const fs::path& file) {
  auto [content, files] = open_gguf_parts(file);
  const fs::path& first = files.front();
  config_file_ = text_path_ = first;
  const GgufArchitecture architecture = architecture_of(content, first.string());
  config_ = config_from_gguf(content, architecture, first.string());
  store_ = open_gguf_tensors(std::move(content), architecture, config_object(), first.string());
  weight_files_ = std::move(files);
}

std::string Checkpoint::stored_name(const std::string& name) const {
  if (tensors().contains(name)) return name;
  // Quark's mode "awq" uses this name for float weights, too.
  if (name.ends_with(kWeight)) {
    std::string renamed = name.substr(0, name.size() - kWeight.size()) + ".qweight";
    if (tensors().contains(renamed)) return renamed;
  }
  return {};
}

void Checkpoint::set_shapes(const std::map<std::string, Shape>& shapes) {
  store_ = std::make_shared<ShapedStore>(store_, shapes);
}

std::map<std::string, Shape> Checkpoint::contents() const {
  std::map<std::string, Shape> contents;
  for (const auto& [name, tensor] : tensors()) {
    const bool renamed = name.ends_with(".qweight");
    const std::string module = name.substr(0, name.rfind('.'));
    if (!is_packed_part(*store_, name)) {
      contents.emplace(renamed ? module + std::string(kWeight) : name, tensor.shape);
    } else if (renamed || name.ends_with(kWeight)) {
      contents.emplace(module + std::string(kWeight), packed_shape(*store_, packed_, module));
    }
  }
  return contents;
}

bool Checkpoint::is_weight_file(const fs::path& path) const {
  return std::ranges::any_of(weight_files_, [&](const fs::path& file) {
    std::error_code ignored;
    return fs::equivalent(file, path, ignored);
  });
}

bool Checkpoint::has_mllm_codes() const { return tandem::has_mllm_codes(*store_); }

bool Checkpoint::has(const std::string& name) const {
  return !stored_name(name).empty() || unread().contains(name);
}

fs::path Checkpoint::file_of(const std::string& name) const {
  fs::path file = store_->file_of(name);
  return !file.empty() ? file : weight_files_.empty() ? path_ : weight_files_.front();
}

void Checkpoint::fail_missing(const std::string& name) const {
  if (const auto found = unread().find(name); found != unread().end())
    fail(ErrorCode::kUnsupported,
         "[checkpoint] {}: tensor \"{}\": expected a type that is read here, got {}",
         file_of(name).string(), printable(name), printable(found->second.type));
  std::string reason = store_->listed_but_absent(name);
  std::error_code ignored;
  for (const char* index : {"model.safetensors.index.json", "pytorch_model.bin.index.json"})
    if (fs::is_regular_file(path_, ignored) && fs::exists(folder_ / index, ignored))
      reason = fmt::format("the file is one of several: name their folder, {}", folder_.string());
  fail(ErrorCode::kNotFound, "[checkpoint] {}: tensor \"{}\" is missing{}{}", path_.string(),
       printable(name), reason.empty() ? "" : ": ", reason);
}

Tensor Checkpoint::load(const std::string& name) const {
  const std::string stored = stored_name(name);
  if (stored.empty()) fail_missing(name);
  return store_->load(stored);
}

Tensor Checkpoint::tensor(const std::string& name, const Shape& expected) const {
  const std::string stored = stored_name(name);
  if (stored.empty()) fail_missing(name);
  const Shape& shape = tensors().at(stored).shape;
  const bool flat = !has_shapes() && element_count(shape) == element_count(expected);
  if (shape != expected && !flat)
    fail(ErrorCode::kFormat, "[checkpoint] {}: {}: expected {}, got {}", file_of(stored).string(),
         name, to_string(expected), to_string(shape));
  // 8-bit floats with scales are floats like others, once multiplied.
  if (is_f8_weight(*store_, stored) && is_packed_part(*store_, stored) && expected.size() == 2) {
    const std::string module = name.substr(0, name.size() - kWeight.size());
    const Weight weight = linear(module, expected[0], expected[1]);
    return *std::get<FloatWeight>(weight).rows->stored();
  }
  const Tensor tensor = store_->load_as(stored, expected);
  if (const std::string scale = name + ".scale";
      name.ends_with(".bias") && tensors().contains(scale))
    return scaled(tensor, store_->load(scale), file_of(scale), scale);
  return tensor;
}

bool Checkpoint::is_stored_plainly(const std::string& name, const Shape& shape) const {
  const auto stored = tensors().find(name);
  return stored != tensors().end() && stored->second.shape == shape &&
         !is_packed_part(*store_, name);
}

Weight Checkpoint::linear(const std::string& module, std::int64_t n, std::int64_t k) const {
  const std::string name = module + std::string(kWeight);
  const std::string stored = stored_name(name);
  const auto checked = [&](Weight weight) {
    validate(weight, fmt::format("{}: {}", file_of(stored).string(), name));
    return weight;
  };
  if (is_packed(*store_, module))
    return checked(read_packed_linear(*store_, packed_, module, n, k, file_of(stored).string()));
  if (!stored.empty()) {
    const Shape& shape = tensors().at(stored).shape;
    if (shape == Shape{n, k} || (!has_shapes() && element_count(shape) == n * k)) {
      if (auto weight = store_->load_weight(stored, n, k)) return checked(std::move(*weight));
    }
  }
  Tensor values = tensor(name, {n, k});
  if (values.dtype() != DType::kF32 && values.dtype() != DType::kF16 &&
      values.dtype() != DType::kBF16)
    fail(ErrorCode::kUnsupported,
         "[checkpoint] {}: tensor \"{}\": expected F32, F16 or BF16, got {}",
         file_of(stored).string(), name, to_string(values.dtype()));
  return FloatWeight(std::move(values));
}

float Checkpoint::input_scale(const std::string& module) const {
  return read_packed_input_scale(*store_, module, file_of(module + ".input_scale").string());
}

bool Checkpoint::has_unclipped_input(const std::string& module) const {
  return tandem::has_unclipped_input(*store_, module, file_of(module + ".clip_input").string());
}

}  // namespace tandem
