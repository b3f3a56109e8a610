// The files of the cache as a user sees them: how large, how long unused, and getting rid of them.
// Everything in it can be made again; removing files is safe while other processes run, which keep
// what they have mapped.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/files.h"

namespace tandem {

inline constexpr std::string_view kPanelSuffix = ".panels";
inline constexpr std::string_view kRecordSuffix = ".verified";

struct CacheFile {
  std::string name;
  std::int64_t bytes = 0;
  std::chrono::sys_seconds last_used = {};
};

// Packed weights and records of verified files, the longest unused first; empty for a folder that
// does not exist. Other files are not the cache's.
std::vector<CacheFile> list_cache(const fs::path& folder);

struct CachePruning {
  // Of all files together; 0: they may have any size.
  std::int64_t max_bytes = 0;
  // Files that were not used since then go in any case.
  std::optional<std::chrono::sys_seconds> unused_since = {};
  // Files that were used since then stay in any case.
  std::optional<std::chrono::sys_seconds> in_use_since = {};
};
struct RemovedFiles {
  std::int64_t files = 0;
  std::int64_t bytes = 0;
};
// The longest unused go first. A file that can't be removed is left out.
RemovedFiles prune_cache(const fs::path& folder, const CachePruning& pruning);
// All files of the cache, and what killed writers left.
RemovedFiles clear_cache(const fs::path& folder);

// Notes that a file was used now, for the order above.
void mark_used(const fs::path& file) noexcept;

}  // namespace tandem
