#include "package/build_package.h"

#include <fnmatch.h>

#include <algorithm>

#include "base/error.h"
#include "base/hash.h"
#include "base/printable.h"
#include "base/progress.h"
#include "base/version.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf/gguf.h"
#include "checkpoint/model_files.h"
#include "devices/cpu/cpu_device.h"
#include "devices/npu/npu_device.h"
#include "devices/placement.h"
#include "package/output_folder.h"
#include "package/package.h"
#include "quantize/calibration.h"
#include "quantize/rtn.h"
#include "text/tokenizer/tokenizer.h"
#include "text/tokenizer/tokenizer_files.h"

namespace tandem {
namespace {

// The configuration, the tokenizer and the chat template. What lies in a GGUF becomes files, and a
// tokenizer under another name the tokenizer.json that it stands for.
void write_texts(const Checkpoint& checkpoint, const fs::path& target) {
  const bool is_gguf = !fs::is_directory(checkpoint.text_path());
  const auto copy = [&](const char* name) {
    if (!is_gguf && fs::exists(checkpoint.folder() / name))
      fs::copy_file(checkpoint.folder() / name, target / name);
  };
  copy("config.json");
  for (const char* name : kFilesBesideWeights) copy(name);
  if (!fs::exists(target / "config.json"))
    write_text_file(target / "config.json", checkpoint.config().dump(2) + "\n");
  const fs::path tokenizer = find_tokenizer(checkpoint.text_path());
  if (!fs::exists(target / tokenizer.filename()))
    write_text_file(target / "tokenizer.json", read_tokenizer(tokenizer).dump(1) + "\n");
  if (!is_gguf) return;
  const Json metadata = GgufFile::open(checkpoint.text_path()).metadata;
  const auto found = metadata.find("tokenizer.chat_template");
  if (found != metadata.end() && found->is_string())
    write_text_file(target / "chat_template.jinja", found->get<std::string>());
}

bool is_excluded(const Recipe& recipe, const std::string& module) {
  return std::any_of(recipe.exclude.begin(), recipe.exclude.end(), [&](const std::string& pattern) {
    return ::fnmatch(pattern.c_str(), module.c_str(), 0) == 0;
  });
}

// What a builder reads, under the names by which it asks: a package keeps these tensors, whatever
// the checkpoint calls them, and no others.
class RecordedWeights : public WeightSource {
 public:
  explicit RecordedWeights(const WeightSource& weights) : weights_(weights) {}

  bool has(const std::string& tensor) const override { return weights_.has(tensor); }
  Tensor tensor(const std::string& name, const Shape& expected) const override {
    return tensors_[name] = weights_.tensor(name, expected);
  }
  Weight linear(const std::string& module, std::int64_t n, std::int64_t k) const override {
    Weight weight = weights_.linear(module, n, k);
    const auto* floats = std::get_if<FloatWeight>(&weight);
    if (floats == nullptr)
      fail(ErrorCode::kUnsupported,
           "[quantize] {}: is {} already: expected float weights, from which every form is made",
           module, describe(weight));
    tensors_[module + ".weight"] = floats->values;
    return weight;
  }

  const std::map<std::string, Tensor>& tensors() const noexcept { return tensors_; }

