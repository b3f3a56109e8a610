// Panels in memory and in files, with a fallback to memory when files cannot be written.
#include "package/panel_cache.h"

#include <array>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "base/staged_file.h"

namespace tandem {
namespace {

// Follows the panels, which begin on a huge page that way: the kernel maps 2 MiB at a time where
// both the file and the address are aligned to it. A file whose end never reached the disk has no
// footer either.
struct Footer {
  std::array<char, 16> magic{'t', 'a', 'n', 'd', 'e', 'm', ' ', 'p',
                             'a', 'n', 'e', 'l', 's', ' ', '4', '\n'};
  std::array<char, 32> key{};
  std::int64_t bytes = 0;
  std::array<std::int64_t, 9> reserved{};
};
static_assert(sizeof(Footer) == 128);

Footer make_footer(const std::string& key, std::int64_t bytes) {
  Footer footer;
  std::memcpy(footer.key.data(), key.data(), std::min(key.size(), footer.key.size()));
  footer.bytes = bytes;
  return footer;
}

// The mapped panels, or an empty tensor if `path` is not a complete file for this key.
Tensor open_panels(const fs::path& path, const std::string& key, std::int64_t bytes) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return {};
  std::shared_ptr<const MappedFile> file;
  try {
    file = MappedFile::open(path);
  } catch (const Error&) {
    return {};
  }
  const auto size = static_cast<std::size_t>(bytes);
  if (file->bytes().size() != size + sizeof(Footer)) return {};
  // Before the first touch, so that the footer's page is not the first of many small ones.
  file->use_huge_pages();
  const Footer expected = make_footer(key, bytes);
  if (std::memcmp(file->bytes().data() + size, &expected, sizeof(Footer)) != 0) return {};
  return {DType::kU8, {bytes}, file->bytes().first(size), file};
}

// Not flushed to disk: after a power failure a file may be truncated, which its size shows.
void write_panels(const fs::path& path, const Footer& footer, const Tensor& panels) {
  StagedFile file(path, Durability::kNone);
  file.write_at(0, panels.bytes());
  file.write_at(panels.bytes().size(), std::as_bytes(std::span(&footer, 1)));
  file.commit();
}

}  // namespace

FilePanelCache::FilePanelCache(fs::path folder, Observer& observer)
    : folder_(std::move(folder)), observer_(observer) {}

// Writes panels to the folder and maps the file; the mapping replaces our copy, because other
// processes share its pages.
void FilePanelCache::keep(const fs::path& path, const std::string& key, Tensor& panels) {
  if (refused_) return;
  try {
    std::error_code error;
    fs::create_directories(folder_, error);
    if (error) fail(ErrorCode::kIo, "{}", error.message());
    write_panels(path, make_footer(key, panels.elements()), panels);
  } catch (const Error& error) {
    refused_ = true;
    observer_.warn(
        fmt::format("cannot keep packed weights in {}: {}", folder_.string(), error.what()));
    return;
  }
  // Another process may have just emptied the cache; then our copy is used.
  if (Tensor mapped = open_panels(path, key, panels.elements()); !mapped.empty())
    panels = std::move(mapped);
}

Tensor FilePanelCache::get_or_pack(const PanelKey& key, std::int64_t bytes,
                                   const std::function<void(std::byte*)>& pack) {
  const bool is_known = !key.text.empty();
  if (const auto found = in_memory_.find(key.text); found != in_memory_.end()) return found->second;
  const bool in_files = is_known && key.persistent && !folder_.empty();
  const fs::path path = folder_ / (key.text + ".panels");
  Tensor panels = in_files ? open_panels(path, key.text, bytes) : Tensor();
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
