// Panels in memory and in files, with a fallback to memory when files cannot be written.
#include "package/panel_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "base/staged_file.h"
#include "package/cache_folder.h"

namespace tandem {
namespace {

// Follows the panels, which begin on a huge page that way: the kernel maps 2 MiB at a time where
// both the file and the address are aligned to it. A file whose end never reached the disk has no
// footer either.
struct Footer {
  std::array<char, 16> magic{'t', 'a', 'n', 'd', 'e', 'm', ' ', 'p',
                             'a', 'n', 'e', 'l', 's', ' ', '5', '\n'};
  std::array<char, 32> key{};
  std::int64_t bytes = 0;
  std::array<char, 32> hash{};
  // When the file was made, nanoseconds since 1970: its time of change, unless somebody writes to it.
  std::int64_t made = 0;
  std::array<std::int64_t, 4> reserved{};
};
static_assert(sizeof(Footer) == 128);

bool is_of_another_version(const Footer& footer) {
  const Footer ours;
  constexpr std::size_t kVersion = 14;
  return std::equal(ours.magic.begin(), ours.magic.begin() + kVersion, footer.magic.begin()) &&
         ours.magic[kVersion] != footer.magic[kVersion];
}

template <std::size_t N>
void copy_text(const std::string& text, std::array<char, N>& out) {
  std::memcpy(out.data(), text.data(), std::min(text.size(), N));
}

Footer make_footer(const std::string& key, std::span<const std::byte> panels) {
  Footer footer;
  copy_text(key, footer.key);
  footer.bytes = std::ssize(panels);
  copy_text(content_hash(panels), footer.hash);
  footer.made = std::chrono::duration_cast<std::chrono::nanoseconds>(
                    std::chrono::system_clock::now().time_since_epoch())
                    .count();
  return footer;
}

constexpr std::int64_t kNanoseconds = 1'000'000'000;

// The time of change, as a footer has it.
std::int64_t changed(const fs::path& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) return -1;
  return status.st_mtim.tv_sec * kNanoseconds + status.st_mtim.tv_nsec;
}

void set_changed(const fs::path& path, std::int64_t time) {
  const std::array<timespec, 2> times = {
      timespec{.tv_sec = 0, .tv_nsec = UTIME_NOW},
      timespec{.tv_sec = time / kNanoseconds, .tv_nsec = time % kNanoseconds}};
  // If it can't be set, the content is hashed at every start.
  static_cast<void>(::utimensat(AT_FDCWD, path.c_str(), times.data(), 0));
}

// Not flushed to disk: after a power failure a file may be truncated, which its size shows.
void write_panels(const fs::path& path, const Footer& footer, const Tensor& panels) {
  StagedFile file(path, Durability::kNone);
  file.write_at(0, panels.bytes());
  file.write_at(panels.bytes().size(), std::as_bytes(std::span(&footer, 1)));
  file.commit();
  set_changed(path, footer.made);
}

}  // namespace

FilePanelCache::FilePanelCache(fs::path folder, Observer& observer, std::int64_t limit)
    : folder_(std::move(folder)),
      observer_(observer),
      limit_(limit),
      begin_(std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now())) {}

void FilePanelCache::warn_of_damage(const fs::path& path) {
  if (!std::exchange(has_warned_of_damage_, true))
    observer_.warn(fmt::format("[cache] {}: is damaged: its weight is packed anew", path.string()));
}

