// Opens a package or a checkpoint.
#include "runtime/loaded_model.h"

#include "checkpoint/checkpoint.h"
#include "models/model.h"

namespace tandem {

std::shared_ptr<const LoadedModel> LoadedModel::open(const fs::path& path, ThreadPool& pool,
                                                     const PackageOptions& options,
                                                     Observer& observer) {
  auto model = std::shared_ptr<LoadedModel>(new LoadedModel());
  model->path_ = model->text_path_ = path;
  if (Package::is_package(path)) {
    const Package& package = model->package_.emplace(Package::open(path, pool, options));
    model->info_ = package.info();
    model->info_.context_length -= static_cast<std::int64_t>(package.prefix().size());
    model->generation_config_ = package.generation_config();
    model->decode_ = package.graph(Phase::kDecode);
    model->prefill_ = package.graph(Phase::kPrefill);
    return model;
  }
  const Checkpoint checkpoint = Checkpoint::open(path, {}, observer);
  const JsonObject config = checkpoint.config_object();
  model->generation_config_ = checkpoint.generation_config();
  model->text_path_ = checkpoint.text_path();
  model->info_ = read_model_info(config, &model->generation_config_, observer);
  model->decode_ = build_graph(config, CheckpointWeights(checkpoint));
  return model;
}

SearchOptions LoadedModel::recommended_search(Observer& observer) const {
  const fs::path folder = is_package() || fs::is_directory(path_) ? path_ : path_.parent_path();
  return tandem::recommended_search(
      JsonObject(generation_config_, (folder / "generation_config.json").string()), observer);
}

std::int64_t LoadedModel::block_parameters() const {
  std::int64_t parameters = 0;
  for (const Node& node : decode_.nodes()) {
    if (node.op != Op::kLinear || node.layer < 0) continue;
    const Weight& weight = node.as<LinearAttributes>().weight;
    parameters += output_channels(weight) * input_channels(weight);
  }
  return parameters;
}

void LoadedModel::require_unchanged() const {
  if (package_) package_->require_unchanged();
}

}  // namespace tandem
