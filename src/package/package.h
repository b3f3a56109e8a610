// A deployable folder: what the formats of its files are, and how it is opened and verified.
//
//   genai_config.json      for ONNX Runtime GenAI and for us: sizes, token ids, search defaults
//   config.json, generation_config.json, tokenizer.json, tokenizer_config.json,
//   special_tokens_map.json, chat_template.jinja: as in the checkpoint, where it has them
//   decode.safetensors     int4 Linears (NAME.codes, NAME.scales, NAME.zero_points in the layout of
//                          MatMulNBits) and all float tensors under their own names
//   prefill.safetensors    int8 Linears (NAME.codes, NAME.scales); what it shares with decode lies
//                          there
//   tandem.json            recipe, placement, activation scales, versions, content hashes of all
//                          other files and of itself
// model.onnx and prefill.onnx have their place beside these: the safetensors files can be their
// external data.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "base/json.h"
#include "base/thread_pool.h"
#include "checkpoint/safetensors.h"
#include "devices/device.h"
#include "models/model.h"

namespace tandem {

inline constexpr int kPackageFormat = 1;  // raise it when an older reader would misread the folder
inline constexpr const char* kManifestFile = "tandem.json";
inline constexpr const char* kDecodeFile = "decode.safetensors";
inline constexpr const char* kPrefillFile = "prefill.safetensors";

class Package {
 public:
  // Reads and verifies a folder: format, and size and content hash of every file that tandem.json
  // lists. Throws kFormat naming the file ("… was changed after the package was written").
  static Package open(const fs::path& folder, ThreadPool& pool);
  // True if the folder has a tandem.json.
  static bool is_package(const fs::path& folder);

  const fs::path& folder() const noexcept { return folder_; }
  const Json& manifest() const noexcept { return manifest_; }
  const Json& config() const noexcept { return config_; }
  const Json& generation_config() const noexcept { return generation_config_; }
  std::int64_t chunk() const;  // rows of an NPU program

  // Weights of one phase. The source keeps the mapped files alive through its tensors.
  std::unique_ptr<WeightSource> weights(Phase phase) const;
  // Bytes of a phase's weights on disk: its Linears plus the float tensors that it reads whole.
  std::int64_t weight_file_bytes(Phase phase) const;

 private:
  fs::path folder_;
  Json manifest_;
  Json config_;
  Json generation_config_ = Json::object();
  std::map<std::string, Tensor> decode_;
  std::map<std::string, Tensor> prefill_;
};

// What tandem.json says under "hash": the hash of all its other keys, sorted and without spaces, so
// that a change of a scale shows like one of a weight.
std::string manifest_hash(Json manifest);

// genai_config.json for a model: the keys that ONNX Runtime GenAI reads, search defaults from
// generation_config.json (an empty object if the checkpoint has none).
OrderedJson make_genai_config(const ModelInfo& info, const Json& generation_config);

}  // namespace tandem
