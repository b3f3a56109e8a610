// Sorts the tensors of an adapter by the modules that they belong to, and checks their shapes.
#include "checkpoint/lora_adapter.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <set>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/hub_cache.h"
#include "base/printable.h"
#include "checkpoint/lora_config.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/torch_file.h"

namespace tandem {
namespace {

constexpr std::string_view kPrefix = "base_model.model.";
// What PEFT inserts into the names of a module's tensors.
constexpr std::array<std::string_view, 8> kParts = {"lora_A",
                                                    "lora_B",
                                                    "lora_embedding_A",
                                                    "lora_embedding_B",
                                                    "lora_magnitude_vector",
                                                    "base_layer",
                                                    "modules_to_save",
                                                    "original_module"};

std::shared_ptr<const TensorStore> open_tensors(const fs::path& file) {
  if (looks_like_torch_file(MappedFile::open(file)->bytes())) return open_torch_file(file);
  SafetensorsFile tensors = SafetensorsFile::open(file);
  return std::make_shared<PlainStore>(std::move(tensors.tensors), true, std::move(tensors.unread));
}

std::vector<std::string> split(std::string_view name) {
  std::vector<std::string> words(1);
  for (const char c : name) {
    if (c == '.') {
      words.emplace_back();
    } else {
      words.back() += c;
    }
  }
  return words;
}

// "model.layers.0.self_attn.q_proj" + "lora_A" + {"weight"}.
struct PartName {
  std::string module;
  // Empty for a tensor of the model itself, which `module` then names.
  std::string part;
  // What follows, without the name of the adapter.
  std::string last;
};

// nullopt for what is no name of PEFT's.
std::optional<PartName> split_part(const std::string& name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const std::vector<std::string> words = split(std::string_view(name).substr(kPrefix.size()));
  const auto part = std::ranges::find_first_of(words, kParts);
  std::string module;
  for (auto word = words.begin(); word != part; ++word)
    module += (module.empty() ? "" : ".") + *word;
  if (part == words.end()) return PartName{module, "", ""};
  const auto after = words.end() - part - 1;
  const bool is_vector = part->starts_with("lora_embedding") || *part == "lora_magnitude_vector";
  // Vectors may lack the ".weight" that the parts of a Linear have behind the adapter's name.
  if (module.empty() || after > 2 || (after == 0 && !is_vector)) return std::nullopt;
  return PartName{module, *part, is_vector ? "weight" : words.back()};
}

Tensor transposed(const Tensor& matrix) {
  const std::vector<float> from = matrix.to_floats();
  const std::int64_t rows = matrix.dim(0);
  const std::int64_t columns = matrix.dim(1);
  std::vector<float> to(from.size());
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c)
      to[static_cast<std::size_t>(c * rows + r)] = from[static_cast<std::size_t>(r * columns + c)];
  return Tensor::from_floats(to, {columns, rows});
}

class AdapterReader {
 public:
  AdapterReader(const fs::path& config, const fs::path& file)
      : config_(config), file_(file.string()), store_(open_tensors(file)) {
    adapter_.folder = config.parent_path();
    adapter_.file = file;
    adapter_.keeps_ties = config_.ensure_weight_tying();
  }

  LoraAdapter read() {
    for (const auto& [name, tensor] : store_->unread())
      reject(name, fmt::format("expected F32, F16 or BF16, got {}", tensor.type));
    for (const auto& [name, tensor] : store_->tensors()) sort(name);
    for (const auto& [module, parts] : modules_) add_product(module, parts);
    if (adapter_.products.empty() && adapter_.replaced.empty())
      fail(ErrorCode::kFormat, "[lora] {}: expected tensors of an adapter, got none", file_);
    return std::move(adapter_);
  }

 private:
  // The stored names of a module's parts: "lora_A", "lora_B.bias".
  using Parts = std::map<std::string, std::string>;

  [[noreturn]] void reject(const std::string& name, const std::string& reason) const {
    fail(ErrorCode::kFormat, "[lora] {}: {}: {}", file_, printable(name), reason);
  }

  void sort(const std::string& name) {
    const auto place = split_part(name);
    if (!place)
      reject(name,
             "expected the name of a tensor in PEFT, such as "
             "\"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight\"");
    const auto& [module, part, last] = *place;
    // The model's own tensor, beside the one in modules_to_save.
    if (part == "original_module") return;
    if (!part.starts_with("lora_")) {
      const std::string target = part.empty() ? module : module + "." + last;
      if (!adapter_.replaced.emplace(target, load(name)).second)
        reject(name, fmt::format("\"{}\" is given twice", printable(target)));
      return;
    }
    const std::string key = last == "weight" ? part : part + "." + last;
    if (key != part && key != "lora_B.bias") reject(name, "expected a weight");
    if (!modules_[module].emplace(key, name).second)
      reject(name, fmt::format("another adapter changes \"{}\", too: expected one adapter",
                               printable(module)));
  }

