// Models by the names that they have on the Hugging Face hub.
#pragma once

#include "base/files.h"

namespace tandem {

// The folder where Hugging Face's tools keep what they download: $HF_HUB_CACHE, $HF_HOME/hub,
// $XDG_CACHE_HOME/huggingface/hub or ~/.cache/huggingface/hub; empty if none of these is known.
fs::path hub_cache_folder();

// `path` itself if it exists or is no name of the form ORGANIZATION/MODEL; for such a name, or its
// address on huggingface.co, the folder of its newest download,
// models--ORGANIZATION--MODEL/snapshots/(what refs/main says).
// Throws kNotFound, saying how to fetch the model, if it is in no cache.
fs::path find_model(const fs::path& path);

}  // namespace tandem