 private:
  const WeightSource& weights_;
  mutable std::map<std::string, Tensor> tensors_;
};

// One Linear of the model and what becomes of it.
struct PlannedLinear {
  std::string module;
  Tensor weight;                // float, mapped
  std::int64_t int4_group = 0;  // 0: stays float
  bool int8 = false;            // has a static int8 form for prefill
};

std::vector<PlannedLinear> plan_linears(const Graph& graph, const Recipe& recipe) {
  std::vector<PlannedLinear> linears;
  for (const Node& node : graph.nodes()) {
    if (node.op != Op::kLinear) continue;
    PlannedLinear linear{node.name,
                         std::get<FloatWeight>(node.as<LinearAttributes>().weight).values};
    const bool in_block = node.layer >= 0;
    if (!is_excluded(recipe, node.name)) {
      linear.int4_group = in_block ? recipe.group_size : recipe.lm_head_group_size;
      linear.int8 = in_block;
    }
    if (linear.int4_group > 0 && linear.weight.dim(1) % linear.int4_group != 0) {
      fail(ErrorCode::kInvalidArgument,
           "[quantize] {}: K = {} is not a multiple of the group size {}: choose another group "
           "size or exclude it",
           node.name, linear.weight.dim(1), linear.int4_group);
    }
    linears.push_back(std::move(linear));
  }
  return linears;
}

void write_decode(const fs::path& path, const std::map<std::string, Tensor>& tensors,
                  const std::vector<PlannedLinear>& linears, ThreadPool& pool,
                  const std::function<void()>& written) {
  std::vector<SafetensorsWriter::Entry> entries;
  const auto quantized = [&](const std::string& tensor) {
    return std::any_of(linears.begin(), linears.end(), [&](const PlannedLinear& linear) {
      return linear.int4_group > 0 && tensor == linear.module + ".weight";
    });
  };
  for (const auto& [name, tensor] : tensors) {
    if (!quantized(name)) entries.push_back({name, tensor.dtype(), tensor.shape()});
  }
  const std::size_t float_tensors = entries.size();
  for (const PlannedLinear& linear : linears) {
    if (linear.int4_group == 0) continue;
    const std::int64_t n = linear.weight.dim(0);
    const std::int64_t groups = linear.weight.dim(1) / linear.int4_group;
    entries.push_back({linear.module + ".codes", DType::kU8, {n, linear.weight.dim(1) / 2}});
    entries.push_back({linear.module + ".scales", DType::kF16, {n, groups}});
    entries.push_back({linear.module + ".zero_points", DType::kU8, {n, (groups + 1) / 2}});
  }
  SafetensorsWriter writer(path, entries);
  for (std::size_t i = 0; i < float_tensors; ++i) {
    writer.write(entries[i].name, tensors.at(entries[i].name).bytes());
  }
  for (const PlannedLinear& linear : linears) {
    if (linear.int4_group > 0) {
      const Int4Groups weight =
          quantize_uint4_per_group(linear.weight, linear.int4_group, linear.module, pool);
      writer.write(linear.module + ".codes", weight.codes.bytes());
      writer.write(linear.module + ".scales", weight.scales.bytes());
      writer.write(linear.module + ".zero_points", weight.zero_points.bytes());
    }
    written();
  }
  writer.finish();
}

void write_prefill(const fs::path& path, const std::vector<PlannedLinear>& linears,
                   ThreadPool& pool, const std::function<void()>& written) {
  std::vector<SafetensorsWriter::Entry> entries;
  for (const PlannedLinear& linear : linears) {
    if (!linear.int8) continue;
    entries.push_back({linear.module + ".codes", DType::kI8, linear.weight.shape()});
    entries.push_back({linear.module + ".scales", DType::kF32, {linear.weight.dim(0)}});
  }
  SafetensorsWriter writer(path, entries);
  for (const PlannedLinear& linear : linears) {
    if (linear.int8) {
      const Int8Channels weight = quantize_int8_per_channel(linear.weight, linear.module, pool);
      writer.write(linear.module + ".codes", weight.codes.bytes());
      writer.write(linear.module + ".scales", weight.scales.bytes());
    }
    written();
  }
  writer.finish();
}

// Static scale of each Linear's input: a code of 127 stands for the bound that the recipe's rule
// takes.
OrderedJson activation_scales(const std::vector<PlannedLinear>& linears,
                              const std::map<std::string, InputStatistics>& statistics,
                              const std::string& rule) {
  OrderedJson scales = OrderedJson::object();
  for (const PlannedLinear& linear : linears) {
    if (!linear.int8) continue;
    const InputStatistics& input = statistics.at(linear.module);
    const float bound = rule == "max"          ? input.max
                        : rule == "percentile" ? input.percentile
                                               : input.least_error;
    scales[linear.module] = {{"input", std::max(bound, 1e-6f) / 127.0f},
                             {"max", input.max},
                             {"percentile_99_9", input.percentile},
                             {"least_error", input.least_error}};
  }
  return scales;
}

OrderedJson placement_json(const Graph& graph, const Placement& placement) {
  OrderedJson rows = OrderedJson::array();
  for (std::size_t i = 0; i < graph.nodes().size(); ++i) {
    rows.push_back({{"node", graph.nodes()[i].name},
                    {"operator", to_string(graph.nodes()[i].op)},
                    {"device", placement.devices[placement.nodes[i].device]},
                    {"reason", placement.nodes[i].reason}});
  }
  return rows;
}

// What runs where in each phase, from the graphs that the written files give.
OrderedJson placements(const Package& package) {
  const Kernels& kernels = select_kernels(detect_cpu_features());
  const CpuDevice cpu(kernels);
  const NpuHostDevice npu(kernels, package.chunk());
  const JsonObject config(package.config(), (package.folder() / "config.json").string());
  OrderedJson result;
  for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) {
    const auto weights = package.weights(phase);
    const Graph graph = build_graph(config, *weights);
    const std::vector<const Device*> devices = {&npu, &cpu};
    result[std::string(to_string(phase))] = placement_json(graph, place(graph, phase, devices));
  }
  return result;
}

OrderedJson file_list(const fs::path& folder, ThreadPool& pool) {
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename() != kManifestFile) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  OrderedJson files = OrderedJson::object();
  for (const fs::path& path : paths) {
    const auto file = MappedFile::open(path);
    files[path.filename().string()] = {{"bytes", file->bytes().size()},
                                       {"hash", content_hash_tree(file->bytes(), pool)}};
  }
  return files;
}

