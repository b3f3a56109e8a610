// Opens a package or a checkpoint.
#include "runtime/loaded_model.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "models/model.h"

namespace tandem {
namespace {

void require_same_sizes(const ModelInfo& decode, const ModelInfo& prefill,
                        const fs::path& decode_path, const fs::path& prefill_path) {
  const OrderedJson ours = to_json(decode), theirs = to_json(prefill);
  for (const char* key : {"model_type", "hidden_size", "layers", "heads", "kv_heads", "head_dim",
                          "vocabulary", "context_length"})
    if (ours[key] != theirs[key])
      fail(ErrorCode::kInvalidArgument, "[model] {}: expected the {} of {}, {}, got {}",
           prefill_path.string(), key, decode_path.string(), ours[key].dump(), theirs[key].dump());
}

// The cosine of the angle between the first rows of two weights.
double similarity(const Weight& a, const Weight& b) {
  constexpr std::int64_t kRows = 64;
  const std::int64_t rows = std::min(kRows, output_channels(a));
  const std::vector<float> x = dequantize_rows(a, 0, rows), y = dequantize_rows(b, 0, rows);
  double xx = 0, yy = 0, xy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xx += static_cast<double>(x[i]) * x[i];
    yy += static_cast<double>(y[i]) * y[i];
    xy += static_cast<double>(x[i]) * y[i];
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 1;
}

const Weight* find_linear(const Graph& graph, const std::string& name) {
  const auto found = std::ranges::find_if(
      graph.nodes(), [&](const Node& node) { return node.op == Op::kLinear && node.name == name; });
  return found == graph.nodes().end() ? nullptr : &found->as<LinearAttributes>().weight;
}

// Keys and values that one graph leaves in the cache mean nothing to the other if it was rotated
// otherwise. Rounding to a few bits turns a row by a few degrees, a rotation by 90.
void require_same_values(const Graph& decode, const Graph& prefill, const fs::path& decode_path,
                         const fs::path& prefill_path) {
  constexpr double kLeastSimilar = 0.9;
  for (const Node& node : decode.nodes()) {
    if (node.op != Op::kLinear) continue;
    const Weight* other = find_linear(prefill, node.name);
    const Weight& own = node.as<LinearAttributes>().weight;
    const bool fits = other != nullptr && output_channels(*other) == output_channels(own) &&
                      input_channels(*other) == input_channels(own);
    if (!fits || similarity(own, *other) < kLeastSimilar)
      fail(ErrorCode::kInvalidArgument,
           "[model] {} and {}: {} differs by more than rounding: expected the same model, rotated "
           "by the same matrices or by none",
           decode_path.string(), prefill_path.string(), node.name);
  }
}

}  // namespace

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
  model->open_checkpoint(path, observer);
  return model;
}

void LoadedModel::open_checkpoint(const fs::path& path, Observer& observer) {
  const Checkpoint checkpoint = Checkpoint::open(path, {}, observer);
  const JsonObject config = checkpoint.config_object();
  generation_config_ = checkpoint.generation_config();
  text_path_ = checkpoint.text_path();
  info_ = read_model_info(config, &generation_config_, observer);
  decode_ = build_graph(config, CheckpointWeights(checkpoint));
}

std::shared_ptr<const LoadedModel> LoadedModel::open_pair(const fs::path& decode,
                                                          const fs::path& prefill,
                                                          Observer& observer) {
  auto model = std::shared_ptr<LoadedModel>(new LoadedModel());
  model->path_ = decode;
  model->open_checkpoint(decode, observer);
  LoadedModel other;
  other.open_checkpoint(prefill, observer);
  require_same_sizes(model->info_, other.info_, decode, prefill);
  require_same_values(model->decode_, other.decode_, decode, prefill);
  model->prefill_ = std::move(other.decode_);
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
