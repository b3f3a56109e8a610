// Weights in the kernels' layout, cached for all programs of a process and in files across
// restarts.
#pragma once

#include <map>
#include <string>

#include "base/files.h"
#include "base/observer.h"
#include "devices/device.h"

namespace tandem {

// Files FOLDER/KEY.panels: a header with the key and the size, then the panels. A file is written
// to a temporary name and renamed, so it is whole or absent, and read by mapping it; if its header
// does not match, the weight is packed again. Panels whose key is valid only within the process
// stay in memory. Not thread-safe.
class FilePanelCache : public PanelCache {
 public:
  // The folder is created when first needed; if empty, no files are written. If the folder can't be
  // written to, the observer, which must outlive the cache, gets a single warning.
  FilePanelCache(fs::path folder, Observer& observer);
  Tensor get_or_pack(const PanelKey& key, std::int64_t bytes,
                     const std::function<void(std::byte*)>& pack) override;

  // The number of weights packed by this process because they were not in the cache.
  int packed() const noexcept { return packed_; }

 private:
  void keep(const fs::path& path, const std::string& key, Tensor& panels);

  fs::path folder_;
  Observer& observer_;
  std::map<std::string, Tensor> in_memory_;
  int packed_ = 0;
  // The system refused a write: nothing more is written.
  bool refused_ = false;
};

// $TANDEM_CACHE, else $XDG_CACHE_HOME/tandem, else ~/.cache/tandem; empty (no cache) without a home
// directory.
fs::path default_cache_folder();

}  // namespace tandem