// With the hash of what it says; a file name that is no UTF-8 is kept as far as JSON can.
void write_manifest(const fs::path& folder, OrderedJson& manifest) {
  manifest.erase("hash");
  const auto text = [&] {
    return manifest.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
  };
  manifest["hash"] = manifest_hash(parse_json(text(), kManifestFile));
  write_text_file(folder / kManifestFile, text());
}

// A pattern that matches nothing is a slip of the pen, whose result would surprise.
void check_patterns(const Recipe& recipe, const std::vector<PlannedLinear>& linears) {
  for (const std::string& pattern : recipe.exclude) {
    const bool used = std::any_of(linears.begin(), linears.end(), [&](const PlannedLinear& linear) {
      return ::fnmatch(pattern.c_str(), linear.module.c_str(), 0) == 0;
    });
    if (!used) {
      fail(ErrorCode::kInvalidArgument,
           "[quantize] exclude: \"{}\" matches no module; modules are named like \"{}\"",
           printable(pattern), linears.empty() ? "" : linears.front().module);
    }
  }
}

void check(const Recipe& recipe) {
  const auto group_ok = [](std::int64_t group) {
    return group == 32 || group == 64 || group == 128;
  };
  if (!group_ok(recipe.group_size)) {
    fail(ErrorCode::kInvalidArgument, "[quantize] group size: expected 32, 64 or 128, got {}",
         recipe.group_size);
  }
  if (recipe.lm_head_group_size != 0 && !group_ok(recipe.lm_head_group_size)) {
    fail(ErrorCode::kInvalidArgument,
         "[quantize] group size of lm_head: expected 0, 32, 64 or 128, got {}",
         recipe.lm_head_group_size);
  }
  if (recipe.input_scale != "least_error" && recipe.input_scale != "max" &&
      recipe.input_scale != "percentile") {
    fail(ErrorCode::kInvalidArgument,
         "[quantize] input scale: expected \"least_error\", \"max\" or \"percentile\", got \"{}\"",
         recipe.input_scale);
  }
  if (recipe.chunk < 1 || recipe.chunk > 4096) {
    fail(ErrorCode::kInvalidArgument, "[quantize] chunk: expected 1 to 4096 rows, got {}",
         recipe.chunk);
  }
}

}  // namespace

