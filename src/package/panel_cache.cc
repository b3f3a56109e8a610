// Panels in memory and in files, with a fallback to memory when files cannot be written.
#include "package/panel_cache.h"

#include <array>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "base/staged_file.h"

namespace tandem {
namespace {

// Two cache lines before the panels, so that the panels are aligned in a mapping.
struct Header {
  std::array<char, 16> magic{'t', 'a', 'n', 'd', 'e', 'm', ' ', 'p',
                             'a', 'n', 'e', 'l', 's', ' ', '3', '\n'};
  std::array<char, 32> key{};
  std::int64_t bytes = 0;
  std::array<std::int64_t, 9> reserved{};
};
static_assert(sizeof(Header) == 128);

Header make_header(const std::string& key, std::int64_t bytes) {
  Header header;
  std::memcpy(header.key.data(), key.data(), std::min(key.size(), header.key.size()));
  header.bytes = bytes;
  return header;
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
  if (file->bytes().size() != sizeof(Header) + static_cast<std::size_t>(bytes)) return {};
  const Header expected = make_header(key, bytes);
  if (std::memcmp(file->bytes().data(), &expected, sizeof(Header)) != 0) return {};
  return {DType::kU8, {bytes}, file->bytes().subspan(sizeof(Header)), file};
}

// Not flushed to disk: after a power failure a file may be truncated, which its size shows.
void write_panels(const fs::path& path, const Header& header, const Tensor& panels) {
  StagedFile file(path, Durability::kNone);
  file.write_at(0, std::as_bytes(std::span(&header, 1)));
  file.write_at(sizeof(header), panels.bytes());
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
    write_panels(path, make_header(key, panels.elements()), panels);
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
  const bool in_files = is_known && key.lasting && !folder_.empty();
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
