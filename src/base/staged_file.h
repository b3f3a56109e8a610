// A file that is written next to its target and replaces the target when it is complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/files.h"

namespace tandem {

enum class Durability {
  // Content, then name, are on disk when commit() returns.
  kFlushed,
  // Whenever the system gets to it: for files that can be recreated, and whose reader can tell a
  // whole file from what a power failure left.
  kNone,
};

class StagedFile {
 public:
  // Removes what killed writers of the same target left behind (base/staging.h). Throws kIo,
  // kNotFound (no such folder) or kInvalidArgument (a folder), naming the target. A target that is
  // a symbolic link is followed.
  explicit StagedFile(const fs::path& target, Durability durability = Durability::kFlushed);
  // Removes the temporary file if commit() was not reached.
  ~StagedFile();
  StagedFile(const StagedFile&) = delete;
  StagedFile& operator=(const StagedFile&) = delete;

  const fs::path& target() const noexcept { return target_; }
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  // Flushes to disk if `durability` says so, then renames.
  void commit();

 private:
  fs::path target_;
  fs::path staging_;
  Durability durability_;
  // Locked for the lifetime of this writer; -1 after commit().
  int file_ = -1;
};

// Flushes a file or folder to disk; throws kIo naming it.
void flush_to_disk(const fs::path& path);

}  // namespace tandem
