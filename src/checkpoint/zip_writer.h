// Writes a zip archive of stored entries as PyTorch does, piece by piece: the size of each entry is
// known when it begins.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/staged_file.h"

namespace tandem {

class ZipWriter {
 public:
  explicit ZipWriter(const fs::path& path) : file_(path) {}

  // Begins the entry `name`, whose `size` bytes follow from append(). They begin at a multiple of 64
  // bytes, so that they can be used in place.
  void begin(const std::string& name, std::uint64_t size);
  // Throws kInvalidArgument for more bytes than the entry has.
  void append(std::span<const std::byte> bytes);
  // Writes the directory and flushes to disk. Throws kInvalidArgument unless the last entry is
  // complete.
  void finish();

 private:
  struct Entry {
    std::string name;
    std::uint64_t header = 0;
    std::uint64_t size = 0;
    std::uint32_t crc = 0;
  };

  // Checks that the last entry is complete, and writes its checksum.
  void close();

  StagedFile file_;
  std::vector<Entry> entries_;
  // Where the next byte goes.
  std::uint64_t end_ = 0;
  // Bytes that the last entry still lacks.
  std::uint64_t missing_ = 0;
};

}  // namespace tandem
