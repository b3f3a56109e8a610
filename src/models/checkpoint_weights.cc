// The weights of a checkpoint: mapped in their own type, or unpacked on request.
#include "base/error.h"
#include "models/model.h"

namespace tandem {

bool CheckpointWeights::has(const std::string& tensor) const { return checkpoint_.has(tensor); }

Tensor CheckpointWeights::tensor(const std::string& name, const Shape& expected) const {
  Tensor found = checkpoint_.tensor(name, expected);
  if (!is_float(found.dtype()))
    fail(ErrorCode::kUnsupported,
         "[models] {}: tensor \"{}\": expected F32, F16, BF16 or F64, got {}",
         checkpoint_.file_of(name).string(), name, to_string(found.dtype()));
  read_.insert(name);
  return found;
}

Weight CheckpointWeights::linear(const std::string& module, std::int64_t n, std::int64_t k) const {
  read_.insert(module + ".weight");
  return checkpoint_.linear(module, n, k);
}

float CheckpointWeights::input_scale(const std::string& module) const {
  return checkpoint_.input_scale(module);
}

bool CheckpointWeights::has_unclipped_input(const std::string& module) const {
  return checkpoint_.has_unclipped_input(module);
}

}  // namespace tandem
