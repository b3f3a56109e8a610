// Linears packed by AWQ, GPTQ or AMD Quark, integer codes in 32-bit words with scales and zero
// points alongside, the int8 Linears of mllm, and Linears of 8-bit floats with scales, in the
// layouts and under the names that the tools write.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "base/observer.h"
#include "checkpoint/tensor_store.h"

namespace tandem {

// Column of eight that each nibble of a word of AutoAWQ's holds.
inline constexpr std::array<std::int64_t, 8> kAwqColumns = {0, 2, 4, 6, 1, 3, 5, 7};

// How a Linear is packed, as far as its tensors don't show it.
struct PackedScheme {
  enum class Method { kNone, kAwq, kGptq, kQuark, kF8 };
  Method method = Method::kNone;
  int bits = 4;
  // Codes are in two's complement.
  bool is_signed = false;
  // The eight codes of a word hold columns 0 2 4 6 1 3 5 7.
  bool reordered = true;
  // Stored zero points are one too low (GPTQ version 1).
  bool zeros_minus_one = false;
  // Every zero point is the middle of the codes (GPTQ's "sym").
  bool symmetric = false;
  // Of 8-bit floats with a matrix of scales: the rows and columns that share one, [128, 128] for
  // example. 0 if a scale is for the tensor or for a row.
  std::array<std::int64_t, 2> block = {0, 0};
};

// The settings that AutoGPTQ and earlier versions of AutoAWQ write beside config.json, as a
// quantization_config.
struct SeparateSettings {
  // quantize_config.json or quant_config.json; empty if neither is there or describes weights.
  fs::path file;
  // With quant_method, in the spelling of a quantization_config.
  Json settings = Json::object();
};

// Reads them from a model's folder. Throws kFormat for a file that is not JSON.
SeparateSettings read_separate_settings(const fs::path& folder);

// The quantization_config of a config.json.
class PackedSettings {
 public:
  PackedSettings() = default;
  // Throws kUnsupported for a method or scheme that is not supported, such as bitsandbytes.
  explicit PackedSettings(const JsonObject& config);
  // The same, or if there is no quantization_config, of `separate`. Where both are there and
  // contradict each other, the first holds and `observer` is warned.
  PackedSettings(const JsonObject& config, const SeparateSettings& separate, Observer& observer);

  PackedScheme scheme(const std::string& module) const;

 private:
  void read(const JsonObject& settings);

  struct Override {
    // With the wildcards * and ?.
    std::string pattern;
    PackedScheme scheme;
  };
  PackedScheme all_;
  std::vector<Override> overrides_;
};

// True if `module` has codes and scales rather than a float weight. 8-bit floats with a scale count
// as codes.
bool is_packed(const TensorStore& store, const std::string& module);

// True if any module is in mllm's int8.
bool has_mllm_codes(const TensorStore& store);

// Throws kNotFound naming a module of 8-bit floats that `settings` say have scales, but has none.
// `place` starts messages.
void require_scales(const TensorStore& store, const PackedSettings& settings,
                    const std::string& place);

// True if `name` is one of the parts of a packed module, its codes, scales, zero points, index, or
// the scale of a quantized KV cache.
bool is_packed_part(const TensorStore& store, const std::string& name);

// [n, k] of a packed module, derived from its parts.
Shape packed_shape(const TensorStore& store, const PackedSettings& settings,
                   const std::string& module);

// The weight of a packed module, [n, k]: GroupCodes for 4- and 8-bit codes in groups of consecutive
// columns, unsigned with zero points, as they are stored; ChannelCodes for symmetric int8 with one
// scale per row or tensor; else, and for 8-bit floats, dequantized to F16, or to F32 if F16 would
// lose the smallest or the largest values. `place` starts messages.
Weight read_packed_linear(const TensorStore& store, const PackedSettings& settings,
                          const std::string& module, std::int64_t n, std::int64_t k,
                          const std::string& place);

// The static int8 scale of the module's input, if the file has one (Quark's W8A8, or mllm's, which
// stores 127 times as much); 0 if not, and for 8-bit floats, whose inputs are not quantized here.
// Throws kFormat unless it is a single finite float >= 0.
float read_packed_input_scale(const TensorStore& store, const std::string& module,
                              const std::string& place);

// Whether that scale may be too small for some values, which are then to be computed apart: in mllm's
// models, "clip_input" of 0 says so. Throws kFormat unless it is a single byte.
bool has_unclipped_input(const TensorStore& store, const std::string& module,
                         const std::string& place);

}  // namespace tandem
