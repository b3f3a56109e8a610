// Replacing a folder whole, and clearing away what killed writers left.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <optional>
#include <system_error>

#include "base/error.h"
#include "base/files.h"
#include "base/staged_file.h"

namespace tandem {
namespace {

[[noreturn]] void fail_system(int code, const fs::path& target, const char* action) {
  fail(ErrorCode::kIo, "[files] {}: cannot {}: {}", target.string(), action,
       std::generic_category().message(code));
}

std::string staging_prefix(const fs::path& target) {
  return fmt::format(".{}.tmp-", target.filename().string());
}

// The process that writes, or wrote, the temporary folder `name`; nothing if it is not one of the
// target's.
std::optional<pid_t> writer_of(const std::string& name, const std::string& prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  pid_t pid = 0;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + prefix.size(), end, pid);
  if (error != std::errc{} || stop != end || pid <= 0) return std::nullopt;
  return pid;
}

// A process number may have been given to somebody else, above all in containers; then only the
// litter stays longer.
bool is_alive(pid_t pid) { return ::kill(pid, 0) == 0 || errno == EPERM; }

// An open folder with an exclusive lock that ends with this process; -1 if somebody holds it or it
// is gone.
int lock_folder(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return -1;
  // A file system without locks is no reason to refuse; there the process number alone decides.
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return fd;
  ::close(fd);
  return -1;
}

// Half-written folders, and old ones whose writer was killed between the exchange and their
// removal.
void remove_litter(const fs::path& target) {
  const std::string prefix = staging_prefix(target);
  std::error_code ignored;
  for (fs::directory_iterator entry(target.parent_path(), ignored), end; entry != end;
       entry.increment(ignored)) {
    const auto writer = writer_of(entry->path().filename().string(), prefix);
    if (!writer || (*writer != ::getpid() && is_alive(*writer))) continue;
    const int lock = lock_folder(entry->path());
    if (lock < 0) continue;
    fs::remove_all(entry->path(), ignored);
    ::close(lock);
  }
}

void flush_tree(const fs::path& folder) {
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (!entry.is_symlink() && (entry.is_regular_file() || entry.is_directory()))
      flush_to_disk(entry.path());
  flush_to_disk(folder);
}

// Puts `staging` where `target` is, and `target`, if there is one, where `staging` was.
void exchange(const fs::path& staging, const fs::path& target) {
  // Another writer may create or remove the target between our calls; a handful of times is no
  // accident.
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
    // Nothing is there. A plain rename never replaces a folder that has content.
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
  remove_litter(target_);
  const fs::path staging = target_.parent_path() /
                           (staging_prefix(target_) + std::to_string(static_cast<int>(::getpid())));
  if (::mkdir(staging.c_str(), 0777) != 0) {
    if (errno == EEXIST)
      fail(ErrorCode::kInvalidArgument, "[files] {}: this process is writing it already",
           target_.string());
    fail_system(errno, target_, "create");
  }
  staging_ = staging;
  lock_ = lock_folder(staging_);
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
  // The old folder, if there was one, lies under the temporary name now.
  std::error_code ignored;
  fs::remove_all(staging_, ignored);
  staging_.clear();
  if (lock_ >= 0) ::close(lock_);
}

}  // namespace tandem
