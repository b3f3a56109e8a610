// What a node's output looks like, from its inputs and attributes; the one place where operators
// are described.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "graph/graph.h"

namespace tandem {

// The name of an operator as errors carry it in brackets: "linear", "rms_norm".
std::string_view error_part(Op op) noexcept;

// The value that `op` writes (named like the node), given the values that it reads. Throws kFormat
// naming the node if the number, types, widths or rows of the inputs do not fit, or the attributes
// are not those of the operator.
Value infer_output(Op op, const std::string& name, std::span<const Value> inputs,
                   const Attributes& attributes);

}  // namespace tandem
