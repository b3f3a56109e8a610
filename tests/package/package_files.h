// Files of packages as tests read, spoil and sign them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <vector>

#include "base/hash.h"
#include "base/json.h"
#include "base/thread_pool.h"
#include "package/package.h"
#include "support.h"

namespace tandem::testing {

inline std::string read_bytes(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// Without a flush to disk.
inline void write_bytes(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

// Names in a folder, sorted, hidden ones too.
inline std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

inline Json read_manifest(const fs::path& package) {
  return read_json_file(package / kManifestFile);
}

// Gives the manifest the hash that fits what it says, as one who means harm would.
inline void write_signed(const fs::path& package, Json manifest) {
  if (manifest.is_object()) manifest["hash"] = manifest_hash(manifest);
  write_bytes(package / kManifestFile, manifest.dump(2));
}

// Takes the size and hash of a changed file into the manifest.
inline void sign_file(const fs::path& package, const std::string& name) {
  ThreadPool pool(1);
  const std::string bytes = read_bytes(package / name);
  Json manifest = read_manifest(package);
  manifest["files"][name] = {{"bytes", bytes.size()},
                             {"hash", content_hash_tree(std::as_bytes(std::span(bytes)), pool)}};
  write_signed(package, std::move(manifest));
}

}  // namespace tandem::testing
