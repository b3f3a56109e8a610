// A model as published: a configuration and named tensors, in a folder or a single file of any
// supported format.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/observer.h"
#include "checkpoint/packed_linears.h"
#include "checkpoint/tensor_store.h"
#include "tensor/weight.h"

namespace tandem {

class Checkpoint {
 public:
  // Opens a folder: config.json with model.safetensors, or the shards listed in
  // model.safetensors.index.json (a tensor that is not in the shard that the index names counts as
  // missing; shard names may not leave the folder), else pytorch_model.bin or its shards, else the
  // only .gguf file or the parts of the only one that is split, else the only .mllm file. Or opens
  // a single file of any of these formats, detected from its content, with the other parts of a
  // split GGUF; config.json is next to it, except for GGUF, which contains its own. Without a
  // configuration, the tensors of a file can still be read. `config` replaces config.json. A name
  // such as "Qwen/Qwen2.5-0.5B" that is no path is looked up among the downloads of Hugging Face's
  // tools (base/hub_cache.h).
  //
  // The settings of packed Linears are those of quantization_config in config.json, else of
  // AutoGPTQ's quantize_config.json or AutoAWQ's quant_config.json beside it; a folder without any
  // of the files above is opened by the name of its weights there (model_file_base_name).
  // `observer` is warned where the two contradict each other.
  static Checkpoint open(const fs::path& name, const fs::path& config = {},
                         Observer& observer = silent());

  // Merges a LoRA adapter (see LoraAdapter::open()) into the weights, as they are read. Where the
  // adapter changes the vocabulary or unties the head, so does config(); a tokenizer in the
  // adapter's folder takes the place of the checkpoint's. Throws if the adapter doesn't fit.
  void merge_lora(const fs::path& adapter);

  // As given, for messages.
  const fs::path& path() const noexcept { return path_; }
  // The folder of the files.
  const fs::path& folder() const noexcept { return folder_; }
  const Json& config() const noexcept { return config_; }
  // The configuration, for reading; messages name the file it came from. Throws kNotFound if there
  // is none.
  JsonObject config_object() const;
  // generation_config.json in the folder, else next to config.json; an empty object if there is
  // none.
  const Json& generation_config() const noexcept { return generation_config_; }
  // Where the tokenizer and the chat template are: a GGUF file that contains them, else the folder,
  // or that of a merged adapter.
  const fs::path& text_path() const noexcept { return text_path_; }
  const std::vector<fs::path>& weight_files() const noexcept { return weight_files_; }
  // Whether `path` is one of these, under whatever name.
  bool is_weight_file(const fs::path& path) const;

  // The stored tensors by name. For a Linear packed by AWQ, GPTQ or Quark, or in 8-bit
  // floats with scales, these are its parts.
  const std::map<std::string, StoredTensor>& tensors() const noexcept { return store_->tensors(); }
  // Stored tensors whose type is not read here, such as "F4": tensor() and linear() refuse them by
  // name and type, contents() lacks them.
  const std::map<std::string, StoredTensor>& unread() const noexcept { return store_->unread(); }
  // The file that holds the stored tensor `name`, for messages.
  fs::path file_of(const std::string& name) const;
  // False for .mllm version 1, where every shape has one dimension.
  bool has_shapes() const noexcept { return store_->has_shapes(); }
  // Supplies the shapes that an architecture expects of such a file: tensors that are not in
  // `shapes`, or have another number of elements there, are ignored from now on.
  void set_shapes(const std::map<std::string, Shape>& shapes);
  // The elements of a tensor in tensors(), in its own shape.
  Tensor load(const std::string& name) const;

  // True if load() returns the values of what contents() lists as `name` with `shape`; false for
  // what is packed, renamed or without a shape of its own.
  bool is_stored_plainly(const std::string& name, const Shape& shape) const;

  // Every name that tensor() or linear() (with ".weight" added) finds, with its shape: for a packed
  // Linear the matrix, not its parts.
  std::map<std::string, Shape> contents() const;

  // Whether Linears are stored as mllm's int8 codes with a scale each.
  bool has_mllm_codes() const;

  // True for every name that tensor() or linear() (with ".weight" added) finds, packed or not, and
  // for those in unread().
  bool has(const std::string& name) const;
  // Throws kNotFound ("[checkpoint] FOLDER: tensor "x" is missing"), kFormat ("[checkpoint] FILE:
  // x: expected [256, 768], got [768, 256]") or, for a type that is not read here, kUnsupported.
  Tensor tensor(const std::string& name, const Shape& expected) const;
  // The weight of the Linear `module`, [n, k]: float as stored, or quantized if the file holds it
  // in a form that kernels can compute with; any other quantized form, and 8-bit floats, are
  // converted to F16.
  Weight linear(const std::string& module, std::int64_t n, std::int64_t k) const;
  // The static int8 scale of the input of the Linear `module`, if a packed checkpoint has one (see
  // read_packed_input_scale()); else 0.
  float input_scale(const std::string& module) const;
  // See has_unclipped_input().
  bool has_unclipped_input(const std::string& module) const;

 private:
  void open_folder(const fs::path& config);
  void open_file(const fs::path& config);
  void open_gguf(const fs::path& file);
  void read_config(const fs::path& config);
  // The name of the weights, without its ending, that the settings of a packed checkpoint give;
  // empty if they give none.
  std::string packed_base_name() const;
  // For a tensor that is not in tensors().
  [[noreturn]] void fail_missing(const std::string& name) const;
  // The stored name of `name`: itself, or its name from a known writer. Empty if there is none.
  std::string stored_name(const std::string& name) const;

  fs::path path_;
  fs::path folder_;
  // Empty if there is none.
  fs::path config_file_;
  Json config_ = Json::object();
  Json generation_config_ = Json::object();
  fs::path text_path_;
  std::shared_ptr<const TensorStore> store_;
  SeparateSettings separate_;
  PackedSettings packed_;
  std::vector<fs::path> weight_files_;
};

}  // namespace tandem
