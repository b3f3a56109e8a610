// Linears whose weights AWQ, GPTQ or AMD Quark packed: integer codes in 32-bit words with scales
// and zero points beside them, in the layouts and under the names that those tools write.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "checkpoint/tensor_store.h"

namespace tandem {

// How one Linear is packed, as far as its tensors don't say.
struct PackedScheme {
  enum class Method { kNone, kAwq, kGptq, kQuark };
  Method method = Method::kNone;
  int bits = 4;
  bool is_signed = false;        // codes in two's complement
  bool reordered = true;         // eight codes of a word hold columns 0 2 4 6 1 3 5 7
  bool zeros_minus_one = false;  // stored zero points are one too low (GPTQ version 1)
};

// The quantization_config of a config.json.
class PackedSettings {
 public:
  PackedSettings() = default;
  // kUnsupported for a method or a scheme that is not read here, such as fp8.
  explicit PackedSettings(const JsonObject& config);

  PackedScheme scheme(const std::string& module) const;

 private:
  struct Override {
    std::string pattern;  // with * and ?
    PackedScheme scheme;
  };
  PackedScheme all_;
  std::vector<Override> overrides_;
};

// True if `module` has codes and scales rather than a float weight.
bool is_packed(const TensorStore& store, const std::string& module);

// True if `name` is one of the parts of a packed module: its codes, scales, zero points, index.
bool is_packed_part(const TensorStore& store, const std::string& name);

// [n, k] of a packed module, as its parts have it.
Shape packed_shape(const TensorStore& store, const PackedSettings& settings,
                   const std::string& module);

// The weight of a packed module, [n, k]: Int4Groups for 4-bit codes whose groups are made of whole
// 32s and whose scales are normal numbers in F16 (scales in BF16 or F32 are rounded to F16);
// Int8Channels for symmetric int8; else the values in F16, or in F32 where F16 would lose the
// smallest or the largest. `place` begins messages.
Weight read_packed_linear(const TensorStore& store, const PackedSettings& settings,
                          const std::string& module, std::int64_t n, std::int64_t k,
                          const std::string& place);

}  // namespace tandem
