// Mapping and reading files, and replacing a file atomically.
#include "base/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/staged_file.h"
#include "base/staging.h"

namespace tandem {
namespace {

std::string system_message(int code) { return std::generic_category().message(code); }

[[noreturn]] void fail_system(int code, const fs::path& path, const char* action) {
  const bool missing = code == ENOENT || code == ENOTDIR;
  fail(missing ? ErrorCode::kNotFound : ErrorCode::kIo, "[files] {}: cannot {}: {}", path.string(),
       action, system_message(code));
}

// Where Git LFS has not fetched a file's content, three short lines stand in its place. No file
// that is read here begins like them, and what its reader would say of them helps no one.
void refuse_lfs_pointer(std::string_view content, const fs::path& path) {
  constexpr std::size_t kLongest = 1024;
  if (content.size() > kLongest || !content.starts_with("version https://git-lfs.github.com/spec/"))
    return;
  fail(ErrorCode::kFormat,
       "[files] {}: is a Git LFS pointer, not the file that it stands for: fetch that with "
       "git lfs pull",
       path.string());
}

std::string stamp_of(const struct stat& status) {
  return fmt::format("{:x}-{:x}-{}-{}.{:09}-{}.{:09}", status.st_dev, status.st_ino, status.st_size,
                     status.st_mtim.tv_sec, status.st_mtim.tv_nsec, status.st_ctim.tv_sec,
                     status.st_ctim.tv_nsec);
}

// The part of a stamp that identifies the file: device and inode.
std::string_view file_of(std::string_view stamp) {
  return stamp.substr(0, stamp.find('-', stamp.find('-') + 1));
}

// An open file, closed at the end of the scope.
class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC)) {
    if (fd_ < 0) fail_system(errno, path, "open");
  }
  ~Descriptor() { ::close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const noexcept { return fd_; }

 private:
  int fd_;
};

}  // namespace

std::string file_stamp(const fs::path& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) fail_system(errno, path, "inspect");
  return stamp_of(status);
}

MappedFile::MappedFile(const fs::path& path, std::string identity, std::string stamp,
                       int descriptor, std::int64_t offset, std::size_t size)
    : path_(path), stamp_(std::move(stamp)) {
  std::error_code ignored;
  absolute_path_ = fs::absolute(path, ignored);
  identity_ = identity.empty() ? stamp_ : std::move(identity);
  if (size == 0) return;
  void* memory = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor, offset);
  if (memory == MAP_FAILED) fail_system(errno, path, "map");
  bytes_ = {static_cast<const std::byte*>(memory), size};
  listed_.emplace(bytes_, path_.c_str());
}

