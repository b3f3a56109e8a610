// Weights in the kernels' layout, cached for all programs of a process and in files across
// restarts.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>

#include "base/files.h"
#include "base/observer.h"
#include "devices/device.h"

namespace tandem {

// Of all files together, until somebody says otherwise.
inline constexpr std::int64_t kCacheBytes = 32'000'000'000;

// Files FOLDER/KEY.panels: the panels, then a footer with the key, the size and the content's hash.
// A file is written to a temporary name and renamed, so it is whole or absent, and read by mapping
// it. The footer also holds the file's time of change: as long as that stays, nobody has written to
// the file since, else its content is hashed. A file that is not what its footer says is packed
// again, with a warning. Panels whose key is valid only within the process stay in memory. Not
// thread-safe.
class FilePanelCache : public PanelCache {
 public:
  // The folder is created when first needed; if empty, no files are written. If the folder can't be
  // written to, the observer, which must outlive the cache, gets a single warning. Beyond `limit`
  // bytes (0: any number) the files that were not used for longest are removed, or else no more are
  // written, with a warning.
  FilePanelCache(fs::path folder, Observer& observer, std::int64_t limit = kCacheBytes);
  Tensor get_or_pack(const PanelKey& key, std::int64_t bytes,
                     const std::function<void(std::byte*)>& pack) override;

  // The number of weights packed by this process because they were not in the cache.
  int packed() const noexcept { return packed_; }

 private:
  void keep(const fs::path& path, const std::string& key, Tensor& panels);
  // The mapped panels, or an empty tensor if `path` is not a whole file for this key.
  Tensor open(const fs::path& path, const std::string& key, std::int64_t bytes);
  // Whether another file of this size may be written.
  bool make_room(std::int64_t bytes);
  void warn_of_damage(const fs::path& path);

  fs::path folder_;
  Observer& observer_;
  std::int64_t limit_;
  std::chrono::sys_seconds begin_;
  // Of all files; negative: not known yet.
  std::int64_t size_ = -1;
  bool has_warned_of_damage_ = false;
  std::map<std::string, Tensor> in_memory_;
  int packed_ = 0;
  // The system refused a write: nothing more is written.
  bool refused_ = false;
};

// $TANDEM_CACHE, else $XDG_CACHE_HOME/tandem, else ~/.cache/tandem; empty (no cache) without a home
// directory.
fs::path default_cache_folder();

}  // namespace tandem
