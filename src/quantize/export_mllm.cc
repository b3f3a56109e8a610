// One entry of the file for each tensor, made when it is written.
#include "quantize/export_mllm.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <utility>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/torch_writer.h"
#include "package/write_package.h"
#include "quantize/family_modules.h"
#include "quantize/linear_weights.h"

namespace tandem {
namespace {

// A file of tensors in either format.
class Writer {
 public:
  Writer(const fs::path& path, const std::vector<TorchWriter::Entry>& entries) {
    const std::string suffix = path.extension().string();
    constexpr std::array kOthers = {".mllm", ".gguf", ".onnx", ".json"};
    if (std::ranges::find(kOthers, suffix) != kOthers.end())
      fail(ErrorCode::kInvalidArgument,
           "[export] output_model: expected a name for torch.save, such as model.bin, or "
           "model.safetensors, got \"{}\" (tandem convert makes a .mllm of it)",
           path.string());
    if (suffix != ".safetensors") {
      torch_ = std::make_unique<TorchWriter>(path, entries);
      return;
    }
    std::vector<SafetensorsWriter::Entry> slots;
    for (const auto& entry : entries) {
      slots.push_back({entry.name, entry.dtype, entry.shape});
      names_.push_back(entry.name);
    }
    safetensors_ = std::make_unique<SafetensorsWriter>(
        path, slots, std::map<std::string, std::string>{{"format", "pt"}});
  }

  void write(std::span<const std::byte> bytes) {
    torch_ ? torch_->write(bytes) : safetensors_->write(names_[next_++], bytes);
  }
  // As F32.
  void write_rows(const Rows& rows) {
    const Rows wide = round_rows(rows, DType::kF32);
    torch_ ? torch_->write_rows(*wide) : safetensors_->write_rows(names_[next_++], *wide);
  }
  void finish() { torch_ ? torch_->finish() : safetensors_->finish(); }

 private:
  std::unique_ptr<TorchWriter> torch_;
  std::unique_ptr<SafetensorsWriter> safetensors_;
  std::vector<std::string> names_;
  std::size_t next_ = 0;
};

// The largest magnitude of a matrix.
float largest_of(const RowSource& rows) {
  float largest = 0;
  visit_rows(rows, 0, rows.rows(), [&](std::int64_t, std::span<const float> values) {
    for (const float x : values) largest = std::max(largest, std::fabs(x));
  });
  rows.release();
  return largest;
}

float scale_of(float largest) {
  constexpr float kSmallest = 1e-5F;
  return std::max(largest, kSmallest) / 127.0F;
}

// Rounded to nearest even.
float code_of(float value, float scale) { return std::nearbyint(value / scale); }

// All tensors in float, unless add_linear() says otherwise.
class Export {
 public:
  Export(const Checkpoint& checkpoint, const Graph& loaded, const Graph& graph) : graph_(graph) {
    for (const FamilyModule& module : family_modules(loaded, checkpoint)) {
      const Node& node = loaded.node(module.nodes.front());
      if (node.op == Op::kRmsNorm) offsets_[node.name] = norm_offset(checkpoint, module.name, node);
    }
  }

  virtual ~Export() = default;
  Export(const Export&) = delete;
  Export& operator=(const Export&) = delete;

  void add_all() {
    for (const Node& node : graph_.nodes()) {
      if (node.op == Op::kEmbedding)
        add_rows(node.name + ".weight", stored_rows(node.as<EmbeddingAttributes>().table));
      if (node.op == Op::kRmsNorm) {
        std::vector<float> gain = node.as<RmsNormAttributes>().weight.to_floats();
        for (float& value : gain) value -= offsets_.at(node.name);
        add_vector(node.name + ".weight", std::move(gain));
      }
      if (node.op == Op::kLinear) add_linear(node);
    }
  }

  void write(const fs::path& output, Observer& observer) const {
    Writer writer(output, entries_);
    Task task(observer, "write", std::ssize(entries_), "tensors");
    for (const auto& make : makers_) {
      make(writer);
      task.advance();
    }
    writer.finish();
  }

 protected:
  virtual void add_linear(const Node& node) { add_float_linear(node); }

  void add_float_linear(const Node& node) {
    add_rows(node.name + ".weight", float_rows(node));
    add_bias(node);
  }

  void add_bias(const Node& node) {
    const Tensor& bias = node.as<LinearAttributes>().bias;
    if (!bias.empty()) add_vector(node.name + ".bias", bias.to_floats());
  }

  static Rows float_rows(const Node& node) {
    const FloatWeight* weight = float_weight(node);
    if (weight == nullptr)
      fail(ErrorCode::kInvalidArgument, "[export] {}: is quantized: expected a float checkpoint",
           node.name);
    return weight->rows;
  }

  void add(const std::string& name, DType dtype, Shape shape, std::function<void(Writer&)> make) {
    entries_.push_back({name, dtype, std::move(shape)});
    makers_.push_back(std::move(make));
  }
  void add_rows(const std::string& name, const Rows& rows) {
    add(name, DType::kF32, {rows->rows(), rows->columns()},
        [rows](Writer& writer) { writer.write_rows(rows); });
  }
  template <typename T>
  void add_values(const std::string& name, DType dtype, Shape shape, std::vector<T> values) {
    add(name, dtype, std::move(shape), [values = std::move(values)](Writer& writer) {
      writer.write(std::as_bytes(std::span(values)));
    });
  }
  void add_vector(const std::string& name, std::vector<float> values) {
    const auto size = std::ssize(values);
    add_values(name, DType::kF32, {size}, std::move(values));
  }
  void add_number(const std::string& name, float value) {
    add_values(name, DType::kF32, {}, std::vector{value});
  }

