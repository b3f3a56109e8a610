// Opens and rotates a configuration's model.
#include "quantize/mllm_tools.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "base/staged_file.h"
#include "checkpoint/checkpoint.h"
#include "models/model.h"
#include "quantize/calibration.h"
#include "quantize/calibration_text.h"
#include "quantize/rotate.h"
#include "quantize/weight_sink.h"

namespace tandem {
namespace {

constexpr std::size_t kDocumentCharacters = 6000;
constexpr const char* kDefaultMatrices = "R.bin";

// A configuration's model: its graph as loaded, and rotated if that is asked for.
class Model {
 public:
  Model(const MllmModelConfig& config, const fs::path& output, Observer& observer)
      : checkpoint_(Checkpoint::open(config.model_name, {}, observer)),
        info_(read_model_info(checkpoint_.config_object(), &checkpoint_.generation_config(),
                              observer)),
        loaded_(build_graph(checkpoint_.config_object(), CheckpointWeights(checkpoint_))),
        graph_(loaded_) {
    if (info_.model_type != config.model_type)
      fail(ErrorCode::kInvalidArgument, "[mllm] model_type: expected \"{}\", as {} is, got \"{}\"",
           info_.model_type, config.model_name.string(), config.model_type);
    if (checkpoint_.is_weight_file(output))
      fail(ErrorCode::kInvalidArgument, "[mllm] {}: is a file of the model: choose another name",
           output.string());
    if (!config.online_rotation) return;
    const RotateSettings settings{.r4 = false};
    if (config.random_rotate) {
      rotations_ = make_rotations(loaded_, settings);
    } else {
      rotations_ = read_rotations(config.r_path.empty() ? kDefaultMatrices : config.r_path);
    }
    sink_.emplace(fs::absolute(output).parent_path());
    graph_ = rotate(loaded_, rotations_, settings, *sink_);
  }

  const Checkpoint& checkpoint() const { return checkpoint_; }
  const ModelInfo& info() const { return info_; }
  const Graph& loaded() const { return loaded_; }
  const Graph& graph() const { return graph_; }
  // Empty of a model that is not rotated.
  const Rotations& rotations() const { return rotations_; }

 private:
  Checkpoint checkpoint_;
  ModelInfo info_;
  Graph loaded_;
  Rotations rotations_;
  std::optional<FileSink> sink_;
  Graph graph_;
};

// A folder of mllm's datasets stands for its validation text.
fs::path find_dataset(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) return path;
  for (const char* name : {"val.jsonl.zst", "val.jsonl"})
    if (fs::exists(path / name, ignored)) return path / name;
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(path))
    if (entry.is_regular_file() && has_json_lines(entry.path())) files.push_back(entry.path());
  if (files.size() == 1) return files.front();
  fail(ErrorCode::kNotFound,
       "[mllm] dataset_path: {}: expected val.jsonl.zst or val.jsonl in this folder, or one file "
       "of JSON lines",
       path.string());
}

// Texts that statistics are made of.
struct Samples {
  // Those that are shorter than others are padded behind, where attention does not look.
  CalibrationWindows windows;
  // Without that.
  std::vector<std::int64_t> lengths;

  std::int64_t count() const { return std::ssize(lengths); }
  std::int64_t tokens() const {
    return std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
  }
};

Samples whole_documents(const fs::path& file, const MllmProfileConfig& config,
                        std::int64_t longest) {
  auto documents = tokenize_documents(file, config.model.tokenizer_name, kDocumentCharacters,
                                      config.num_samples);
  if (documents.empty())
    fail(ErrorCode::kInvalidArgument, "[mllm] dataset_path: {}: expected documents with text",
         file.string());
  Samples samples;
  for (const auto& document : documents)
    samples.lengths.push_back(std::min<std::int64_t>(std::ssize(document), longest));
  samples.windows.window = std::ranges::max(samples.lengths);
  for (auto& document : documents) {
    document.resize(static_cast<std::size_t>(samples.windows.window), document.back());
    samples.windows.ids.insert(samples.windows.ids.end(), document.begin(), document.end());
  }
  return samples;
}

Samples read_samples(const MllmProfileConfig& config, std::optional<std::int64_t> longest,
                     std::int64_t context) {
  const fs::path file = find_dataset(config.dataset_path);
  if (has_json_lines(file))
    return whole_documents(file, config, std::min(longest.value_or(context), context));
  const std::int64_t window = std::min(longest.value_or(CalibrationSettings{}.window), context);
  Samples samples{
      cut_windows(tokenize_text(file, config.model.tokenizer_name), window, config.num_samples),
      {}};
  samples.lengths.resize(static_cast<std::size_t>(samples.windows.tokens() / window), window);
  return samples;
}

}  // namespace

ProfileReport profile_model(const MllmProfileConfig& config, bool is_signed,
                            std::optional<std::int64_t> longest, ThreadPool& pool,
                            Observer& observer) {
  // Before the long-running work, so that a place that can't be written to is reported now.
  StagedFile output(config.output_path);
  const Model model(config.model, config.output_path, observer);
  const Samples samples = read_samples(config, longest, model.info().longest_sequence());
  if (samples.count() < config.num_samples)
    observer.warn(fmt::format("[mllm] {}: has text for {} samples, {} tokens, fewer than {}",
                              config.dataset_path.string(), samples.count(), samples.tokens(),
                              config.num_samples));
  Task task(observer, "profile", model.graph().layers(), "blocks");
  ProfileReport report{profile_activations(model.graph(), samples.windows,
                                           {config.no_bias, is_signed, samples.lengths}, pool,
                                           [&](int, int) { task.advance(); }),
                       samples.count(), samples.tokens()};
  if (config.model.random_rotate && config.model.save_rotation.empty()) {
    observer.warn("[mllm] save_rotation is not given: the matrices are lost");
  } else if (config.model.random_rotate) {
    write_rotations(config.model.save_rotation, model.rotations());
  }
  const std::string text = to_json(report.profile).dump(2) + "\n";
  output.write_at(0, std::as_bytes(std::span(text)));
  output.commit();
  return report;
}

MllmInt8Report export_int8_model(const MllmExportConfig& config, Observer& observer) {
  if (!config.clip_all && !config.clip_threshold)
    fail(ErrorCode::kInvalidArgument,
         "[mllm] export_config: expected \"t01m_clip_threshold\", such as 64, or \"clip_all\"");
  const ActivationProfile profile = read_activation_profile(config.scale_file);
  const Model model(config.model, config.output_model, observer);
  return export_mllm_int8(config, profile, model.checkpoint(), model.loaded(), model.graph(),
                          observer);
}

void export_rotated_model(const MllmExportConfig& config, Observer& observer) {
  const Model model(config.model, config.output_model, observer);
  export_mllm_float(config.output_model, model.checkpoint(), model.loaded(), model.graph(),
                    observer);
}

}  // namespace tandem
