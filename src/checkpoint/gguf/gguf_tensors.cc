// The tensors of a GGUF file, with the converters' changes undone.
#include <cstring>

#include "base/error.h"
#include "base/printable.h"
#include "checkpoint/gguf/block_tensors.h"
#include "checkpoint/gguf/gguf_checkpoint.h"

namespace tandem {
namespace {

// Files contain these for llama.cpp; the configuration already includes them.
bool is_rope_table(std::string_view name) {
  return name == "rope_freqs.weight" || name == "rope_factors_long.weight" ||
         name == "rope_factors_short.weight" || name.ends_with(".rope_freqs.weight") ||
         name.ends_with(".attn_rot_embd.weight");
}

// The GGUF row that becomes `row` in transformers: in heads of `head_dim` rows, GGUF stores rows i
// and i + head_dim / 2 next to each other.
std::int64_t paired_row(std::int64_t row, std::int64_t head_dim) {
  const std::int64_t head = row / head_dim * head_dim;
  const std::int64_t half = head_dim / 2;
  const std::int64_t inside = row - head;
  return head + inside % half * 2 + inside / half;
}

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kBias = ".bias";

class GgufStore : public TensorStore {
 public:
  GgufStore(GgufFile file, const GgufArchitecture& architecture, const JsonObject& config,
            const std::string& place)
      : place_(place), architecture_(architecture) {
    for (auto& [name, tensor] : file.tensors) {
      if (is_rope_table(name)) continue;
      const auto known = name_from_gguf(architecture, name);
      if (!known)
        fail(ErrorCode::kUnsupported, "[gguf] {}: tensor \"{}\" has no place in architecture {}",
             place, printable(name), architecture.name);
      tensors_[*known] = {std::string(to_string(tensor.type)), loaded_dtype(tensor.type),
                          tensor.shape, static_cast<std::int64_t>(tensor.bytes.size())};
      if (is_shifted_norm(*known)) tensors_[*known].dtype = DType::kF32;
      stored_.emplace(*known, std::move(tensor));
    }
    if (architecture.paired_rows) read_heads(config);
    if (architecture.name == "llama") {
      if (config.get_bool_or("attention_bias", false)) fill_in(kGgufAttentionBiases);
      if (config.get_bool_or("mlp_bias", false)) fill_in(kGgufMlpBiases);
    }
  }

  Tensor load(const std::string& name) const override {
    const auto found = stored_.find(name);
    if (found == stored_.end()) {
      const Shape& shape = tensors().at(name).shape;
      return Tensor::from_floats(std::vector<float>(static_cast<std::size_t>(shape[0])), shape);
    }
    const GgufTensor& tensor = found->second;
    Tensor rows = load_blocks(tensor.type, tensor.shape, in_order(name, tensor), place(name));
    return is_shifted_norm(name) ? unshifted(rows) : rows;
  }

  std::optional<Weight> load_weight(const std::string& name, std::int64_t n,
                                    std::int64_t k) const override {
    const auto found = stored_.find(name);
    if (found == stored_.end() || found->second.type != GgmlType::kQ4_0) return std::nullopt;
    const GgufTensor& tensor = found->second;
    return int4_from_q4_0(in_order(name, tensor).bytes(), n, k);
  }

 private:
  std::string place(const std::string& name) const {
    return fmt::format("[gguf] {}: {}", place_, printable(name));
  }

  // Adds the missing ones of these biases, as zeros.
  void fill_in(std::span<const std::string_view> biases) {
    std::vector<std::pair<std::string, std::int64_t>> missing;
    for (const auto& [name, tensor] : tensors_) {
      const auto gguf = name_to_gguf(architecture_, name);
      if (!gguf || tensor.shape.size() != 2) continue;
      for (const std::string_view part : biases)
        if (gguf->ends_with(
                std::string(part.substr(0, part.size() - kBias.size())).append(kWeight)))
          missing.emplace_back(name.substr(0, name.size() - kWeight.size()) + std::string(kBias),
                               tensor.shape[0]);
    }
    for (const auto& [name, rows] : missing)
      tensors_.emplace(name, StoredTensor{"F32", DType::kF32, {rows}, 0});
  }

  void read_heads(const JsonObject& config) {
    const auto heads = config.get_int("num_attention_heads", 1, 1 << 16);
    const auto hidden = config.get_int("hidden_size", 1, 1 << 30);
    head_dim_ = config.get_int_or("head_dim", hidden / heads, 1, 1 << 30);
    if (head_dim_ < 2 || head_dim_ % 2 != 0)
      fail(ErrorCode::kFormat, "[gguf] {}: expected an even head size, got {}", place_, head_dim_);
  }

  bool is_shifted_norm(const std::string& name) const {
    return architecture_.norms_plus_one && name.ends_with("norm.weight");
  }

  // The tensor's bytes with rows in transformers' order: mapped or a copy.
  Tensor in_order(const std::string& name, const GgufTensor& tensor) const {
    const auto size = static_cast<std::int64_t>(tensor.bytes.size());
    if (!architecture_.paired_rows || tensor.shape.empty() ||
        (name.find("self_attn.q_proj.") == std::string::npos &&
         name.find("self_attn.k_proj.") == std::string::npos))
      return Tensor(DType::kU8, {size}, tensor.bytes, tensor.file);
    const std::int64_t rows = tensor.shape[0];
    if (rows % head_dim_ != 0)
      fail(ErrorCode::kFormat, "[gguf] {}: {}: {} rows are not heads of {}", place_,
           printable(name), rows, head_dim_);
    const auto row_bytes = static_cast<std::size_t>(rows == 0 ? 0 : size / rows);
    std::byte* data = nullptr;
    Tensor copy = Tensor::allocate(DType::kU8, {size}, &data);
    for (std::int64_t row = 0; row < rows; ++row) {
      const auto from = static_cast<std::size_t>(paired_row(row, head_dim_)) * row_bytes;
      std::memcpy(data + static_cast<std::size_t>(row) * row_bytes, tensor.bytes.data() + from,
                  row_bytes);
    }
    return copy;
  }

  // A norm's gain without the offset that converters add.
  static Tensor unshifted(const Tensor& stored) {
    std::vector<float> values = stored.to_floats();
    for (float& value : values) value -= 1;
    return Tensor::from_floats(values, stored.shape());
  }

  std::string place_;
  GgufArchitecture architecture_;
  std::int64_t head_dim_ = 0;
  std::map<std::string, GgufTensor> stored_;
};

}  // namespace

std::shared_ptr<const TensorStore> open_gguf_tensors(GgufFile file,
                                                     const GgufArchitecture& architecture,
                                                     const JsonObject& config,
                                                     const std::string& place) {
  return std::make_shared<GgufStore>(std::move(file), architecture, config, place);
}

}  // namespace tandem
