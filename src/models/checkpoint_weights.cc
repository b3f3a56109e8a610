// Weights as a float checkpoint has them, mapped, in their own type.
#include "base/error.h"
#include "models/model.h"

namespace tandem {
namespace {

[[noreturn]] void reject_type(const Checkpoint& checkpoint, const std::string& name,
                              std::string_view expected, DType got) {
  fail(ErrorCode::kUnsupported, "[models] {}: tensor \"{}\": expected {}, got {}",
       checkpoint.folder().string(), name, expected, to_string(got));
}

}  // namespace

bool CheckpointWeights::has(const std::string& tensor) const { return checkpoint_.has(tensor); }

Tensor CheckpointWeights::tensor(const std::string& name, const Shape& expected) const {
  const Tensor& found = checkpoint_.tensor(name, expected);
  if (!is_float(found.dtype()))
    reject_type(checkpoint_, name, "F32, F16, BF16 or F64", found.dtype());
  return found;
}

Weight CheckpointWeights::linear(const std::string& module, std::int64_t n, std::int64_t k) const {
  const std::string name = module + ".weight";
  const Tensor& found = checkpoint_.tensor(name, {n, k});
  if (found.dtype() != DType::kF32 && found.dtype() != DType::kF16 && found.dtype() != DType::kBF16)
    reject_type(checkpoint_, name, "F32, F16 or BF16", found.dtype());
  return FloatWeight{found};
}

}  // namespace tandem
