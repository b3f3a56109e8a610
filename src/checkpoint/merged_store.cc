// Merges an adapter by the names of the stored tensors, so that fused ones are merged before a
// family slices them.
#include "checkpoint/merged_store.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/printable.h"
#include "tensor/half.h"
#include "tensor/low_rank_rows.h"

namespace tandem {
namespace {

// All rows as a tensor, rounded to `dtype`.
Tensor compute(const RowSource& rows, DType dtype) {
  std::byte* out = nullptr;
  Tensor tensor = Tensor::allocate(dtype, {rows.rows(), rows.columns()}, &out);
  visit_rows(rows, 0, rows.rows(), [&](std::int64_t, std::span<const float> values) {
    encode_floats(values, dtype, out);
    out += values.size() * size_of(dtype);
  });
  rows.release();
  return tensor;
}

class MergedStore : public TensorStore {
 public:
  MergedStore(std::shared_ptr<const TensorStore> base, LoraAdapter adapter,
              const std::string& place)
      : base_(std::move(base)), adapter_(std::move(adapter)), place_(place) {
    if (!base_->has_shapes())
      fail(ErrorCode::kUnsupported,
           "[lora] {}: expected a checkpoint that stores the shapes of its tensors", place_);
    tensors_ = base_->tensors();
    unread_ = base_->unread();
    const bool is_tied = !tensors_.contains(kHeadWeight) && tensors_.contains(kTableWeight);
    if (is_tied && unties()) tensors_[kHeadWeight] = tensors_.at(kTableWeight);
    for (const auto& [name, tensor] : adapter_.replaced) check_replaced(name, tensor);
    for (const auto& [name, product] : adapter_.products) check_product(name, product);
    for (const auto& [name, values] : adapter_.added) add_to_bias(name, values);
  }

  fs::path file_of(const std::string& name) const override {
    return adapter_.replaced.contains(name) ? adapter_.file : base_->file_of(stored(name));
  }
  std::string listed_but_absent(const std::string& name) const override {
    return base_->listed_but_absent(name);
  }

  Tensor load(const std::string& name) const override {
    if (adapter_.products.contains(name))
      return compute(*merged_rows(name), tensors_.at(name).dtype);
    return load_own(name);
  }

  std::optional<Weight> load_weight(const std::string& name, std::int64_t n,
                                    std::int64_t k) const override {
    if (adapter_.products.contains(name)) return FloatWeight(merged_rows(name));
    if (adapter_.replaced.contains(name)) return std::nullopt;
    return base_->load_weight(stored(name), n, k);
  }

 private:
  // The name in the base of what is not replaced.
  std::string stored(const std::string& name) const {
    return name == kHeadWeight && !base_->tensors().contains(name) ? kTableWeight : name;
  }

  // Whether a tied head and the table will differ.
  bool unties() const {
    const auto changes = [&](const char* name) {
      return adapter_.replaced.contains(name) || adapter_.products.contains(name);
    };
    if (changes(kHeadWeight)) return true;
    if (!changes(kTableWeight) || adapter_.keeps_ties) return false;
    // A head of another vocabulary would be of no use.
    const auto table = adapter_.replaced.find(kTableWeight);
    return table == adapter_.replaced.end() ||
           table->second.shape() == base_->tensors().at(kTableWeight).shape;
  }

  const StoredTensor& require(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found != tensors_.end() && !unread_.contains(name)) return found->second;
    const bool is_packed = name.ends_with(".weight") &&
                           tensors_.contains(name.substr(0, name.size() - 7) + ".qweight");
    if (is_packed || unread_.contains(name)) fail_type(name, "quantized codes");
    fail(ErrorCode::kNotFound, "[lora] {}: {}: the checkpoint {} has no tensor of this name",
         adapter_.file.string(), printable(name), place_);
  }

  [[noreturn]] void fail_type(const std::string& name, const std::string& type) const {
    fail(ErrorCode::kUnsupported,
         "[lora] {}: {}: an adapter is merged into F32, F16 or BF16, got {}: name the float "
         "checkpoint",
         place_, printable(name), type);
  }

  void require_float(const std::string& name, const StoredTensor& tensor) const {
    if (tensor.type != "F32" && tensor.type != "F16" && tensor.type != "BF16")
      fail_type(name, tensor.type);
  }

  void require_shape(const std::string& name, const Shape& expected, const Shape& got) const {
    if (got != expected)
      fail(ErrorCode::kFormat, "[lora] {}: {}: expected {} as in the checkpoint {}, got {}",
           adapter_.file.string(), printable(name), to_string(expected), place_, to_string(got));
  }

  void check_replaced(const std::string& name, const Tensor& tensor) {
    const StoredTensor& own = require(name);
    require_float(name, own);
    Shape shape = own.shape;
    // A vocabulary may have grown.
    if ((name == kTableWeight || name == kHeadWeight) && tensor.shape().size() == 2)
      shape[0] = tensor.dim(0);
    require_shape(name, shape, tensor.shape());
    tensors_[name] = describe_plain(tensor.dtype(), tensor.shape(),
                                    static_cast<std::int64_t>(tensor.bytes().size()));
  }

  void check_product(const std::string& name, const LoraProduct& product) const {
    const StoredTensor& own = require(name);
    require_float(name, own);
    require_shape(name, own.shape, {product.up.dim(0), product.down.dim(1)});
  }

  void add_to_bias(const std::string& name, const std::vector<float>& values) {
    const StoredTensor& own = require(name);
    require_float(name, own);
    require_shape(name, own.shape, {static_cast<std::int64_t>(values.size())});
    std::vector<float> sum = load_own(name).to_floats();
    std::ranges::transform(sum, values, sum.begin(), std::plus());
    adapter_.replaced[name] = Tensor::from_floats(sum, own.shape);
    tensors_[name].type = "F32";
    tensors_[name].dtype = DType::kF32;
  }

  // Without a product.
  Tensor load_own(const std::string& name) const {
    const auto replaced = adapter_.replaced.find(name);
    return replaced != adapter_.replaced.end() ? replaced->second : base_->load(stored(name));
  }

  Rows merged_rows(const std::string& name) const {
    const LoraProduct& product = adapter_.products.at(name);
    Rows rows = add_low_rank(stored_rows(load_own(name)), product.up, product.down, product.scale);
    return product.norms.empty() ? rows : set_row_norms(rows, product.norms);
  }

  std::shared_ptr<const TensorStore> base_;
  LoraAdapter adapter_;
  std::string place_;
};

}  // namespace

std::shared_ptr<const TensorStore> merge_adapter(std::shared_ptr<const TensorStore> base,
                                                 LoraAdapter adapter, const std::string& place) {
  return std::make_shared<MergedStore>(std::move(base), std::move(adapter), place);
}

}  // namespace tandem
