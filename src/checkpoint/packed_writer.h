// The reverse of packed_linears.h: 4- and 8-bit weights in the words of AWQ, GPTQ and AMD Quark, and
// the quantization_config that says how to read them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "tensor/weight.h"

namespace tandem {

struct PackedStyle {
  enum class Layout : std::uint8_t {
    // AutoAWQ's "gemm": qweight, qzeros and scales; asymmetric codes in groups of one size.
    kAwq,
    // Quark 0.8 to 0.13: weight, weight_zero_point and weight_scale; also symmetric codes, 8 bits,
    // one scale per row, and other groups for some modules.
    kQuark,
    // AutoGPTQ's: qweight packed along k, qzeros less 1, scales and g_idx; 4-bit codes of one form.
    kGptq,
  };
  Layout layout = Layout::kQuark;
  // The eight codes of a word hold columns 0 2 4 6 1 3 5 7 (as AWQ's always do), else 0 to 7 (as
  // GPTQ's always do).
  bool reordered = true;
};
std::string_view to_string(PackedStyle::Layout layout) noexcept;

// What becomes of one Linear.
struct PackedModule {
  std::string name;
  // False: it stays float.
  bool is_packed = false;
  // Of a packed one: symmetric codes in two's complement; input channels per scale, 0 for the row,
  // -1 for all rows; 4 or 8 bits.
  bool is_signed = false;
  std::int64_t group = 0;
  int bits = 4;

  bool has_form_of(const PackedModule& other) const {
    return bits == other.bits && is_signed == other.is_signed && group == other.group;
  }
};

// Empty if the style can hold all modules; else what is wrong, naming one.
std::string objection_to_style(const PackedStyle& style, const std::vector<PackedModule>& modules);

// A tensor of a packed Linear, under the module's name and a suffix such as ".qweight".
struct PackedTensor {
  std::string suffix;
  DType dtype = DType::kI32;
  Shape shape;
};
// True for 8-bit codes whose rows all have the same scale and zero point, and several of them.
bool has_one_scale(const GroupCodes& codes);
// Of a Linear [n, k] with scales of `scales`, in the order of pack().
std::vector<PackedTensor> packed_tensors(const PackedModule& module, std::int64_t n, std::int64_t k,
                                         DType scales, const PackedStyle& style);
// The codes, zero points and scales; zeros fill the last word of 4-bit codes. Throws
// kInvalidArgument for 4-bit codes with one scale per row unless k is a multiple of 8.
std::vector<Tensor> pack(const GroupCodes& codes, const PackedStyle& style);

// For config.json. Modules that share the commonest form are described once.
OrderedJson packed_config(const PackedStyle& style, const std::vector<PackedModule>& modules);

}  // namespace tandem
