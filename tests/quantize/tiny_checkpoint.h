// A small checkpoint that is quick to quantize, and packages of it.
#pragma once

#include "package/package_files.h"
#include "quantize/quantize_model.h"

namespace tandem::testing {

// A checkpoint with random weights and the demo model's tokenizer.
struct TinyShape {
  std::int64_t hidden = 64;
  std::int64_t intermediate = 128;
  std::int64_t layers = 2;
  std::int64_t heads = 2;
  std::int64_t kv_heads = 1;
  std::int64_t vocabulary = 4096;
  std::int64_t context = 256;
};
void write_tiny_checkpoint(const fs::path& folder, const TinyShape& shape = {});

// Few and short calibration windows; the head in groups of 32.
Recipe quick_recipe(std::int64_t group = 64);
// Calibrated on the demo model's text.
QuantizeReport quantize_quickly(const fs::path& checkpoint, const fs::path& target,
                                const Recipe& recipe = quick_recipe());

}  // namespace tandem::testing
