// Opening a model folder.
#include "checkpoint/checkpoint.h"

#include <utility>

#include "base/error.h"
#include "base/printable.h"
#include "checkpoint/safetensors.h"

namespace tandem {
namespace {

// Shards may lie in folders below the model's, never outside.
bool stays_inside(const fs::path& relative) {
  if (relative.empty() || relative.is_absolute() || !relative.has_filename()) return false;
  for (const fs::path& part : relative)
    if (part == ".." || part.native().find('\0') != std::string::npos) return false;
  return true;
}

struct Weights {
  std::map<std::string, Tensor> tensors;
  std::vector<fs::path> files;
};

Weights read_shards(const fs::path& folder, const fs::path& index_path) {
  const Json json = read_json_file(index_path);
  const JsonObject index = JsonObject(json, index_path.string()).child("weight_map");
  Weights weights;
  std::map<std::string, std::map<std::string, Tensor>> shards;
  for (const auto& [name, value] : index.json().items()) {
    const std::string shard = index.get_string(name);
    auto opened = shards.find(shard);
    if (opened == shards.end()) {
      if (!stays_inside(shard))
        fail(ErrorCode::kFormat, "[checkpoint] {}: {}: shard \"{}\" is not inside the folder",
             index_path.string(), printable(name), printable(shard));
      const fs::path path = folder / shard;
      if (!fs::exists(path))
        fail(ErrorCode::kNotFound, "[checkpoint] {}: {}: shard \"{}\" is missing",
             index_path.string(), printable(name), printable(shard));
      opened = shards.emplace(shard, SafetensorsFile::open(path).tensors).first;
      weights.files.push_back(path);
    }
    const auto tensor = opened->second.find(name);
    if (tensor == opened->second.end())
      fail(ErrorCode::kFormat, "[checkpoint] {}: {}: is not in shard \"{}\"", index_path.string(),
           printable(name), printable(shard));
    weights.tensors.emplace(name, tensor->second);
  }
  return weights;
}

}  // namespace

Checkpoint Checkpoint::open(const fs::path& folder) {
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored))
    fail(ErrorCode::kNotFound, "[checkpoint] {}: no such folder", folder.string());
  Checkpoint checkpoint;
  checkpoint.folder_ = folder;
  checkpoint.config_ = read_json_file(folder / "config.json");
  JsonObject(checkpoint.config_, (folder / "config.json").string());

  const fs::path whole = folder / "model.safetensors";
  const fs::path index = folder / "model.safetensors.index.json";
  if (fs::exists(whole)) {
    checkpoint.tensors_ = SafetensorsFile::open(whole).tensors;
    checkpoint.weight_files_ = {whole};
  } else if (fs::exists(index)) {
    Weights weights = read_shards(folder, index);
    checkpoint.tensors_ = std::move(weights.tensors);
    checkpoint.weight_files_ = std::move(weights.files);
  } else {
    fail(ErrorCode::kNotFound,
         "[checkpoint] {}: expected model.safetensors or model.safetensors.index.json",
         folder.string());
  }
  return checkpoint;
}

const Tensor& Checkpoint::tensor(const std::string& name, const Shape& expected) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end())
    fail(ErrorCode::kNotFound, "[checkpoint] {}: tensor \"{}\" is missing", folder_.string(), name);
  if (found->second.shape() != expected)
    fail(ErrorCode::kFormat, "[checkpoint] {}: {}: expected {}, got {}", folder_.string(), name,
         to_string(expected), to_string(found->second.shape()));
  return found->second;
}

}  // namespace tandem
