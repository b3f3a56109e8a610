// The last use of a file is its access time, which is set here: mounts often don't keep it.
#include "package/cache_folder.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>

#include "base/staging.h"

namespace tandem {
namespace {

bool is_of_cache(std::string_view name) {
  return !name.starts_with('.') && (name.ends_with(kPanelSuffix) || name.ends_with(kRecordSuffix));
}

}  // namespace

std::vector<CacheFile> list_cache(const fs::path& folder) {
  std::vector<CacheFile> files;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; entry != end; entry.increment(error)) {
    std::string name = entry->path().filename().string();
    struct stat status{};
    if (!is_of_cache(name) || ::lstat(entry->path().c_str(), &status) != 0 ||
        !S_ISREG(status.st_mode))
      continue;
    const auto used = std::max(status.st_atim.tv_sec, status.st_mtim.tv_sec);
    files.push_back(
        {std::move(name), status.st_size, std::chrono::sys_seconds(std::chrono::seconds(used))});
  }
  std::ranges::sort(files, [](const CacheFile& a, const CacheFile& b) {
    return a.last_used != b.last_used ? a.last_used < b.last_used : a.name < b.name;
  });
  return files;
}

RemovedFiles prune_cache(const fs::path& folder, const CachePruning& pruning) {
  const std::vector<CacheFile> files = list_cache(folder);
  std::int64_t left = 0;
  for (const CacheFile& file : files) left += file.bytes;
  RemovedFiles removed;
  for (const CacheFile& file : files) {
    const bool too_large = pruning.max_bytes > 0 && left > pruning.max_bytes;
    const bool unused = pruning.unused_since && file.last_used < *pruning.unused_since;
    const bool in_use = pruning.in_use_since && file.last_used >= *pruning.in_use_since;
    std::error_code error;
    if (in_use || !(too_large || unused) || !fs::remove(folder / file.name, error)) continue;
    left -= file.bytes;
    ++removed.files;
    removed.bytes += file.bytes;
  }
  return removed;
}

RemovedFiles clear_cache(const fs::path& folder) {
  remove_abandoned(folder, is_of_cache);
  return prune_cache(folder, {.unused_since = std::chrono::sys_seconds::max()});
}

void mark_used(const fs::path& file) noexcept {
  const std::array<timespec, 2> times = {timespec{.tv_sec = 0, .tv_nsec = UTIME_NOW},
                                         timespec{.tv_sec = 0, .tv_nsec = UTIME_OMIT}};
  // Without the right to do so, the file only looks less used.
  static_cast<void>(::utimensat(AT_FDCWD, file.c_str(), times.data(), 0));
}

}  // namespace tandem
