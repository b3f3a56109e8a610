// Telling abandoned temporary files from those in use, by the lock that a writer holds.
//
// A writer locks its temporary file right after creating it and holds the lock until the file has
// its final name. Between creating and locking, a cleaner may take the file for abandoned, so a
// writer that does not get the lock, or finds the name gone once it has it, starts over.
#include "base/staging.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <system_error>

namespace tandem {
namespace {

constexpr std::string_view kMark = ".tmp-";

bool is_number(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

// The target of a temporary file with this name; nullopt if it is not such a name.
std::optional<std::string_view> target_of(std::string_view name) {
  const std::size_t mark = name.rfind(kMark);
  if (!name.starts_with('.') || mark == std::string_view::npos || mark < 2) return std::nullopt;
  const std::string_view id = name.substr(mark + kMark.size());
  const std::size_t hyphen = std::min(id.find('-'), id.size());
  if (!is_number(id.substr(0, hyphen))) return std::nullopt;
  if (hyphen < id.size() && !is_number(id.substr(hyphen + 1))) return std::nullopt;
  return name.substr(1, mark - 1);
}

std::chrono::system_clock::time_point modified(const struct stat& status) {
  return std::chrono::system_clock::time_point(std::chrono::seconds(status.st_mtim.tv_sec));
}

// When the file, or anything in the folder, was last written.
std::chrono::system_clock::time_point last_change(const fs::path& path, const struct stat& status) {
  auto latest = modified(status);
  if (!S_ISDIR(status.st_mode)) return latest;
  std::error_code ignored;
  for (fs::recursive_directory_iterator entry(path, ignored), end; entry != end;
       entry.increment(ignored)) {
    struct stat inner{};
    if (::lstat(entry->path().c_str(), &inner) == 0) latest = std::max(latest, modified(inner));
  }
  return latest;
}

void remove_if_abandoned(const fs::path& path) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) != 0) return;
  if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) return;
  // NFS grants an exclusive lock only on a file opened for writing.
  const int access = S_ISDIR(status.st_mode) ? O_RDONLY | O_DIRECTORY : O_RDWR;
  const int file = ::open(path.c_str(), access | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (file < 0) return;
  const LockResult lock = lock_staging(file);
  const auto age = std::chrono::system_clock::now() - last_change(path, status);
  // The writer may have finished in the meantime; the lock is then on the target.
  if (is_abandoned(lock, age) && names_same_file(path, file)) {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  ::close(file);
}

}  // namespace

std::string staging_prefix(std::string_view target) { return fmt::format(".{}{}", target, kMark); }

LockResult lock_staging(int descriptor) noexcept {
  int result = 0;
  do {
    result = ::flock(descriptor, LOCK_EX | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  if (result == 0) return LockResult::kLocked;
  return errno == EWOULDBLOCK ? LockResult::kBusy : LockResult::kNoLocks;
}

bool names_same_file(const fs::path& path, int descriptor) noexcept {
  struct stat named{};
  struct stat opened{};
  return ::lstat(path.c_str(), &named) == 0 && ::fstat(descriptor, &opened) == 0 &&
         named.st_dev == opened.st_dev && named.st_ino == opened.st_ino;
}

bool is_abandoned(LockResult lock, std::chrono::system_clock::duration age) noexcept {
  // No writer leaves its temporary file untouched for so long.
  constexpr std::chrono::hours kLongest{24};
  return lock == LockResult::kLocked || (lock == LockResult::kNoLocks && age > kLongest);
}

void remove_abandoned(const fs::path& folder,
                      const std::function<bool(std::string_view target)>& wanted) {
  std::error_code ignored;
  for (fs::directory_iterator entry(folder, ignored), end; entry != end; entry.increment(ignored)) {
    const std::string name = entry->path().filename().string();
    const auto target = target_of(name);
    if (target && wanted(*target)) remove_if_abandoned(entry->path());
  }
}

}  // namespace tandem
