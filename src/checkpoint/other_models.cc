// Tells adapters, ONNX models, packages and their files by the names of the files beside them.
#include "checkpoint/other_models.h"

#include <fmt/format.h>

#include "base/json.h"
#include "base/printable.h"

namespace tandem {
namespace {

constexpr const char* kAdapterConfig = "adapter_config.json";
// As package/package.h names it.
constexpr const char* kPackageManifest = "tandem.json";

std::string describe_adapter(const fs::path& config) {
  const Json json = read_json_file(config);
  const auto base = json.is_object() ? json.find("base_model_name_or_path") : json.end();
  const bool named = json.is_object() && base != json.end() && base->is_string();
  return fmt::format(
      "is a LoRA adapter, expected a whole model: merge it into its base model{} first (tandem "
      "quantize BASE --lora ADAPTER, or PEFT's merge_and_unload() and save_pretrained())",
      named ? " \"" + printable(base->get<std::string>()) + "\"" : "");
}

std::string describe_onnx(const char* what) {
  return fmt::format(
      "is {}, whose weights are not read here: name the checkpoint that it was made from", what);
}

bool holds(const fs::path& folder, const char* suffix) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored))
    if (entry.path().extension() == suffix) return true;
  return false;
}

fs::path folder_of(const fs::path& file) {
  return file.has_parent_path() ? file.parent_path() : fs::path(".");
}

}  // namespace

std::string describe_other_model(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    if (fs::exists(path / kPackageManifest, ignored))
      return "is a tandem package, expected a checkpoint: name the one that it was made from";
    if (fs::exists(path / kAdapterConfig, ignored)) return describe_adapter(path / kAdapterConfig);
    if (holds(path, ".onnx"))
      return describe_onnx(fs::exists(path / "genai_config.json", ignored)
                               ? "a model of ONNX Runtime GenAI"
                               : "an ONNX model");
    return {};
  }
  const fs::path folder = folder_of(path);
  if (fs::exists(folder / kPackageManifest, ignored))
    return fmt::format("is a file of a tandem package: name its folder, {}", folder.string());
  const std::string name = path.filename().string();
  if (name.starts_with("adapter_") && fs::exists(folder / kAdapterConfig, ignored))
    return describe_adapter(folder / kAdapterConfig);
  if (path.extension() == ".onnx") return describe_onnx("an ONNX model");
  return {};
}

std::string describe_checkpoint_file(const fs::path& file) {
  std::error_code ignored;
  const fs::path folder = folder_of(file);
  if (!fs::exists(folder / "config.json", ignored)) return {};
  return fmt::format("is no file of weights: name the folder of the checkpoint, {}",
                     folder.string());
}

}  // namespace tandem
