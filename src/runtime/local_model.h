// A model loaded for generation: the model itself, its engine, and its tokenizer and chat template.
#pragma once

#include <memory>
#include <optional>

#include "base/files.h"
#include "base/observer.h"
#include "runtime/engine.h"
#include "runtime/text_model.h"

namespace tandem {

struct LoadOptions {
  // A checkpoint of the same model that reads the prompts, see LoadedModel::open_pair(); empty: none.
  fs::path prefill_model = {};
  // Replaces the model's own tokenizer, if there is a vocabulary.
  VocabularyFiles vocabulary = {};
  // Default: hybrid for a package or a pair, float for a checkpoint.
  std::optional<Mode> mode = {};
  EngineOptions engine = {};
  // Folder for packed weights and verification records; default: default_cache_folder(); an empty
  // path disables the cache.
  std::optional<fs::path> cache = {};
  // Read and check every byte of a package.
  bool verify = false;
  // Replaces the model's own template; as for ChatTemplate::open().
  fs::path chat_template = {};
};

struct LocalModel {
  LocalModel(std::shared_ptr<const LoadedModel> loaded, const Plan& plan,
             const LoadOptions& options, const EngineOptions& engine_options, Observer& observer)
      : model(std::move(loaded)),
        engine(model, plan, engine_options, observer),
        text(model, options.chat_template, options.vocabulary, observer) {}

  // Opens a package folder, or anything that Checkpoint::open() accepts. The observer must outlive
  // the model.
  static std::unique_ptr<LocalModel> open(const fs::path& name, const LoadOptions& options = {},
                                          Observer& observer = silent());

  const ModelInfo& info() const noexcept { return model->info(); }

  std::shared_ptr<const LoadedModel> model;
  Engine engine;
  TextModel text;
};

}  // namespace tandem
