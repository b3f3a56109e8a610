// The table of operators. A new operator needs a name in Op, its attributes, a rule and a row here.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace tandem {

// A node about to be added: the input of its rule.
struct Inspection {
  Op op;
  const std::string& name;
  std::span<const Value> inputs;
  const Attributes& attributes;
};

struct OpInfo {
  Op op;
  // The name in dumps, placement tables and stored graphs: "RmsNorm".
  std::string_view name;
  // The module in error messages: "rms_norm".
  std::string_view error_part;
  // Infers the values that the node writes, named like the node. Throws kFormat naming the node if
  // the number, types, widths or rows of the inputs do not fit, or the attributes are not those of
  // the operator.
  std::vector<Value> (*infer)(const Inspection&);
  // What distinguishes a node besides its inputs; each part starts with a space.
  std::string (*describe)(const Attributes&);
  // The operator's attributes with default values.
  Attributes (*attributes)();
};

const OpInfo& info(Op op) noexcept;
std::span<const OpInfo> all_ops() noexcept;
std::optional<Op> find_op(std::string_view name) noexcept;

std::vector<Value> infer_outputs(const Inspection& node);

// Maximum input channels of an int8 Linear: beyond that, an int32 sum might not be exact.
inline constexpr std::int64_t kMaxInt8K = 65536;
// The largest int16 code that Linears multiply, 256 h + l with h and l of at most 127: what is beyond
// it counts as it.
inline constexpr int kMaxInt16Code = 127 * 256 + 127;

}  // namespace tandem
