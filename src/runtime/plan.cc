// The plans behind the mode names.
#include "runtime/plan.h"

#include "base/error.h"

namespace tandem {

std::string_view to_string(Mode mode) noexcept {
  switch (mode) {
    case Mode::kFloat:
      return "float";
    case Mode::kCpu:
      return "cpu";
    case Mode::kHybrid:
      return "hybrid";
    case Mode::kNpu:
      return "npu";
  }
  return "unknown";
}

Mode mode_from_string(const std::string& name) {
  for (const Mode mode : {Mode::kFloat, Mode::kCpu, Mode::kHybrid, Mode::kNpu}) {
    if (name == to_string(mode)) return mode;
  }
  fail(ErrorCode::kInvalidArgument,
       "[mode] expected \"hybrid\", \"npu\", \"cpu\" or \"float\", got \"{}\"", name);
}

Plan plan_for(Mode mode) {
  Plan plan{.name = std::string(to_string(mode))};
  if (mode == Mode::kFloat) plan.kv = DType::kF32;
  if (mode == Mode::kHybrid || mode == Mode::kNpu) {
    plan.prefill = {"npu", "cpu"};
    plan.prompt_graph = Phase::kPrefill;
  }
  if (mode == Mode::kNpu) {
    plan.decode = plan.prefill;
    plan.answer_graph = Phase::kPrefill;
  }
  return plan;
}

}  // namespace tandem
