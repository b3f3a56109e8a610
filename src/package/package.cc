#include "package/package.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/hash.h"
#include "base/printable.h"

namespace tandem {
namespace {

// Quantized Linears of one phase, and the float tensors that both phases share.
class PackageWeights : public WeightSource {
 public:
  PackageWeights(std::string where, std::map<std::string, Tensor> own,
                 std::map<std::string, Tensor> shared, Json scales, std::int64_t group,
                 std::int64_t head_group)
      : where_(std::move(where)),
        own_(std::move(own)),
        shared_(std::move(shared)),
        scales_(std::move(scales)),
        group_(group),
        head_group_(head_group) {}

  bool has(const std::string& name) const override {
    if (shared_.contains(name)) return true;
    // A quantized Linear stands for its float weight.
    const std::string suffix = ".weight";
    return name.ends_with(suffix) &&
           shared_.contains(name.substr(0, name.size() - suffix.size()) + ".codes");
  }

  Tensor tensor(const std::string& name, const Shape& expected) const override {
    Tensor found = find(shared_, name, expected);
    if (!is_float(found.dtype())) {
      fail(ErrorCode::kFormat, "[package] {}: tensor \"{}\": expected floats, got {}", where_, name,
           to_string(found.dtype()));
    }
    return found;
  }

  Weight linear(const std::string& module, std::int64_t n, std::int64_t k) const override {
    Weight weight;
    if (own_.contains(module + ".codes")) {
      weight = int8(module, n, k);
    } else if (shared_.contains(module + ".codes")) {
      weight = int4(module, n, k);
    } else {
      weight = FloatWeight{find(shared_, module + ".weight", {n, k})};
    }
    validate(weight, fmt::format("{}: {}", where_, module));
    return weight;
  }

 private:
  Tensor find(const std::map<std::string, Tensor>& tensors, const std::string& name,
              const Shape& expected) const {
    const auto found = tensors.find(name);
    if (found == tensors.end())
      fail(ErrorCode::kNotFound, "[package] {}: tensor \"{}\" is missing", where_, name);
    if (found->second.shape() != expected) {
      fail(ErrorCode::kFormat, "[package] {}: tensor \"{}\": expected {}, got {}", where_, name,
           to_string(expected), to_string(found->second.shape()));
    }
    return found->second;
  }

  Weight int8(const std::string& module, std::int64_t n, std::int64_t k) const {
    const auto scale = scales_.find(module);
    if (scale == scales_.end() || !scale->is_object() || !scale->contains("input") ||
        !(*scale)["input"].is_number()) {
      fail(ErrorCode::kFormat, "[package] {}: {}: scales.{}.input is missing or not a number",
           where_, kManifestFile, module);
    }
    const auto input_scale = (*scale)["input"].get<float>();
    if (!std::isfinite(input_scale) || input_scale <= 0) {
      fail(ErrorCode::kFormat,
           "[package] {}: {}: scales.{}.input: expected a number above 0, got {}", where_,
           kManifestFile, module, (*scale)["input"].dump());
    }
    return Int8Channels{n, k, find(own_, module + ".codes", {n, k}),
                        find(own_, module + ".scales", {n}), input_scale};
  }

  Weight int4(const std::string& module, std::int64_t n, std::int64_t k) const {
    const std::int64_t group = module == "lm_head" ? head_group_ : group_;
    if (group < 1) {
      fail(ErrorCode::kFormat, "[package] {}: {} has int4 codes, but its group size is {}", where_,
           module, group);
    }
    if (k % group != 0) {
      fail(ErrorCode::kFormat, "[package] {}: {}: K = {} is not a multiple of the group size {}",
           where_, module, k, group);
    }
    const std::int64_t groups = k / group;
    return Int4Groups{n,
                      k,
                      group,
                      find(shared_, module + ".codes", {n, k / 2}),
                      find(shared_, module + ".scales", {n, groups}),
                      find(shared_, module + ".zero_points", {n, (groups + 1) / 2})};
  }