BuildReport build_package(const fs::path& checkpoint_path, const fs::path& calibration,
                          const fs::path& target, const Recipe& recipe, ThreadPool& pool,
                          const std::function<bool()>& cancelled) {
  check(recipe);
  std::error_code ignored;
  if (fs::equivalent(target, checkpoint_path, ignored)) {
    fail(ErrorCode::kInvalidArgument, "[quantize] {}: is the checkpoint: choose another folder",
         target.string());
  }
  require_replaceable(target, "quantize", "a package", objection_to_package);
  const auto step = [&](Progress& progress) {
    progress.advance();
    if (cancelled && cancelled())
      fail(ErrorCode::kCancelled, "[quantize] interrupted; {} is as it was", target.string());
  };
  const Checkpoint checkpoint = Checkpoint::open(checkpoint_path);
  const JsonObject config = checkpoint.config_object();
  const Json& generation = checkpoint.generation_config();
  const ModelInfo info = read_model_info(config, &generation);
  const CheckpointWeights own_weights(checkpoint);
  const std::unique_ptr<WeightSource> named_weights = llama_weights(config, own_weights);
  const RecordedWeights weights(*named_weights);
  const Graph graph = build_graph(config, weights);
  const std::vector<PlannedLinear> linears = plan_linears(graph, recipe);
  check_patterns(recipe, linears);

  const Tokenizer tokenizer = Tokenizer::open(checkpoint.text_path());
  const std::string text = read_text_file(calibration);
  const std::vector<TokenId> ids = tokenizer.encode(text);
  // Before the long work: a folder that can't be written to shows now.
  StagedFolder staged(target);
  const std::int64_t window = std::min(recipe.window, info.context_length);
  const CalibrationWindows windows = cut_windows(ids, window, recipe.samples);
  std::map<std::string, InputStatistics> statistics;
  {
    Progress progress("calibrate", graph.layers(), "blocks");
    statistics = calibrate(graph, windows, pool, [&](int, int) { step(progress); });
  }

  write_texts(checkpoint, staged.path());
  {
    Progress progress("quantize", 2 * static_cast<std::int64_t>(linears.size()), "weights");
    const auto written = [&] { step(progress); };
    write_decode(staged.path() / kDecodeFile, weights.tensors(), linears, pool, written);
    write_prefill(staged.path() / kPrefillFile, linears, pool, written);
  }
  write_text_file(staged.path() / "genai_config.json",
                  make_genai_config(info, generation).dump(4) + "\n");

  OrderedJson manifest;
  manifest["format"] = kPackageFormat;
  manifest["tandem"] = build_version();
  manifest["recipe"] = {
      {"decode",
       {{"scheme", "w_uint4_per_group_asym"},
        {"algorithm", "rtn"},
        {"group_size", recipe.group_size},
        {"lm_head_group_size", recipe.lm_head_group_size},
        {"exclude", recipe.exclude}}},
      {"prefill",
       {{"scheme", "w_int8_per_channel_sym_a_int8_per_tensor_static"},
        {"target", "host"},
        {"chunk", recipe.chunk},
        {"input_scale", recipe.input_scale}}},
      {"calibration",
       {{"file", calibration.filename().string()},
        {"hash", content_hash(text)},
        {"windows", static_cast<std::int64_t>(windows.ids.size()) / windows.window},
        {"window_tokens", windows.window}}}};
  manifest["scales"] = activation_scales(linears, statistics, recipe.input_scale);
  manifest["files"] = file_list(staged.path(), pool);
  write_manifest(staged.path(), manifest);

  // The placement comes from the files as written, which checks at the same time that they can be
  // read back.
  const Package package = Package::open(staged.path(), pool);
  manifest["placement"] = placements(package);
  write_manifest(staged.path(), manifest);
  BuildReport report;
  report.linears = static_cast<std::int64_t>(linears.size());
  report.calibration_tokens = static_cast<std::int64_t>(windows.ids.size());
  report.decode_bytes = static_cast<std::int64_t>(fs::file_size(staged.path() / kDecodeFile));
  report.prefill_bytes = static_cast<std::int64_t>(fs::file_size(staged.path() / kPrefillFile));
  // Once more: somebody may have put something there since.
  require_replaceable(target, "quantize", "a package", objection_to_package);
  staged.commit();
  return report;
}

}  // namespace tandem
