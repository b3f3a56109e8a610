// Where the tensors of a checkpoint come from: one class per file format behind one interface.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "tensor/weight.h"

namespace tandem {

// One tensor of a checkpoint, before it is read.
struct StoredTensor {
  std::string type;           // as the file calls it: "BF16", "Q4_K"
  DType dtype = DType::kF32;  // of what load() gives: F16 for blocks
  Shape shape;
  std::int64_t bytes = 0;  // in the file
};

class TensorStore {
 public:
  virtual ~TensorStore() = default;

  // By the names of Hugging Face transformers, whatever the file calls them.
  const std::map<std::string, StoredTensor>& tensors() const noexcept { return tensors_; }

  // The elements of a tensor in tensors(): mapped where the file has them so, else computed now.
  virtual Tensor load(const std::string& name) const = 0;

  // The matrix `name`, [n, k] (already compared with its stored shape), in the quantized form that
  // the file gives it; nothing where that form is not one that can be computed with.
  virtual std::optional<Weight> load_quantized(const std::string& name, std::int64_t n,
                                               std::int64_t k) const {
    static_cast<void>(name), static_cast<void>(n), static_cast<void>(k);
    return std::nullopt;
  }

  // False for a format that gives only the number of elements: every shape then has one dimension.
  virtual bool has_shapes() const noexcept { return true; }

 protected:
  std::map<std::string, StoredTensor> tensors_;
};

// Tensors that lie in files as plain elements.
class PlainStore : public TensorStore {
 public:
  explicit PlainStore(std::map<std::string, Tensor> plain, bool has_shapes = true)
      : plain_(std::move(plain)), has_shapes_(has_shapes) {
    for (const auto& [name, tensor] : plain_) {
      tensors_[name] = {std::string(to_string(tensor.dtype())), tensor.dtype(), tensor.shape(),
                        static_cast<std::int64_t>(tensor.bytes().size())};
    }
  }
  Tensor load(const std::string& name) const override { return plain_.at(name); }
  bool has_shapes() const noexcept override { return has_shapes_; }

 private:
  std::map<std::string, Tensor> plain_;
  bool has_shapes_;
};

}  // namespace tandem