  std::string where_;
  std::map<std::string, Tensor> own_;
  std::map<std::string, Tensor> shared_;
  Json scales_;
  std::int64_t group_;
  std::int64_t head_group_;
};

// Files are named by the manifest: they must lie in the folder itself.
fs::path listed_file(const fs::path& folder, const std::string& name) {
  if (name.empty() || name.find_first_of(std::string_view("/\0", 2)) != std::string::npos ||
      name == "." || name == "..") {
    fail(ErrorCode::kFormat, "[package] {}: files: \"{}\" is not a plain file name",
         (folder / kManifestFile).string(), printable(name));
  }
  return folder / name;
}

void verify_files(const fs::path& folder, const JsonObject& manifest, ThreadPool& pool) {
  const JsonObject files = manifest.child("files");
  for (const char* needed : {kDecodeFile, kPrefillFile, "config.json"}) {
    if (!files.has(needed)) {
      fail(ErrorCode::kFormat, "[package] {}: \"{}\" is not listed", files.where(), needed);
    }
  }
  for (const auto& [name, entry] : files.json().items()) {
    const fs::path path = listed_file(folder, name);
    const JsonObject expected(entry, fmt::format("{}.{}", files.where(), printable(name)));
    const auto file = MappedFile::open(path);
    const auto bytes = static_cast<std::int64_t>(file->bytes().size());
    if (bytes != expected.get_int("bytes", 0, std::int64_t{1} << 50)) {
      fail(ErrorCode::kFormat,
           "[package] {}: {} bytes, {} were written: the file was cut or changed", path.string(),
           bytes, expected.at("bytes").dump());
    }
    if (content_hash_tree(file->bytes(), pool) != expected.get_string("hash")) {
      fail(ErrorCode::kFormat,
           "[package] {}: content does not match the hash in {}: the file was changed",
           path.string(), kManifestFile);
    }
  }
}

}  // namespace

std::string manifest_hash(Json manifest) {
  manifest.erase("hash");
  return content_hash(manifest.dump());
}

bool Package::is_package(const fs::path& folder) {
  std::error_code ignored;
  return fs::exists(folder / kManifestFile, ignored);
}

Package Package::open(const fs::path& folder, ThreadPool& pool) {
  Package package;
  package.folder_ = folder;
  const fs::path manifest_path = folder / kManifestFile;
  package.manifest_ = read_json_file(manifest_path);
  const JsonObject manifest(package.manifest_, manifest_path.string());
  const std::int64_t format = manifest.get_int("format", 1, 1 << 20);
  if (format != kPackageFormat) {
    fail(ErrorCode::kUnsupported,
         "[package] {}: format {}, this version reads {}: quantize the checkpoint again",
         manifest_path.string(), format, kPackageFormat);
  }
  if (manifest.get_string("hash") != manifest_hash(package.manifest_)) {
    fail(ErrorCode::kFormat,
         "[package] {}: content does not match its own hash: the file was changed",
         manifest_path.string());
  }
  verify_files(folder, manifest, pool);
  package.config_ = read_json_file(folder / "config.json");
  if (fs::exists(folder / "generation_config.json"))
    package.generation_config_ = read_json_file(folder / "generation_config.json");
  package.decode_ = SafetensorsFile::open(folder / kDecodeFile).tensors;
  package.prefill_ = SafetensorsFile::open(folder / kPrefillFile).tensors;
  return package;
}

std::int64_t Package::chunk() const {
  const JsonObject manifest(manifest_, (folder_ / kManifestFile).string());
  return manifest.child("recipe").child("prefill").get_int("chunk", 1, 4096);
}

std::unique_ptr<WeightSource> Package::weights(Phase phase) const {
  const JsonObject manifest(manifest_, (folder_ / kManifestFile).string());
  const JsonObject decode = manifest.child("recipe").child("decode");
  const std::int64_t group = decode.get_int("group_size", 1, 4096);
  const std::int64_t head_group = decode.get_int_or("lm_head_group_size", group, 0, 4096);
  return std::make_unique<PackageWeights>(
      folder_.string(), phase == Phase::kPrefill ? prefill_ : std::map<std::string, Tensor>{},
      decode_, manifest.child("scales").json(), group, head_group);
}

std::int64_t Package::weight_file_bytes(Phase phase) const {
  std::int64_t bytes = 0;
  const auto add = [&](const std::map<std::string, Tensor>& tensors, const auto& counts) {
    for (const auto& [name, tensor] : tensors) {
      if (counts(name)) bytes += static_cast<std::int64_t>(tensor.bytes().size());
    }
  };
  if (phase == Phase::kDecode) {
    add(decode_, [](const std::string&) { return true; });
    return bytes;
  }
  add(prefill_, [](const std::string&) { return true; });
  // Prefill takes from decode's file what it has no own form of: biases too.
  add(decode_, [&](const std::string& name) {
    const std::size_t dot = name.rfind('.');
    if (dot == std::string::npos || name.substr(dot) == ".bias") return true;
    return !prefill_.contains(name.substr(0, dot) + ".codes");
  });
  return bytes;
}

OrderedJson make_genai_config(const ModelInfo& info, const Json& generation) {
  const auto number_or = [&](const char* key, double fallback) {
    const auto found = generation.find(key);
    return found != generation.end() && found->is_number() ? found->get<double>() : fallback;
  };
  // A double beyond the range of an integer must not be converted to one.
  const double top_k = std::clamp(number_or("top_k", 50), 0.0, 2147483647.0);
  const auto sampled = generation.find("do_sample");
  const bool do_sample =
      sampled != generation.end() && sampled->is_boolean() && sampled->get<bool>();

  OrderedJson model;
  if (info.bos) model["bos_token_id"] = *info.bos;
  model["context_length"] = info.context_length;
  model["decoder"] = {
      {"session_options",
       {{"log_id", "onnxruntime-genai"}, {"provider_options", OrderedJson::array()}}},
      {"filename", "model.onnx"},
      {"head_size", info.head_dim},
      {"hidden_size", info.hidden_size},
      {"inputs",
       {{"input_ids", "input_ids"},
        {"attention_mask", "attention_mask"},
        {"past_key_names", "past_key_values.%d.key"},
        {"past_value_names", "past_key_values.%d.value"}}},
      {"outputs",
       {{"logits", "logits"},
        {"present_key_names", "present.%d.key"},
        {"present_value_names", "present.%d.value"}}},
      {"num_attention_heads", info.heads},
      {"num_hidden_layers", info.layers},
      {"num_key_value_heads", info.kv_heads}};
  model["eos_token_id"] =
      info.eos.size() == 1 ? OrderedJson(info.eos.front()) : OrderedJson(info.eos);
  if (info.pad || !info.eos.empty())
    model["pad_token_id"] = info.pad.value_or(info.eos.empty() ? 0 : info.eos.front());
  model["type"] = info.model_type;
  model["vocab_size"] = info.vocabulary;

  OrderedJson search = {{"diversity_penalty", 0.0},
                        {"do_sample", do_sample},
                        {"early_stopping", true},
                        {"length_penalty", 1.0},
                        {"max_length", info.context_length},
                        {"min_length", 0},
                        {"no_repeat_ngram_size", 0},
                        {"num_beams", 1},
                        {"num_return_sequences", 1},
                        {"past_present_share_buffer", true},
                        {"repetition_penalty", number_or("repetition_penalty", 1.0)},
                        {"temperature", number_or("temperature", 1.0)},
                        {"top_k", static_cast<std::int64_t>(top_k)},
                        {"top_p", number_or("top_p", 1.0)}};
  return {{"model", std::move(model)}, {"search", std::move(search)}};
}

}  // namespace tandem