MappedFile::~MappedFile() {
  if (bytes_.empty()) return;
  // First, because once it is unmapped another file may be mapped at the same address.
  listed_.reset();
  ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

std::shared_ptr<const MappedFile> MappedFile::open(const fs::path& path, std::string identity) {
  // O_NONBLOCK, so that opening a pipe does not wait for a writer.
  const Descriptor file(path, O_RDONLY | O_NONBLOCK);
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) fail_system(errno, path, "inspect");
  if (!S_ISREG(status.st_mode))
    fail(ErrorCode::kIo, "[files] {}: is not a regular file", path.string());
  std::shared_ptr<const MappedFile> mapped(
      new MappedFile(path, std::move(identity), stamp_of(status), file.get(), 0,
                     static_cast<std::size_t>(status.st_size)));
  const std::span<const std::byte> bytes = mapped->bytes();
  refuse_lfs_pointer({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
  return mapped;
}

std::shared_ptr<const MappedFile> MappedFile::open_part(int descriptor, std::int64_t offset,
                                                        std::size_t size, const std::string& name) {
  struct stat status{};
  if (::fstat(descriptor, &status) != 0) fail_system(errno, name, "inspect");
  const std::string stamp = stamp_of(status);
  return std::shared_ptr<const MappedFile>(new MappedFile(
      name, fmt::format("{} from {}", stamp, offset), stamp, descriptor, offset, size));
}

bool MappedFile::unchanged() const {
  struct stat status{};
  if (::stat(absolute_path_.c_str(), &status) != 0) return errno == ENOENT || errno == ENOTDIR;
  const std::string now = stamp_of(status);
  return now == stamp_ || file_of(now) != file_of(stamp_);
}

void MappedFile::use_huge_pages() const noexcept {
  if (bytes_.empty()) return;
  ::madvise(const_cast<std::byte*>(bytes_.data()), bytes_.size(), MADV_HUGEPAGE);
}

void MappedFile::release(std::span<const std::byte> part) const noexcept {
  // Whole pages only: neighbouring data may be in use.
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const auto begin =
      (static_cast<std::size_t>(part.data() - bytes_.data()) + page - 1) / page * page;
  const std::size_t last = static_cast<std::size_t>(part.data() - bytes_.data()) + part.size();
  const std::size_t end = last == bytes_.size() ? last : last / page * page;
  if (begin < end)
    ::madvise(const_cast<std::byte*>(bytes_.data()) + begin, end - begin, MADV_DONTNEED);
}

std::string read_text_file(const fs::path& path, std::size_t max_bytes) {
  constexpr std::size_t kStep = std::size_t{1} << 20;
  const Descriptor file(path, O_RDONLY);
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) fail_system(errno, path, "inspect");
  if (S_ISDIR(status.st_mode))
    fail(ErrorCode::kInvalidArgument, "[files] {}: expected a file, got a folder", path.string());
  const auto announced = S_ISREG(status.st_mode) ? static_cast<std::size_t>(status.st_size) : 0;
  std::string text;
  std::size_t used = 0;
  // One byte more than the announced size, so that a regular file ends with the first read; pipes
  // announce no size.
  for (std::size_t want = announced + 1;; want = kStep) {
    if (used > max_bytes || announced > max_bytes)
      fail(ErrorCode::kFormat, "[files] {}: larger than the {} bytes expected at most",
           path.string(), max_bytes);
    text.resize(used + want);
    const ssize_t got = ::read(file.get(), text.data() + used, want);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_system(errno, path, "read");
    used += static_cast<std::size_t>(got);
    if (got == 0) break;
  }
  text.resize(used);
  refuse_lfs_pointer(text, path);
  return text;
}

void flush_to_disk(const fs::path& path) {
  const Descriptor file(path, O_RDONLY | O_NONBLOCK);
  // Some file systems cannot flush a folder and return EINVAL; they have nothing to flush.
  if (::fsync(file.get()) != 0 && errno != EINVAL) fail_system(errno, path, "flush to disk");
}

StagedFile::StagedFile(const fs::path& target, Durability durability) : durability_(durability) {
  std::error_code ignored;
  const fs::path resolved = fs::weakly_canonical(target, ignored);
  target_ = fs::absolute(resolved.empty() ? target : resolved).lexically_normal();
  if (!target_.has_filename() || fs::is_directory(target_, ignored))
    fail(ErrorCode::kInvalidArgument, "[files] {}: cannot write: is a folder", target.string());
  // Renaming over a device or a pipe would replace it.
  if (fs::exists(target_, ignored) && !fs::is_regular_file(target_, ignored))
    fail(ErrorCode::kIo, "[files] {}: cannot write: is not a regular file", target.string());
  const std::string name = target_.filename().string();
  remove_abandoned(target_.parent_path(), [&](std::string_view other) { return other == name; });
  // The last number tells apart threads of one process, and processes with the same id in different
  // containers.
  for (int attempt = 0; file_ < 0; ++attempt) {
    staging_ = target_.parent_path() /
               fmt::format("{}{}-{}", staging_prefix(name), static_cast<int>(::getpid()), attempt);
    file_ = ::open(staging_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file_ < 0) {
      if (errno != EEXIST) fail_system(errno, target_, "create");
    } else if (lock_staging(file_) == LockResult::kBusy || !names_same_file(staging_, file_)) {
      // Another writer took it for abandoned before it was locked, and has removed it or will.
      ::close(std::exchange(file_, -1));
    }
  }
}

StagedFile::~StagedFile() {
  if (file_ < 0) return;
  // In this order: once the lock is released, the name could belong to another writer.
  ::unlink(staging_.c_str());
  ::close(file_);
}

void StagedFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t wrote = ::pwrite(file_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) fail_system(errno, target_, "write");
    bytes = bytes.subspan(static_cast<std::size_t>(wrote));
    offset += static_cast<std::uint64_t>(wrote);
  }
}

void StagedFile::commit() {
  const bool flushed = durability_ == Durability::kFlushed;
  if (flushed && ::fsync(file_) != 0) fail_system(errno, target_, "flush to disk");
  if (::rename(staging_.c_str(), target_.c_str()) != 0) fail_system(errno, target_, "replace");
  ::close(file_);
  file_ = -1;
  if (flushed) flush_to_disk(target_.parent_path());
}

void write_text_file(const fs::path& path, std::string_view text) {
  StagedFile file(path);
  file.write_at(0, std::as_bytes(std::span(text)));
  file.commit();
}

}  // namespace tandem
