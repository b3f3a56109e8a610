// Packed weights kept in files between starts, named by the hash of what they were packed from.
#pragma once

#include <map>
#include <string>

#include "base/files.h"
#include "base/thread_pool.h"
#include "devices/device.h"

namespace tandem {

// Files FOLDER/KEY.panels: a header with the key, the size and the hash of the panels, then the
// panels. A file is written beside and renamed, so it is whole or absent; one that doesn't fit its
// header, or whose header doesn't fit the key, is packed anew. A folder that can't be written to
// gives one warning. Within one process a key is packed once.
class FilePackedCache : public PackedCache {
 public:
  // The folder is created when first needed; `pool` computes hashes and must outlive the cache.
  FilePackedCache(fs::path folder, ThreadPool& pool);
  Tensor get_or_pack(const std::function<std::string()>& key, std::int64_t bytes,
                     const std::function<void(std::byte*)>& pack) override;

  int packed() const noexcept {
    return packed_;
  }  // weights packed by this process, not found in the cache

 private:
  void keep(const fs::path& path, const std::string& key, Tensor& panels);

  fs::path folder_;
  ThreadPool& pool_;
  std::map<std::string, Tensor> in_memory_;
  int packed_ = 0;
  bool prepared_ = false;  // the folder exists and holds no litter
  bool refused_ = false;   // by the system: nothing more is written
};

// $TANDEM_CACHE, else $XDG_CACHE_HOME/tandem, else ~/.cache/tandem; empty (no cache) without a
// home.
fs::path default_cache_folder();

}  // namespace tandem
