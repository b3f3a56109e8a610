// What mllm's three scripts do with a configuration (mllm_config.h): look at activations, and export
// a model for the NPU and one for the CPU.
#pragma once

#include <cstdint>
#include <optional>

#include "base/files.h"
#include "base/observer.h"
#include "base/thread_pool.h"
#include "quantize/activation_profile.h"
#include "quantize/export_mllm.h"
#include "quantize/mllm_config.h"

namespace tandem {

struct ProfileReport {
  ActivationProfile profile;
  std::int64_t samples = 0;
  // Of all samples together.
  std::int64_t tokens = 0;
};

// Writes the profile, and the matrices if they are random and have a place. A sample is a document of
// JSON lines, of which the first 6000 characters are read, as mllm does, but `longest` tokens at most,
// and those of the model's context; or as many tokens (512, unless they are given) of a plain text,
// which has no documents. Throws kInvalidArgument for no text, and what read_rotations() and rotate()
// throw. Warns of fewer samples than were asked for.
ProfileReport profile_model(const MllmProfileConfig& config, bool is_signed,
                            std::optional<std::int64_t> longest, ThreadPool& pool,
                            Observer& observer);

// Throws kInvalidArgument without clip_all and t01m_clip_threshold, and as export_mllm_int8().
MllmInt8Report export_int8_model(const MllmExportConfig& config, Observer& observer);

void export_rotated_model(const MllmExportConfig& config, Observer& observer);

}  // namespace tandem
