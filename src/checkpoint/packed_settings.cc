// The quantization_config of AWQ, GPTQ and Quark checkpoints.
#include <fnmatch.h>

#include "base/error.h"
#include "base/printable.h"
#include "checkpoint/packed_linears.h"

namespace tandem {
namespace {

using Method = PackedScheme::Method;

PackedScheme read_awq(const JsonObject& config) {
  PackedScheme scheme{.method = Method::kAwq};
  scheme.bits = static_cast<int>(config.get_int_or("bits", 4, 1, 32));
  const std::string version = config.get_string_or("version", "gemm");
  if (scheme.bits != 4 || (version != "gemm" && version != "GEMM"))
    fail(ErrorCode::kUnsupported,
         "[packed] {}: expected 4 bits in the layout \"gemm\", got {} in \"{}\"", config.where(),
         scheme.bits, printable(version));
  scheme.reordered = config.get_string_or("pack_method", "reorder") != "order";
  return scheme;
}

PackedScheme read_gptq(const JsonObject& config) {
  PackedScheme scheme{.method = Method::kGptq};
  scheme.bits = static_cast<int>(config.get_int_or("bits", 4, 1, 32));
  if (scheme.bits != 2 && scheme.bits != 3 && scheme.bits != 4 && scheme.bits != 8)
    fail(ErrorCode::kUnsupported, "[packed] {}: expected 2, 3, 4 or 8 bits, got {}", config.where(),
         scheme.bits);
  const std::string format = config.get_string_or("checkpoint_format", "gptq");
  if (format != "gptq" && format != "gptq_v2")
    fail(ErrorCode::kUnsupported,
         "[packed] {}: checkpoint_format: expected \"gptq\" or \"gptq_v2\", got \"{}\"",
         config.where(), printable(format));
  scheme.zeros_minus_one = format == "gptq";
  return scheme;
}

// One of Quark's quantizers: {"dtype": "uint4", …}.
PackedScheme read_quark_weight(const JsonObject& owner, bool reordered) {
  if (!owner.has("weight")) return {};  // left as it was
  if (owner.at("weight").is_array())
    fail(ErrorCode::kUnsupported, "[packed] {}: weights quantized in two stages are not read here",
         owner.where());
  const JsonObject weight = owner.child("weight");
  const std::string dtype = weight.get_string("dtype");
  PackedScheme scheme{.method = Method::kQuark, .reordered = reordered};
  if (dtype == "int4" || dtype == "uint4") {
    scheme.bits = 4;
  } else if (dtype == "int8" || dtype == "uint8") {
    scheme.bits = 8;
  } else {
    fail(ErrorCode::kUnsupported,
         "[packed] {}: dtype: expected \"int4\", \"uint4\", \"int8\" or \"uint8\", got \"{}\"",
         weight.where(), printable(dtype));
  }
  scheme.is_signed = dtype[0] == 'i';
  return scheme;
}

}  // namespace

PackedSettings::PackedSettings(const JsonObject& config) {
  if (!config.has("quantization_config")) return;
  const JsonObject settings = config.child("quantization_config");
  const std::string method = settings.get_string_or("quant_method", "");
  if (method == "awq") {
    all_ = read_awq(settings);
  } else if (method == "gptq") {
    all_ = read_gptq(settings);
  } else if (method == "quark") {
    const JsonObject where_packed = settings.has("export") ? settings.child("export") : settings;
    const bool reordered = where_packed.get_string_or("pack_method", "reorder") != "order";
    all_ = read_quark_weight(settings.child("global_quant_config"), reordered);
    if (!settings.has("layer_quant_config")) return;
    const JsonObject layers = settings.child("layer_quant_config");
    for (const auto& [pattern, value] : layers.json().items()) {
      if (!value.is_null())
        overrides_.push_back({pattern, read_quark_weight(layers.child(pattern), reordered)});
    }
  } else {
    fail(ErrorCode::kUnsupported,
         "[packed] {}: quant_method: expected \"awq\", \"gptq\" or \"quark\", got \"{}\"",
         settings.where(), printable(method));
  }
}

PackedScheme PackedSettings::scheme(const std::string& module) const {
  for (const Override& entry : overrides_)
    if (::fnmatch(entry.pattern.c_str(), module.c_str(), 0) == 0) return entry.scheme;
  return all_;
}

}  // namespace tandem
