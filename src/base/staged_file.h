// A file that is written beside its target and takes the target's place when it is complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/files.h"

namespace tandem {

class StagedFile {
 public:
  // Throws kIo or kNotFound (no such folder), naming the target. A link as target is followed.
  explicit StagedFile(const fs::path& target);
  ~StagedFile();  // removes the temporary file if commit() was not reached
  StagedFile(const StagedFile&) = delete;
  StagedFile& operator=(const StagedFile&) = delete;

  const fs::path& target() const noexcept { return target_; }
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  void commit();  // flushes to disk, then renames

 private:
  fs::path target_;
  fs::path staging_;
  int file_ = -1;
};

// Flushes a file or folder to disk; throws kIo naming it.
void flush_to_disk(const fs::path& path);

}  // namespace tandem
