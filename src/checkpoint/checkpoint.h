// A model folder as published: config.json, weights in one file or in shards, whatever lies beside
// them.
#pragma once

#include <map>
#include <string>

#include "base/json.h"
#include "tensor/tensor.h"

namespace tandem {

class Checkpoint {
 public:
  // Reads FOLDER/config.json and model.safetensors, or the shards named by
  // model.safetensors.index.json (every name in the index must be in the shard that it names; shard
  // names may not leave the folder).
  static Checkpoint open(const fs::path& folder);

  const fs::path& folder() const noexcept { return folder_; }
  const Json& config() const noexcept { return config_; }
  const std::map<std::string, Tensor>& tensors() const noexcept { return tensors_; }
  std::vector<fs::path> weight_files() const { return weight_files_; }

  bool has(const std::string& name) const { return tensors_.contains(name); }
  // Throws kNotFound ("[checkpoint] FOLDER: tensor "x" is missing") or kFormat ("… expected [256,
  // 768], got [768, 256]").
  const Tensor& tensor(const std::string& name, const Shape& expected) const;

 private:
  fs::path folder_;
  Json config_;
  std::map<std::string, Tensor> tensors_;
  std::vector<fs::path> weight_files_;
};

}  // namespace tandem
