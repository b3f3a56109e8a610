// A deployable folder: the formats of its files, and how it is opened and verified.
//
//   graph.json             the graph of each phase, "prefill" and "decode" (graph/graph_json.h);
//                          tensors are named FILE:TENSOR
//   decode.safetensors     the tensors of the decode graph
//   prefill.safetensors    those tensors of the prefill graph that are not in the decode graph
//   tandem.json            the model's sizes and token ids, the recipe, the ids of a prefix, versions,
//                          content hashes of all other files and of itself
//   genai_config.json      for ONNX Runtime GenAI: sizes, token ids, search defaults
//   config.json, generation_config.json, tokenizer.json, tokenizer_config.json,
//   special_tokens_map.json, chat_template.jinja: as in the checkpoint, where it has them
// model.onnx and prefill.onnx can be added to these, with the safetensors files as their external
// data.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/thread_pool.h"
#include "devices/device.h"
#include "graph/model_info.h"

namespace tandem {

// Increment it when an older reader would misread the folder.
inline constexpr int kPackageFormat = 2;
// Of a package with a prefix.
inline constexpr int kPackageFormatWithPrefix = 3;
inline constexpr const char* kManifestFile = "tandem.json";
inline constexpr const char* kGraphFile = "graph.json";
inline constexpr const char* kDecodeFile = "decode.safetensors";
inline constexpr const char* kPrefillFile = "prefill.safetensors";

struct PackageOptions {
  // Folder that records which files were verified; if empty, they are hashed at every opening.
  fs::path cache = {};
  // Read and check every byte, whatever is recorded.
  bool verify = false;
};

class Package {
 public:
  // Opens a folder and verifies it: format, size and content hash of every file listed in
  // tandem.json. Files stay mapped, so that what was verified is what is used. Throws kFormat
  // naming the file ("… was changed after the package was written"), kUnsupported for another
  // format.
  static Package open(const fs::path& folder, ThreadPool& pool, const PackageOptions& options = {});
  // True if the folder has a tandem.json.
  static bool is_package(const fs::path& folder);

  const fs::path& folder() const noexcept { return folder_; }
  const Json& manifest() const noexcept { return manifest_; }
  const ModelInfo& info() const noexcept { return info_; }
  // An empty object if there is none.
  const Json& generation_config() const noexcept { return generation_config_; }
  // Rows per run of an NPU program.
  std::int64_t chunk() const noexcept { return chunk_; }
  // Tokens that every sequence begins with; usually none. Fewer than the context has, of the
  // vocabulary.
  std::span<const std::int32_t> prefix() const noexcept { return prefix_; }
  // By reference, FILE:TENSOR; mapped.
  const std::map<std::string, Tensor>& tensors() const noexcept { return tensors_; }

  // The graph of a phase, its tensors mapped. Throws kFormat naming the location in graph.json.
  Graph graph(Phase phase) const;
  // Throws kFormat if a file of the folder is no longer the one that was verified, judging by its
  // stamp.
  void require_unchanged() const;

 private:
  void read_prefix(const JsonObject& manifest);
  void open_files(const JsonObject& manifest, ThreadPool& pool, const PackageOptions& options);
  Json read_json(const char* name) const;

  fs::path folder_;
  Json manifest_;
  ModelInfo info_;
  Json generation_config_ = Json::object();
  Json graphs_;
  std::int64_t chunk_ = 0;
  std::vector<std::int32_t> prefix_;
  std::map<std::string, std::shared_ptr<const MappedFile>> files_;
  std::map<std::string, Tensor> tensors_;
};

// The value of "hash" in tandem.json: the hash of all its other keys, sorted and without spaces, so
// that a changed setting is detected like a changed weight.
std::string manifest_hash(Json manifest);

// Total size of a graph's tensors, each counted once: the bytes that a phase reads.
std::int64_t tensor_bytes(const Graph& graph);

}  // namespace tandem