Tensor FilePanelCache::open(const fs::path& path, const std::string& key, std::int64_t bytes) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return {};
  std::shared_ptr<const MappedFile> file;
  try {
    file = MappedFile::open(path);
  } catch (const Error&) {
    return {};
  }
  const auto size = static_cast<std::size_t>(bytes);
  // Before the first touch, so that the footer's page is not the first of many small ones.
  file->use_huge_pages();
  Footer expected, found;
  copy_text(key, expected.key);
  expected.bytes = bytes;
  const bool has_size = file->bytes().size() == size + sizeof(Footer);
  if (has_size) std::memcpy(&found, file->bytes().data() + size, sizeof(Footer));
  expected.hash = found.hash;
  expected.made = found.made;
  if (!has_size || std::memcmp(&found, &expected, sizeof(Footer)) != 0) {
    if (!has_size || !is_of_another_version(found)) warn_of_damage(path);
    return {};
  }
  const auto panels = file->bytes().first(size);
  if (changed(path) != found.made) {
    std::array<char, 32> hash{};
    copy_text(content_hash(panels), hash);
    if (hash != found.hash) {
      warn_of_damage(path);
      return {};
    }
    set_changed(path, found.made);
  }
  mark_used(path);
  return {DType::kU8, {bytes}, panels, file};
}

bool FilePanelCache::make_room(std::int64_t bytes) {
  if (limit_ == 0) return true;
  if (size_ < 0) {
    size_ = 0;
    for (const CacheFile& file : list_cache(folder_)) size_ += file.bytes;
  }
  if (size_ + bytes <= limit_) return true;
  // A little more than is needed, so that the next file does not look for room again.
  const std::int64_t wanted = std::max<std::int64_t>(1, limit_ - bytes - limit_ / 16);
  size_ -= prune_cache(folder_, {.max_bytes = wanted, .in_use_since = begin_}).bytes;
  return size_ + bytes <= limit_;
}

// Writes panels to the folder and maps the file; the mapping replaces our copy, because other
// processes share its pages.
void FilePanelCache::keep(const fs::path& path, const std::string& key, Tensor& panels) {
  if (refused_) return;
  try {
    std::error_code error;
    fs::create_directories(folder_, error);
    if (error) fail(ErrorCode::kIo, "{}", error.message());
    const std::int64_t bytes = panels.elements() + static_cast<std::int64_t>(sizeof(Footer));
    if (!make_room(bytes))
      fail(ErrorCode::kIo, "the model's are larger than the cache may be, {} bytes (--cache-limit)",
           limit_);
    write_panels(path, make_footer(key, panels.bytes()), panels);
    size_ += limit_ > 0 ? bytes : 0;
  } catch (const Error& error) {
    refused_ = true;
    observer_.warn(
        fmt::format("cannot keep packed weights in {}: {}", folder_.string(), error.what()));
    return;
  }
  // Another process may have just emptied the cache; then our copy is used.
  if (Tensor mapped = open(path, key, panels.elements()); !mapped.empty())
    panels = std::move(mapped);
}

Tensor FilePanelCache::get_or_pack(const PanelKey& key, std::int64_t bytes,
                                   const std::function<void(std::byte*)>& pack) {
  const bool is_known = !key.text.empty();
  if (const auto found = in_memory_.find(key.text); found != in_memory_.end()) return found->second;
  const bool in_files = is_known && key.persistent && !folder_.empty();
  const fs::path path = folder_ / (key.text + std::string(kPanelSuffix));
  Tensor panels = in_files ? open(path, key.text, bytes) : Tensor();
  if (panels.empty()) {
    std::byte* data = nullptr;
    panels = Tensor::allocate(DType::kU8, {bytes}, &data);
    pack(data);
    ++packed_;
    if (in_files) keep(path, key.text, panels);
  }
  if (is_known) in_memory_.emplace(key.text, panels);
  return panels;
}

fs::path default_cache_folder() {
  const auto from = [](const char* name, const char* below) {
    const char* folder = std::getenv(name);
    return folder != nullptr && *folder != '\0' ? fs::path(folder) / below : fs::path();
  };
  if (fs::path folder = from("TANDEM_CACHE", ""); !folder.empty()) return folder;
  if (fs::path folder = from("XDG_CACHE_HOME", "tandem"); !folder.empty()) return folder;
  return from("HOME", ".cache/tandem");
}

}  // namespace tandem
