// The source of a checkpoint's tensors: one class per file format behind a common interface.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/files.h"
#include "tensor/weight.h"

namespace tandem {

// A tensor of a checkpoint before it is loaded.
struct StoredTensor {
  // The file's name for its type: "BF16", "Q4_K".
  std::string type;
  // The dtype that load() returns: F16 or BF16 for blocks, F16 for 8-bit floats.
  DType dtype = DType::kF32;
  Shape shape;
  // Size in the file.
  std::int64_t bytes = 0;
};

class TensorStore {
 public:
  virtual ~TensorStore() = default;

  // By the names of Hugging Face transformers, whatever the file's own names are.
  const std::map<std::string, StoredTensor>& tensors() const noexcept { return tensors_; }

  // Tensors of the files whose type is not read here; tensors() lacks them.
  const std::map<std::string, StoredTensor>& unread() const noexcept { return unread_; }

  // The file that holds a tensor of tensors() or unread(); empty if there is only one file.
  virtual fs::path file_of(const std::string& name) const {
    static_cast<void>(name);
    return {};
  }

  // What an index says about a tensor that is in no file; empty if nothing does.
  virtual std::string listed_but_absent(const std::string& name) const {
    static_cast<void>(name);
    return {};
  }

  // The elements of a tensor in tensors(): mapped if the file stores them as such, else computed
  // now.
  virtual Tensor load(const std::string& name) const = 0;

  // The same in a shape with as many elements, for files that store none.
  virtual Tensor load_as(const std::string& name, const Shape& shape) const {
    const Tensor tensor = load(name);
    return tensor.view_as(tensor.dtype(), shape);
  }

  // The matrix `name`, [n, k] (already checked against its stored shape), if it is to be used in
  // another form than load() returns: quantized as it is stored, where kernels can compute with
  // that, or computed row by row.
  virtual std::optional<Weight> load_weight(const std::string& name, std::int64_t n,
                                            std::int64_t k) const {
    static_cast<void>(name), static_cast<void>(n), static_cast<void>(k);
    return std::nullopt;
  }

  // False for a format that stores only the number of elements: every shape then has one dimension.
  virtual bool has_shapes() const noexcept { return true; }

 protected:
  std::map<std::string, StoredTensor> tensors_;
  std::map<std::string, StoredTensor> unread_;
};

// What is known of a tensor of plain elements.
inline StoredTensor describe_plain(DType dtype, Shape shape, std::int64_t bytes) {
  return {std::string(to_string(dtype)), is_f8(dtype) ? DType::kF16 : dtype, std::move(shape),
          bytes};
}

// Plain elements as load() returns them: in place, or 8-bit floats as the F16 that equal them.
inline Tensor load_elements(const Tensor& tensor) {
  return is_f8(tensor.dtype()) ? tensor.to_f16() : tensor;
}

// Tensors stored in files as plain elements.
class PlainStore : public TensorStore {
 public:
  explicit PlainStore(std::map<std::string, Tensor> plain, bool has_shapes = true,
                      std::map<std::string, StoredTensor> unread = {})
      : plain_(std::move(plain)), has_shapes_(has_shapes) {
    unread_ = std::move(unread);
    for (const auto& [name, tensor] : plain_) {
      tensors_[name] = describe_plain(tensor.dtype(), tensor.shape(),
                                      static_cast<std::int64_t>(tensor.bytes().size()));
    }
  }
  Tensor load(const std::string& name) const override { return load_elements(plain_.at(name)); }
  bool has_shapes() const noexcept override { return has_shapes_; }

 private:
  std::map<std::string, Tensor> plain_;
  bool has_shapes_;
};

}  // namespace tandem
