// Reads one exported case of AMD Quark (shared data folder quark/) and the float weights that it
// was made from.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "base/json.h"
#include "checkpoint/safetensors.h"
#include "quantize/block_runner.h"
#include "support.h"
#include "tensor/half.h"

namespace tandem::testing {

// Codes and parameters of one Linear, [n, k] and [n, k / group], signed where the scheme is.
struct QuarkLinear {
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t group = 0;
  std::vector<int> codes;
  std::vector<int> zero_points;
  std::vector<float> scales;
};

// A row-major matrix of small integers.
struct Codes {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::vector<int> values;
  int at(std::int64_t row, std::int64_t column) const {
    return values[static_cast<std::size_t>(row * columns + column)];
  }
};

// int32 [rows, words] -> [rows, 8 * words]: nibble i of a word holds column order[i] of its eight.
// A vector is one row.
inline Codes unpack_nibbles(const Tensor& words, const std::string& pack_method) {
  static constexpr std::array<int, 8> kReorder = {0, 2, 4, 6, 1, 3, 5, 7};
  Codes codes;
  codes.rows = words.shape().size() == 1 ? 1 : words.dim(0);
  codes.columns = words.elements() / codes.rows * 8;
  codes.values.resize(static_cast<std::size_t>(codes.rows * codes.columns));
  const auto packed = words.as<std::uint32_t>();
  for (std::size_t word = 0; word < packed.size(); ++word)
    for (std::size_t i = 0; i < 8; ++i) {
      const std::size_t column = pack_method == "order" ? i : static_cast<std::size_t>(kReorder[i]);
      codes.values[word * 8 + column] = static_cast<int>((packed[word] >> (4 * i)) & 15U);
    }
  return codes;
}

inline DType dtype_of_case(const Json& description) {
  return dtype_from_string(description.at("dtype").get<std::string>());
}

// One value as the case's model held it: Quark converts the checkpoint to the dtype it loads with.
inline float as_loaded(float value, DType dtype) {
  if (dtype == DType::kF16) return f16_to_float(float_to_f16(value));
  if (dtype == DType::kBF16) return bf16_to_float(float_to_bf16(value));
  return value;
}

// The text that the cases were calibrated on: a .npy file (version 1.0, little-endian int32, C
// order) of 16 windows of 512.
inline CalibrationWindows quark_windows() {
  const std::string bytes = read_text_file(shared_data() / "quark/calib_tokens.npy");
  std::uint16_t header = 0;
  std::memcpy(&header, bytes.data() + 8, 2);
  EXPECT_NE(bytes.find("'<i4'"), std::string::npos);
  EXPECT_NE(bytes.find("(16, 512)"), std::string::npos);
  CalibrationWindows windows{{}, 512};
  windows.ids.resize((bytes.size() - 10 - header) / 4);
  std::memcpy(windows.ids.data(), bytes.data() + 10 + header, windows.ids.size() * 4);
  return windows;
}

class QuarkCase {
 public:
  explicit QuarkCase(const std::string& name)
      : description(read_json_file(shared_data() / "quark" / name / "case.json")),
        file(SafetensorsFile::open(shared_data() / "quark" / name / "model.safetensors")),
        demo(SafetensorsFile::open(demo_dir() / "model.safetensors")) {}

  Json description;
  SafetensorsFile file;
  SafetensorsFile demo;  // the float checkpoint, bf16

  bool is_signed() const { return description.at("scheme").get<std::string>().starts_with("int4"); }

  // Names of the Linears whose packed weights the case kept.
  std::vector<std::string> linears() const {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : file.tensors)
      if (tensor.dtype() == DType::kI32 && name.ends_with(".weight"))
        names.push_back(name.substr(0, name.size() - std::string(".weight").size()));
    return names;
  }
  bool has_linear(const std::string& name) const {
    return part(name, ".weight", ".qweight") != nullptr;
  }

  // The float weight [n, k] of the checkpoint (bf16); the head is tied to the embedding.
  const Tensor& float_weight(const std::string& linear) const {
    return demo.tensors.at(linear == "lm_head" ? "model.embed_tokens.weight" : linear + ".weight");
  }

  QuarkLinear linear(const std::string& name) const {
    const std::string pack_method = description.at("pack_method").get<std::string>();
    const Codes codes = unpack_nibbles(*part(name, ".weight", ".qweight"), pack_method);
    const Codes zeros = unpack_nibbles(*part(name, ".weight_zero_point", ".qzeros"), pack_method);
    const std::vector<float> scales = part(name, ".weight_scale", ".scales")->to_floats();
    // Groups are stored transposed, [k, n]; a scale per channel is not, [n, k].
    const bool per_channel = description.value("per_channel", false);
    QuarkLinear result;
    result.n = float_weight(name).dim(0);
    result.k = float_weight(name).dim(1);
    result.group = per_channel ? result.k : description.at("group_size").get<std::int64_t>();
    const auto value = [&](int code) { return is_signed() && code > 7 ? code - 16 : code; };
    for (std::int64_t row = 0; row < result.n; ++row) {
      for (std::int64_t column = 0; column < result.k; ++column)
        result.codes.push_back(value(per_channel ? codes.at(row, column) : codes.at(column, row)));
      for (std::int64_t g = 0; g < result.k / result.group; ++g) {
        result.zero_points.push_back(value(zeros.at(g, row)));
        result.scales.push_back(scales[static_cast<std::size_t>(g * result.n + row)]);
      }
    }
    return result;
  }

 private:
  // By either layout's name; null if it has neither.
  const Tensor* part(const std::string& name, const char* native, const char* awq) const {
    for (const char* suffix : {native, awq})
      if (const auto found = file.tensors.find(name + suffix); found != file.tensors.end())
        return &found->second;
    return nullptr;
  }
};

}  // namespace tandem::testing
