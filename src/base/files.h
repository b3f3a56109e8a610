// Reading files by mapping them, and writing them so that a reader sees the old or the new content,
// never a part.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace tandem {

namespace fs = std::filesystem;

// A whole file mapped read-only. Pages are read on first touch and shared between processes.
class MappedFile {
 public:
  // Throws kNotFound or kIo, naming the path. An empty file gives an empty span.
  static std::shared_ptr<const MappedFile> open(const fs::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const fs::path& path() const noexcept { return path_; }
  std::span<const std::byte> bytes() const noexcept { return bytes_; }

 private:
  MappedFile(fs::path path, std::span<const std::byte> bytes);
  fs::path path_;
  std::span<const std::byte> bytes_;
};

// The content of a small file. Throws kFormat if it is larger than max_bytes.
std::string read_text_file(const fs::path& path, std::size_t max_bytes = std::size_t{1} << 30);

// Writes beside the target, flushes to disk, then renames over it.
void write_text_file(const fs::path& path, std::string_view text);

// A folder that is filled beside its target and takes the target's place on commit(). The temporary
// name is ".NAME.tmp-PID"; the constructor removes what earlier, killed writers of the same target
// left behind. At every moment the target is the old folder or the new one, whole (renameat2 with
// RENAME_EXCHANGE; commit() throws kIo on a file system without it, such as NFS, if the target
// exists). One writer of a target per process.
class StagedFolder {
 public:
  explicit StagedFolder(fs::path target);
  ~StagedFolder();  // removes the temporary folder if commit() was not reached
  StagedFolder(const StagedFolder&) = delete;
  StagedFolder& operator=(const StagedFolder&) = delete;

  const fs::path& path() const noexcept { return staging_; }  // write here; empty after commit()
  void commit();

 private:
  fs::path target_;
  fs::path staging_;
  int lock_ = -1;  // of the temporary folder: held as long as this writer lives
};

}  // namespace tandem
