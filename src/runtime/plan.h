// A plan: which devices run prefill and decode, and the type of the KV cache; and the names of the
// usual plans.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "devices/device.h"

namespace tandem {

struct Plan {
  // For display and selection: "hybrid".
  std::string name;
  // Device names, in order of preference.
  std::vector<std::string> prefill = {"cpu"};
  std::vector<std::string> decode = {"cpu"};
  // Which of a package's two graphs is used for prefill, and for decode.
  Phase prompt_graph = Phase::kDecode;
  Phase answer_graph = Phase::kDecode;
  DType kv = DType::kF16;
};

// The named plans.
enum class Mode : std::uint8_t {
  // A checkpoint as it is, on the CPU, with a float32 cache to match float implementations.
  kFloat,
  // A package's decode weights for both phases, on the CPU.
  kCpu,
  // Prefill in static int8 on the NPU, decode with the decode weights on the CPU.
  kHybrid,
  // Both in static int8 on the NPU, over one copy of the weights: answers with programs of one row.
  // With an int8 cache attention runs there, too.
  kNpu,
};
// "float", "cpu", "hybrid" or "npu".
std::string_view to_string(Mode mode) noexcept;
// Throws kInvalidArgument for any other name.
Mode mode_from_string(const std::string& name);

Plan plan_for(Mode mode);

}  // namespace tandem
