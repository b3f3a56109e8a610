// Temporary files and folders next to their targets: how they are named, how a writer holds its
// own, and how leftovers of killed writers are told from files still being written.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <string_view>

#include "base/files.h"

namespace tandem {

// ".NAME.tmp-": the prefix of all temporary files and folders of the target NAME. A process id
// follows and, for files, a hyphen and a number. These only keep writers apart: in another
// container the same id is another process.
std::string staging_prefix(std::string_view target);

// The result of trying to lock a file or folder.
enum class LockResult {
  kLocked,
  // Another process holds the lock.
  kBusy,
  // The file system has no such locks (some network file systems).
  kNoLocks,
};

// Takes an exclusive lock on the open file or folder `descriptor` without blocking. The lock ends
// when the descriptor is closed, at the latest when the process ends.
LockResult lock_staging(int descriptor) noexcept;

// True if `path` still names the file open as `descriptor`: it was not replaced, renamed or removed
// since it was opened.
bool names_same_file(const fs::path& path, int descriptor) noexcept;

// True if a temporary file that was last changed `age` ago no longer has a writer: its lock was
// free or, on a file system without locks, it has not been touched for a day.
bool is_abandoned(LockResult lock, std::chrono::system_clock::duration age) noexcept;

// Removes from `folder` the abandoned temporary files and folders of those targets (file names) for
// which `wanted` is true. Symbolic links and anything that cannot be opened are left alone. Throws
// only what `wanted` throws.
void remove_abandoned(const fs::path& folder,
                      const std::function<bool(std::string_view target)>& wanted);

}  // namespace tandem
