// Packed weights kept in files between starts, named by the hash of what they were packed from.
#pragma once

#include <map>
#include <string>

#include "base/files.h"
#include "devices/device.h"

namespace tandem {

// Files FOLDER/KEY.panels: a header with the key and the size, then the panels. A file is written
// beside and renamed, so it is whole or absent; one whose header doesn't match is packed anew.
// Within one process a key is packed once.
class FilePackedCache : public PackedCache {
 public:
  explicit FilePackedCache(fs::path folder);  // created when first needed
  Tensor get_or_pack(const std::function<std::string()>& key, std::int64_t bytes,
                     const std::function<void(std::byte*)>& pack) override;

  int packed() const noexcept {
    return packed_;
  }  // weights packed by this process, not found in the cache

 private:
  fs::path folder_;
  std::map<std::string, Tensor> in_memory_;
  int packed_ = 0;
};

// $TANDEM_CACHE, else $XDG_CACHE_HOME/tandem, else ~/.cache/tandem.
fs::path default_cache_folder();

}  // namespace tandem
