// Reading files by memory-mapping them, and writing them so that a reader sees the old content or
// the new, never a mixture.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/mapping_fault.h"

namespace tandem {

namespace fs = std::filesystem;

// Device, inode, size and the modification and status-change times to the nanosecond: as long as
// the stamp stays the same, so does the content. (Two writes within one tick of the file system's
// clock, a few milliseconds, may share a stamp.) Throws kNotFound or kIo, naming the path.
std::string file_stamp(const fs::path& path);

// A whole file, memory-mapped read-only. Pages are read on first touch and shared between
// processes.
class MappedFile {
 public:
  // `identity` identifies the content, for example by its hash; it defaults to the stamp of the
  // mapped file. Throws kNotFound or kIo, naming the path, and kFormat for a Git LFS pointer in the
  // file's place. An empty file gives an empty span.
  static std::shared_ptr<const MappedFile> open(const fs::path& path, std::string identity = {});
  // Maps `size` bytes of an open file from `offset`, a multiple of the page size; `name` stands for
  // its path in messages.
  static std::shared_ptr<const MappedFile> open_part(int descriptor, std::int64_t offset,
                                                     std::size_t size, const std::string& name);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const fs::path& path() const noexcept { return path_; }
  std::span<const std::byte> bytes() const noexcept { return bytes_; }
  // The file's stamp when it was mapped, as file_stamp() would have returned it.
  const std::string& stamp() const noexcept { return stamp_; }
  // Asks for the pages to be read and mapped 2 MiB at a time: fewer page faults and fewer misses of
  // the address translation cache. A hint, for files that are read whole: kernels and file systems
  // without large folios ignore it (ext4 has them since Linux 6.16, XFS since 5.18).
  void use_huge_pages() const noexcept;
  // Releases the memory used by `part`, which lies within bytes(); it is read again when next
  // needed.
  void release(std::span<const std::byte> part) const noexcept;
  // Files with the same identity have the same content, if `unchanged()` was true after it was
  // read.
  const std::string& identity() const noexcept { return identity_; }

  // False if the mapped file has been written to since it was opened, so that what is read from the
  // mapping may be a mixture of old and new. A file that was replaced or removed is still whole
  // here and counts as unchanged: its path now names another file, or none, and says nothing about
  // this one.
  bool unchanged() const;

 private:
  MappedFile(const fs::path& path, std::string identity, std::string stamp, int descriptor,
             std::int64_t offset, std::size_t size);
  fs::path path_;
  // No descriptor is kept for checking the file again: a model may be hundreds of files, and a
  // process is often limited to 1024 open descriptors.
  fs::path absolute_path_;
  std::string stamp_;
  std::string identity_;
  std::span<const std::byte> bytes_;
  std::optional<ListedMapping> listed_;
};

// The content of a small file. Throws kFormat if it is larger than max_bytes, or a Git LFS pointer.
std::string read_text_file(const fs::path& path, std::size_t max_bytes = std::size_t{1} << 30);

// Writes to a temporary file next to the target, flushes it to disk, then renames it over the
// target.
void write_text_file(const fs::path& path, std::string_view text);

// A folder that is filled next to its target and takes the target's place on commit(). The
// temporary name is ".NAME.tmp-PID"; the constructor removes what earlier, killed writers of the
// same target left behind (base/staging.h). At every moment the target is the whole old folder or
// the whole new one (renameat2 with RENAME_EXCHANGE; if the target exists, commit() throws kIo on a
// file system without it, such as NFS). One writer per target and process.
class StagedFolder {
 public:
  explicit StagedFolder(fs::path target);
  // Removes the temporary folder if commit() was not reached.
  ~StagedFolder();
  StagedFolder(const StagedFolder&) = delete;
  StagedFolder& operator=(const StagedFolder&) = delete;

  // Where to write; empty after commit().
  const fs::path& path() const noexcept { return staging_; }
  void commit();

 private:
  fs::path target_;
  fs::path staging_;
  // The temporary folder, open and locked for the lifetime of this writer.
  int lock_ = -1;
};

}  // namespace tandem