 private:
  const Graph& graph_;
  // By the norm's name.
  std::map<std::string, float> offsets_;
  std::vector<TorchWriter::Entry> entries_;
  std::vector<std::function<void(Writer&)>> makers_;
};

class Int8Export final : public Export {
 public:
  Int8Export(const MllmExportConfig& config, const ActivationProfile& profile,
             const Checkpoint& checkpoint, const Graph& loaded, const Graph& graph)
      : Export(checkpoint, loaded, graph), config_(config), profile_(profile) {}

  MllmInt8Report report;

 private:
  void add_linear(const Node& node) override {
    const auto found = profile_.find(node.name);
    // The head stays float; what a profile says of it stands beside it, as mllm has it.
    const bool is_head = node.layer < 0;
    if (is_head) add_float_linear(node);
    if (is_head && found == profile_.end()) return;
    if (found == profile_.end())
      fail(ErrorCode::kInvalidArgument,
           "[export] {}: {} is not in it: expected the profile of this model",
           config_.scale_file.string(), node.name);
    if (!is_head) {
      ++report.linears;
      add_codes(node);
      add_int_bias(node);
    }
    add_side(node.name, "input", found->second.input);
    add_side(node.name, "output", found->second.output);
  }

  void add_codes(const Node& node) {
    const Rows rows = float_rows(node);
    const std::int64_t n = rows->rows(), k = rows->columns();
    const float scale = scale_of(largest_of(*rows));
    add(node.name + ".weight", DType::kI8, {k, n}, [rows, n, k, scale](Writer& writer) {
      std::vector<std::int8_t> codes(static_cast<std::size_t>(n * k));
      visit_rows(*rows, 0, n, [&](std::int64_t row, std::span<const float> values) {
        for (std::size_t i = 0; i < values.size(); ++i) {
          const auto at = static_cast<std::int64_t>(i);
          codes[static_cast<std::size_t>(at % k * n + row + at / k)] =
              static_cast<std::int8_t>(code_of(values[i], scale));
        }
      });
      rows->release();
      writer.write(std::as_bytes(std::span(codes)));
    });
    add_number(node.name + ".weight.scale", scale);
  }

  void add_int_bias(const Node& node) {
    const Tensor& bias = node.as<LinearAttributes>().bias;
    if (bias.empty() || !config_.quant_bias) return add_bias(node);
    const float scale =
        scale_of(largest_of(*stored_rows(bias.view_as(bias.dtype(), {1, bias.elements()}))));
    std::vector<std::int32_t> codes;
    for (const float x : bias.to_floats())
      codes.push_back(static_cast<std::int32_t>(code_of(x, scale)));
    const auto size = std::ssize(codes);
    add_values(node.name + ".bias", DType::kI32, {size}, std::move(codes));
    add_number(node.name + ".bias.scale", scale);
  }

  void add_side(const std::string& module, const std::string& side, const Distribution& of) {
    ClipDecision decision = decide_clip(of, config_.threshold());
    if (std::ranges::find(config_.model.skip_layers, module) != config_.model.skip_layers.end())
      decision = {false, of.percentile};
    if (!decision.clips) report.unclipped.push_back(module + " " + side);
    add_number(module + "." + side + "_scale", decision.largest);
    add_values(module + ".clip_" + side, DType::kBool, {},
               std::vector<std::uint8_t>{decision.clips ? std::uint8_t{1} : std::uint8_t{0}});
  }

  const MllmExportConfig& config_;
  const ActivationProfile& profile_;
};

// What reads the file finds its configuration and its tokenizer beside it. What is there already
// belongs to another file of this model, or stays for its owner to judge.
void put_beside(const fs::path& output, const Checkpoint& checkpoint, Observer& observer) {
  const fs::path folder = fs::absolute(output).parent_path();
  // The file has a head of its own.
  Json config = checkpoint.config();
  config["tie_word_embeddings"] = false;
  config[config.contains("dtype") ? "dtype" : "torch_dtype"] = "float32";
  const fs::path file = folder / "config.json";
  if (!fs::exists(file)) {
    write_text_file(file, config.dump(2) + "\n");
  } else if (read_json_file(file) != config) {
    observer.warn(fmt::format("[export] {}: is there already and says something else of the model",
                              file.string()));
  }
  put_texts_beside(checkpoint, folder, observer);
  constexpr std::array kTokenizers = {"tokenizer.json", "tokenizer.model", "vocab.json"};
  if (std::ranges::none_of(kTokenizers,
                           [&](const char* name) { return fs::exists(folder / name); }))
    observer.warn(fmt::format(
        "[export] {}: the model has no tokenizer to put there: what runs the file needs one beside "
        "it",
        folder.string()));
}

}  // namespace

MllmInt8Report export_mllm_int8(const MllmExportConfig& config, const ActivationProfile& profile,
                                const Checkpoint& checkpoint, const Graph& loaded,
                                const Graph& graph, Observer& observer) {
  Int8Export output(config, profile, checkpoint, loaded, graph);
  output.add_all();
  output.write(config.output_model, observer);
  put_beside(config.output_model, checkpoint, observer);
  return std::move(output.report);
}

void export_mllm_float(const fs::path& output, const Checkpoint& checkpoint, const Graph& loaded,
                       const Graph& graph, Observer& observer) {
  Export file(checkpoint, loaded, graph);
  file.add_all();
  file.write(output, observer);
  put_beside(output, checkpoint, observer);
}

}  // namespace tandem
