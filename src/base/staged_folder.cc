// Replacing a folder atomically.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <optional>
#include <system_error>
#include <thread>

#include "base/error.h"
#include "base/files.h"
#include "base/staged_file.h"
#include "base/staging.h"

namespace tandem {
namespace {

[[noreturn]] void fail_system(int code, const fs::path& target, const char* action) {
  fail(ErrorCode::kIo, "[files] {}: cannot {}: {}", target.string(), action,
       std::generic_category().message(code));
}

// Creates the folder `path`, open and locked. Returns nullopt if it already exists, or if another
// writer took it for abandoned before it was locked.
std::optional<int> create_locked(const fs::path& path, const fs::path& target) {
  if (::mkdir(path.c_str(), 0777) != 0) {
    if (errno != EEXIST) fail_system(errno, target, "create");
    return std::nullopt;
  }
  const int folder = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (folder < 0) {
    if (errno != ENOENT) fail_system(errno, target, "create");
    return std::nullopt;
  }
  if (lock_staging(folder) != LockResult::kBusy && names_same_file(path, folder)) return folder;
  ::close(folder);
  return std::nullopt;
}

void flush_tree(const fs::path& folder) {
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (!entry.is_symlink() && (entry.is_regular_file() || entry.is_directory()))
      flush_to_disk(entry.path());
  flush_to_disk(folder);
}

// Swaps `staging` and `target`; if there is no `target`, only renames `staging` to it.
void exchange(const fs::path& staging, const fs::path& target) {
  // Another writer may create or remove the target between the calls, but hardly eight times in a
  // row.
  constexpr int kAttempts = 8;
  int code = 0;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    if (::renameat2(AT_FDCWD, staging.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) == 0)
      return;
    code = errno;
    if (fs::exists(fs::symlink_status(target))) {
      if (code == ENOENT) continue;
      fail_system(code, target, "exchange with its new content (remove it first)");
    }
    // The target does not exist. A plain rename never replaces a folder that has content.
    if (::rename(staging.c_str(), target.c_str()) == 0) return;
    code = errno;
    if (code != EEXIST && code != ENOTEMPTY && code != ENOTDIR) break;
  }
  fail_system(code, target, "create");
}

}  // namespace

StagedFolder::StagedFolder(fs::path target) {
  std::error_code code;
  target_ = fs::weakly_canonical(fs::absolute(target), code);
  if (code) fail_system(code.value(), target, "find");
  if (!target_.has_filename()) target_ = target_.parent_path();
  if (!target_.has_filename()) fail_system(EINVAL, target, "replace");
  if (fs::exists(target_) && !fs::is_directory(target_)) fail_system(ENOTDIR, target_, "replace");
  fs::create_directories(target_.parent_path(), code);
  if (code) fail_system(code.value(), target_.parent_path(), "create");
  const std::string name = target_.filename().string();
  const fs::path staging = target_.parent_path() /
                           fmt::format("{}{}", staging_prefix(name), static_cast<int>(::getpid()));
  // A cleaner holds a folder only briefly; whoever holds it longer is writing it.
  constexpr int kAttempts = 20;
  constexpr std::chrono::milliseconds kMoment{1};
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    if (attempt > 0) std::this_thread::sleep_for(kMoment);
    remove_abandoned(target_.parent_path(), [&](std::string_view other) { return other == name; });
    if (const auto folder = create_locked(staging, target_)) {
      staging_ = staging;
      lock_ = *folder;
      return;
    }
  }
  fail(ErrorCode::kInvalidArgument,
       "[files] {}: this process, or one of the same number in another container, is writing it "
       "already",
       target_.string());
}

StagedFolder::~StagedFolder() {
  if (staging_.empty()) return;  // committed
  std::error_code ignored;
  fs::remove_all(staging_, ignored);
  if (lock_ >= 0) ::close(lock_);
}

void StagedFolder::commit() {
  if (staging_.empty())
    fail(ErrorCode::kInvalidArgument, "[files] {}: is committed already", target_.string());
  try {
    flush_tree(staging_);
    exchange(staging_, target_);
  } catch (const fs::filesystem_error& error) {
    fail_system(error.code().value(), target_, "replace");
  }
  flush_to_disk(target_.parent_path());
  // The old folder, if there was one, now has the temporary name.
  std::error_code ignored;
  fs::remove_all(staging_, ignored);
  staging_.clear();
  if (lock_ >= 0) ::close(lock_);
}

}  // namespace tandem
