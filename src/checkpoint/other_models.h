// Folders and files that are often given in place of a checkpoint.
#pragma once

#include <string>

#include "base/files.h"

namespace tandem {

// What `path`, a folder or a file, is instead of a checkpoint, and what to do: "is a LoRA adapter,
// …". Empty for anything else. Judged by names, not by content.
std::string describe_other_model(const fs::path& path);

// The same for a file that is in none of the formats of weights, but belongs to a checkpoint:
// config.json, tokenizer.json and the like.
std::string describe_checkpoint_file(const fs::path& file);

}  // namespace tandem
