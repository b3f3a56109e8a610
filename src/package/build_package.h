// From a float checkpoint to a package: calibrate, quantize each Linear twice (int4 for decode,
// static int8 for prefill), and write the folder so that a reader sees the old one or the new one,
// whole.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/thread_pool.h"

namespace tandem {

// Settings of `tandem quantize`; what is not said here is in the recipe part of tandem.json.
struct Recipe {
  std::int64_t group_size = 128;         // int4: 32, 64 or 128
  std::int64_t lm_head_group_size = 32;  // int4 of the head; 0 leaves the head in float
  std::vector<std::string>
      exclude;  // module names that stay float in decode and on the CPU in prefill; * matches any
  // Static activation scale from calibration: what rounds with the least squared error
  // ("least_error"), the largest |x| ("max"), or its 99.9th percentile ("percentile").
  std::string input_scale = "least_error";
  std::int64_t chunk = 128;    // rows of an NPU program
  std::int64_t samples = 128;  // calibration windows, at most
  std::int64_t window = 512;   // tokens in each
};

struct BuildReport {
  std::int64_t linears = 0;
  std::int64_t calibration_tokens = 0;
  std::int64_t decode_bytes = 0;  // of decode.safetensors
  std::int64_t prefill_bytes = 0;
};

// Reads `checkpoint`, calibrates on the text file `calibration`, writes `target`, which must be
// absent, empty or a package. Throws kInvalidArgument for a recipe that doesn't fit the model,
// naming the module, and kCancelled soon after `cancelled` says true; the target is then as it was.
// Progress goes to standard error.
BuildReport build_package(const fs::path& checkpoint, const fs::path& calibration,
                          const fs::path& target, const Recipe& recipe, ThreadPool& pool,
                          const std::function<bool()>& cancelled = {});

}  // namespace tandem
