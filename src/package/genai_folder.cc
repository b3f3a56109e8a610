// Puts the files of such a folder together.
#include "package/genai_folder.h"

#include <set>

#include "base/error.h"
#include "base/version.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/model_files.h"
#include "package/genai_config.h"
#include "package/output_folder.h"
#include "package/package.h"
#include "package/write_package.h"

namespace tandem {
namespace {

constexpr const char* kConfigFile = "genai_config.json";
// Marks the configurations that are written here; ONNX Runtime GenAI skips texts at the top.
constexpr const char* kMark = "tandem";

// Copies the tokenizer and the chat template; returns generation_config.json, or an empty object.
Json copy_texts(const fs::path& source, const fs::path& target, Observer& observer) {
  constexpr const char* kGeneration = "generation_config.json";
  constexpr const char* kTokenizerConfig = "tokenizer_config.json";
  Json generation = Json::object();
  if (Package::is_package(source)) {
    for (const char* name : kFilesBesideWeights)
      if (fs::exists(source / name)) fs::copy_file(source / name, target / name);
    if (fs::exists(source / kGeneration)) generation = read_json_file(source / kGeneration);
  } else {
    const Checkpoint checkpoint = Checkpoint::open(source, {}, observer);
    write_tokenizer(checkpoint, target, observer);
    generation = checkpoint.generation_config();
  }
  // ONNX Runtime GenAI has it in its own configuration, and opens no tokenizer without one.
  fs::remove(target / kGeneration);
  if (!fs::exists(target / kTokenizerConfig))
    write_text_file(target / kTokenizerConfig,
                    Json{{"tokenizer_class", "PreTrainedTokenizerFast"}}.dump(2) + "\n");
  return generation;
}

}  // namespace

OnnxReport write_genai_folder(const fs::path& folder, const GenaiContents& contents,
                              const OnnxOptions& options, Observer& observer) {
  const OnnxReport report = export_model(folder, contents.graph, contents.info, options, observer);
  ModelInfo info = contents.info;
  info.context_length = report.context_length;
  const Json generation = copy_texts(contents.source, folder, observer);
  OrderedJson config =
      make_genai_config(info, generation,
                        {.filename = options.filename,
                         .provider = std::string(options.provider.name),
                         .has_provider_options = options.dialect.has_provider_options,
                         .position_ids = report.position_ids});
  config[kMark] = build_version();
  write_text_file(folder / kConfigFile, config.dump(4) + "\n");
  return report;
}

std::string objection_to_genai_folder(const fs::path& folder) {
  if (!fs::exists(folder / kConfigFile)) return fmt::format("it has no {}", kConfigFile);
  try {
    const Json config = read_json_file(folder / kConfigFile);
    if (!config.is_object() || !config.contains(kMark))
      return fmt::format("its {} was not written by tandem", kConfigFile);
    std::set<std::string> names(kFilesBesideWeights.begin(), kFilesBesideWeights.end());
    const JsonObject object(config, kConfigFile);
    const std::string model = object.child("model").child("decoder").get_string("filename");
    names.insert({kConfigFile, model, model + ".data"});
    return foreign_entry(folder, names);
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace tandem
