// Keys, defaults and checks as mllm's scripts have them.
#include "quantize/mllm_config.h"

#include <fmt/format.h>

#include "base/json_reader.h"

namespace tandem {
namespace {

constexpr std::int64_t kMaxSamples = 1 << 20;
constexpr std::int64_t kMaxThreshold = 1 << 20;

class Reader {
 public:
  explicit Reader(const fs::path& path)
      : json_(read_text_file(path), path.string(), "mllm", "configuration") {}

  MllmConfig read() const {
    const Json& root = json_.root();
    json_.require_object(root, "");
    MllmConfig config{read_profile(json_.object(root, "", kProfile)),
                      read_export(json_.object(root, "", kExport))};
    check(config);
    return config;
  }

 private:
  static constexpr const char* kProfile = "profile_config";
  static constexpr const char* kExport = "export_config";

  MllmProfileConfig read_profile(const Json& section) const {
    json_.require_keys(section, kProfile,
                       {"dataset_path", "output_path", "num_samples", "no_bias", "model_config"});
    return {.dataset_path = json_.text(section, kProfile, "dataset_path"),
            .output_path = json_.text(section, kProfile, "output_path"),
            .num_samples = json_.integer(section, kProfile, "num_samples", 2, kMaxSamples),
            .no_bias = json_.flag(section, kProfile, "no_bias"),
            .model = read_model(section, kProfile)};
  }

  MllmExportConfig read_export(const Json& section) const {
    json_.require_keys(section, kExport,
                       {"scale_file", "output_model", "t01m_clip_threshold", "quant_bias",
                        "clip_all", "quantize_vit", "model_config"});
    if (section.contains("quantize_vit"))
      json_.reject(path_of(kExport, "quantize_vit"),
                   "is for models that see images, which are not exported here: leave it out");
    MllmExportConfig config{.scale_file = json_.text(section, kExport, "scale_file"),
                            .output_model = json_.text(section, kExport, "output_model"),
                            .clip_threshold = {},
                            .quant_bias = json_.flag_or(section, kExport, "quant_bias", false),
                            .clip_all = json_.flag_or(section, kExport, "clip_all", false),
                            .model = read_model(section, kExport)};
    if (section.contains("t01m_clip_threshold"))
      config.clip_threshold =
          json_.integer(section, kExport, "t01m_clip_threshold", 1, kMaxThreshold);
    return config;
  }

  MllmModelConfig read_model(const Json& section, const std::string& of) const {
    const std::string path = path_of(of, "model_config");
    const Json& model = json_.object(section, of, "model_config");
    return {.model_type = json_.text(model, path, "model_type"),
            .tokenizer_name = json_.text(model, path, "tokenizer_name"),
            .model_name = json_.text(model, path, "model_name"),
            .online_rotation = json_.flag_or(model, path, "online_rotation", false),
            .random_rotate = json_.flag_or(model, path, "random_rotate", false),
            .save_rotation = json_.text_or(model, path, "save_rotation", ""),
            .r_path = json_.text_or(model, path, "R_path", ""),
            .skip_layers = read_names(model, path, "skip_layers")};
  }

  std::vector<std::string> read_names(const Json& json, const std::string& path,
                                      const char* key) const {
    std::vector<std::string> names;
    if (!json.contains(key)) return names;
    if (!json[key].is_array()) json_.reject(path_of(path, key), "expected a list of names");
    for (const Json& name : json[key]) {
      if (!name.is_string()) json_.reject(path_of(path, key), "expected a list of names");
      names.push_back(name.get<std::string>());
    }
    return names;
  }

  void check(const MllmConfig& config) const {
    const MllmModelConfig& profiled = config.profile.model;
    const MllmModelConfig& exported = config.export_model.model;
    const auto require_same = [&](const char* key, const std::string& a, const std::string& b) {
      if (a != b)
        json_.reject(path_of(path_of(kExport, "model_config"), key),
                     fmt::format("expected \"{}\" as in profile_config, got \"{}\"", a, b));
    };
    require_same("model_type", profiled.model_type, exported.model_type);
    require_same("tokenizer_name", profiled.tokenizer_name, exported.tokenizer_name);
    require_same("model_name", profiled.model_name, exported.model_name);
    check_rotation(profiled, kProfile);
    check_rotation(exported, kExport);
    if (!profiled.online_rotation) return;
    if (!config.profile.no_bias)
      json_.reject(path_of(kProfile, "no_bias"),
                   "expected true, as a rotated model's biases are added behind its scales");
    if (config.export_model.quant_bias)
      json_.reject(path_of(kExport, "quant_bias"), "expected false, as the model is rotated");
  }

  void check_rotation(const MllmModelConfig& model, const std::string& of) const {
    const std::string path = path_of(of, "model_config");
    if (model.random_rotate && !model.r_path.empty())
      json_.reject(path_of(path, "R_path"),
                   "expected it without \"random_rotate\": matrices are either random or read");
    if (model.random_rotate && of == kExport)
      json_.reject(path_of(path, "random_rotate"),
                   "expected \"R_path\": a model is exported with the matrices that it was "
                   "profiled with");
  }

  static std::string path_of(const std::string& path, std::string_view key) {
    return JsonReader::join(path, key);
  }

  JsonReader json_;
};

}  // namespace

MllmConfig read_mllm_config(const fs::path& path) { return Reader(path).read(); }

}  // namespace tandem
