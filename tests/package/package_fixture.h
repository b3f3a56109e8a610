// Small packages for tests, and ways to spoil them.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/json.h"
#include "base/thread_pool.h"
#include "package/build_package.h"
#include "package/package.h"
#include "support.h"

namespace tandem::testing {

// A checkpoint with random weights and the demo model's tokenizer; quick to make and to quantize.
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

// Few and short calibration windows, groups of 64.
Recipe quick_recipe();
BuildReport build_tiny_package(const fs::path& checkpoint, const fs::path& target,
                               const Recipe& recipe = quick_recipe());

std::string read_bytes(const fs::path& path);
// Without a flush to disk.
void write_bytes(const fs::path& path, const std::string& bytes);
Json read_manifest(const fs::path& package);
// Gives the manifest the hash that fits what it says, as one who means harm would.
void write_signed(const fs::path& package, Json manifest);
// Takes the size and hash of a changed file into the manifest.
void sign_file(const fs::path& package, const std::string& name);

// Names in a folder, sorted, hidden ones too.
std::vector<std::string> names_in(const fs::path& folder);

}  // namespace tandem::testing
