// A model as published: a configuration and named tensors, in a folder or a file of any format that
// is read here.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "checkpoint/packed_linears.h"
#include "checkpoint/tensor_store.h"
#include "tensor/weight.h"

namespace tandem {

class Checkpoint {
 public:
  // A folder: config.json with model.safetensors, or the shards named by
  // model.safetensors.index.json (every name in the index must be in the shard that it names; shard
  // names may not leave the folder), else pytorch_model.bin or its shards, else its only .gguf
  // file, else its only .mllm file. Or one file of any of these formats, told by its content;
  // config.json lies beside it, except for GGUF, which holds its own. Without one the tensors of a
  // file can be read all the same. `config` replaces config.json.
  static Checkpoint open(const fs::path& path, const fs::path& config = {});

  const fs::path& path() const noexcept { return path_; }      // as given: for messages
  const fs::path& folder() const noexcept { return folder_; }  // of files that lie beside it
  const Json& config() const noexcept { return config_; }
  // The configuration for reading; messages name the file that it came from. kNotFound if there is
  // none.
  JsonObject config_object() const;
  // generation_config.json beside config.json; an empty object where there is none.
  const Json& generation_config() const noexcept { return generation_config_; }
  // Where the tokenizer and the chat template are: a GGUF that holds them, else the folder.
  const fs::path& text_path() const noexcept { return text_path_; }
  const std::vector<fs::path>& weight_files() const noexcept { return weight_files_; }

  // What the files hold, by name. Of a Linear packed by AWQ, GPTQ or Quark these are the parts.
  const std::map<std::string, StoredTensor>& tensors() const noexcept { return store_->tensors(); }
  // False for .mllm of version 1, where every shape has one dimension.
  bool has_shapes() const noexcept { return store_->has_shapes(); }
  // What an architecture knows of such a file: tensors that are not in `shapes`, or have another
  // number of elements there, are left out from now on.
  void set_shapes(const std::map<std::string, Shape>& shapes);
  // The elements of a tensor in tensors(), in its own shape.
  Tensor load(const std::string& name) const;

  // Every name that tensor() or linear() (with ".weight" added) finds, with its shape: of a packed
  // Linear the matrix and none of its parts.
  std::map<std::string, Shape> contents() const;

  // True for every name that tensor() or linear() (with ".weight" added) finds, packed or not.
  bool has(const std::string& name) const;
  // Throws kNotFound ("[checkpoint] FOLDER: tensor "x" is missing") or kFormat ("… expected [256,
  // 768], got [768, 256]").
  Tensor tensor(const std::string& name, const Shape& expected) const;
  // The weight of the Linear `module`, [n, k]: float as in the file, or quantized where the file
  // holds it in a form that can be computed with; every other quantized form as F16.
  Weight linear(const std::string& module, std::int64_t n, std::int64_t k) const;

 private:
  void open_folder(const fs::path& config);
  void open_file(const fs::path& config);
  void open_gguf(const fs::path& file);
  void read_config(const fs::path& config);
  // The stored name of `name`: itself, or what a known writer calls it. Empty if there is none.
  std::string stored_name(const std::string& name) const;

  fs::path path_;
  fs::path folder_;
  fs::path config_file_;  // empty if there is none
  Json config_ = Json::object();
  Json generation_config_ = Json::object();
  fs::path text_path_;
  std::shared_ptr<const TensorStore> store_;
  PackedSettings packed_;
  std::vector<fs::path> weight_files_;
};

}  // namespace tandem