  // Checks that the values are finite.
  Tensor load(const std::string& name) const {
    constexpr std::int64_t kAtOnce = 1 << 14;
    Tensor tensor = store_->load(name);
    const DType dtype = tensor.dtype();
    if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBF16)
      reject(name, fmt::format("expected F32, F16 or BF16, got {}", to_string(dtype)));
    std::vector<float> values;
    for (std::int64_t first = 0; first < tensor.elements(); first += kAtOnce) {
      values.resize(static_cast<std::size_t>(std::min(kAtOnce, tensor.elements() - first)));
      tensor.copy_floats(first, values);
      const auto bad = std::ranges::find_if(values, [](float v) { return !std::isfinite(v); });
      if (bad != values.end())
        reject(name, fmt::format("element {}: expected a finite number, got {}",
                                 first + (bad - values.begin()), *bad));
    }
    return tensor;
  }

  // One of the two factors.
  Tensor load_factor(const std::string& module, const Parts& parts, const std::string& part) const {
    const auto found = parts.find(part);
    if (found == parts.end()) reject(module, part + " is missing");
    Tensor factor = load(found->second);
    if (factor.shape().size() != 2 || factor.elements() == 0)
      reject(found->second, fmt::format("expected a matrix, got {}", to_string(factor.shape())));
    return factor;
  }

  void add_product(const std::string& module, const Parts& parts) {
    const bool is_table = parts.contains("lora_embedding_A") || parts.contains("lora_embedding_B");
    const std::string prefix = is_table ? "lora_embedding_" : "lora_";
    const Tensor a = load_factor(module, parts, prefix + "A");
    const Tensor b = load_factor(module, parts, prefix + "B");
    const std::int64_t rank = config_.rank(module);
    for (const auto& [part, got, at] : {std::tuple{"A", a.dim(0), 0}, {"B", b.dim(1), 1}})
      if (got != rank)
        reject(parts.at(prefix + part),
               fmt::format("expected the rank {} of adapter_config.json in dimension {}, got {}",
                           rank, at, got));
    LoraProduct product{.up = is_table ? transposed(a) : b,
                        .down = is_table ? transposed(b) : a,
                        .scale = config_.scale(module),
                        .norms = read_norms(module, parts, b.dim(0))};
    if (!std::isfinite(product.scale))
      reject(module, fmt::format("expected a finite scale, got {}", product.scale));
    if (is_table && !product.norms.empty())
      fail(ErrorCode::kUnsupported, "[lora] {}: {}: DoRA of a table of embeddings is not merged",
           file_, printable(module));
    if (const auto bias = parts.find("lora_B.bias"); bias != parts.end()) {
      std::vector<float> values = load_vector(bias->second, b.dim(0));
      for (float& value : values) value = static_cast<float>(value * product.scale);
      adapter_.added[module + ".bias"] = std::move(values);
    }
    adapter_.products[module + ".weight"] = std::move(product);
  }

  std::vector<float> read_norms(const std::string& module, const Parts& parts,
                                std::int64_t rows) const {
    const auto found = parts.find("lora_magnitude_vector");
    if (config_.use_dora() != (found != parts.end()))
      reject(module, config_.use_dora() ? "lora_magnitude_vector is missing"
                                        : "has a lora_magnitude_vector, but adapter_config.json "
                                          "has no use_dora");
    return config_.use_dora() ? load_vector(found->second, rows) : std::vector<float>();
  }

  std::vector<float> load_vector(const std::string& name, std::int64_t size) const {
    const Tensor tensor = load(name);
    if (tensor.elements() != size)
      reject(name, fmt::format("expected [{}], got {}", size, to_string(tensor.shape())));
    return tensor.to_floats();
  }

  LoraConfig config_;
  std::string file_;
  std::shared_ptr<const TensorStore> store_;
  std::map<std::string, Parts> modules_;
  LoraAdapter adapter_;
};

}  // namespace

LoraAdapter LoraAdapter::open(const fs::path& name) {
  std::error_code ignored;
  const fs::path path = find_model(name);
  if (!fs::exists(path, ignored))
    fail(ErrorCode::kNotFound, "[lora] {}: no such file or folder", path.string());
  const bool is_folder = fs::is_directory(path, ignored);
  const fs::path folder = is_folder ? path : path.has_parent_path() ? path.parent_path() : ".";
  fs::path file = path;
  if (is_folder) {
    file = folder / "adapter_model.safetensors";
    if (!fs::exists(file, ignored)) file = folder / "adapter_model.bin";
  }
  const fs::path config = folder / "adapter_config.json";
  if (!fs::exists(config, ignored) || !fs::exists(file, ignored))
    fail(ErrorCode::kNotFound,
         "[lora] {}: expected adapter_config.json with adapter_model.safetensors or "
         "adapter_model.bin",
         folder.string());
  return AdapterReader(config, file).read();
}

}  // namespace tandem
