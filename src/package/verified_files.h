// Records the content hashes of files, so that a large file is read once and not at every start.
#pragma once

#include <string>

#include "base/files.h"
#include "base/thread_pool.h"

namespace tandem {

// Remembers hashes by file stamp: device, inode, size and times. A file that was changed in any way
// has another stamp and is hashed again.
class VerifiedFiles {
 public:
  // Records are kept in `folder`, which is created when first needed; if empty, or if it cannot be
  // written to, nothing is remembered.
  explicit VerifiedFiles(fs::path folder) : folder_(std::move(folder)) {}

  // The content hash (content_hash_tree() in base/hash.h) of a mapped file: as remembered,
  // or recomputed if `anew` is set.
  std::string hash_of(const MappedFile& file, ThreadPool& pool, bool anew) const;

 private:
  fs::path folder_;
};

}  // namespace tandem
