// Mapping and reading files, and replacing one file whole.
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

namespace tandem {
namespace {

std::string system_message(int code) { return std::generic_category().message(code); }

[[noreturn]] void fail_system(int code, const fs::path& path, const char* action) {
  const bool missing = code == ENOENT || code == ENOTDIR;
  fail(missing ? ErrorCode::kNotFound : ErrorCode::kIo, "[files] {}: cannot {}: {}", path.string(),
       action, system_message(code));
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

MappedFile::MappedFile(fs::path path, std::span<const std::byte> bytes)
    : path_(std::move(path)), bytes_(bytes) {}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

std::shared_ptr<const MappedFile> MappedFile::open(const fs::path& path) {
  const Descriptor file(
      path, O_RDONLY | O_NONBLOCK);  // O_NONBLOCK: opening a pipe must not wait for a writer
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) fail_system(errno, path, "inspect");
  if (!S_ISREG(status.st_mode))
    fail(ErrorCode::kIo, "[files] {}: is not a regular file", path.string());
  const auto size = static_cast<std::size_t>(status.st_size);
  std::span<const std::byte> bytes;
  if (size > 0) {
    void* memory = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
    if (memory == MAP_FAILED) fail_system(errno, path, "map");
    bytes = {static_cast<const std::byte*>(memory), size};
  }
  return std::shared_ptr<const MappedFile>(new MappedFile(path, bytes));
}

std::string read_text_file(const fs::path& path, std::size_t max_bytes) {
  constexpr std::size_t kStep = std::size_t{1} << 20;
  const Descriptor file(path, O_RDONLY);
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) fail_system(errno, path, "inspect");
  const auto announced = S_ISREG(status.st_mode) ? static_cast<std::size_t>(status.st_size) : 0;
  std::string text;
  std::size_t used = 0;
  // One byte more than announced, so that the usual file ends with the first read; pipes announce
  // nothing.
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
  return text;
}

void flush_to_disk(const fs::path& path) {
  const Descriptor file(path, O_RDONLY | O_NONBLOCK);
  // Some file systems cannot flush a folder and say EINVAL; they have nothing to flush.
  if (::fsync(file.get()) != 0 && errno != EINVAL) fail_system(errno, path, "flush to disk");
}

StagedFile::StagedFile(const fs::path& target) {
  std::error_code ignored;
  const fs::path resolved = fs::weakly_canonical(target, ignored);
  target_ = fs::absolute(resolved.empty() ? target : resolved).lexically_normal();
  if (!target_.has_filename() || fs::is_directory(target_, ignored))
    fail(ErrorCode::kIo, "[files] {}: cannot write: is a folder", target.string());
  // Renaming over a device or a pipe would replace it.
  if (fs::exists(target_, ignored) && !fs::is_regular_file(target_, ignored))
    fail(ErrorCode::kIo, "[files] {}: cannot write: is not a regular file", target.string());
  // Threads of one process, and what a killed one left behind, differ by the last number.
  for (int attempt = 0; file_ < 0; ++attempt) {
    staging_ = target_.parent_path() / fmt::format(".{}.tmp-{}-{}", target_.filename().string(),
                                                   static_cast<int>(::getpid()), attempt);
    file_ = ::open(staging_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file_ < 0 && errno != EEXIST) fail_system(errno, target_, "create");
  }
}

StagedFile::~StagedFile() {
  if (file_ < 0) return;
  ::close(file_);
  ::unlink(staging_.c_str());
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
  if (::fsync(file_) != 0) fail_system(errno, target_, "flush to disk");
  if (::rename(staging_.c_str(), target_.c_str()) != 0) fail_system(errno, target_, "replace");
  ::close(file_);
  file_ = -1;
  flush_to_disk(target_.parent_path());
}

void write_text_file(const fs::path& path, std::string_view text) {
  StagedFile file(path);
  file.write_at(0, std::as_bytes(std::span(text)));
  file.commit();
}

}  // namespace tandem
