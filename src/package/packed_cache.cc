#include "package/packed_cache.h"

#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "base/error.h"
#include "base/log.h"

namespace tandem {
namespace {

// One cache line in front of the panels, so that these stay aligned in a mapping.
struct Header {
  std::array<char, 16> magic{'t', 'a', 'n', 'd', 'e', 'm', ' ', 'p',
                             'a', 'n', 'e', 'l', 's', ' ', '1', '\n'};
  std::array<char, 32> key{};
  std::int64_t bytes = 0;
  std::int64_t reserved = 0;
};
static_assert(sizeof(Header) == 64);

Header make_header(const std::string& key, std::int64_t bytes) {
  Header header;
  std::memcpy(header.key.data(), key.data(), std::min(key.size(), header.key.size()));
  header.bytes = bytes;
  return header;
}

Tensor open_panels(const fs::path& path, const Header& expected) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return {};
  std::shared_ptr<const MappedFile> file;
  try {
    file = MappedFile::open(path);
  } catch (const Error&) {
    return {};
  }
  const auto size = sizeof(Header) + static_cast<std::size_t>(expected.bytes);
  if (file->bytes().size() != size ||
      std::memcmp(file->bytes().data(), &expected, sizeof(Header)) != 0)
    return {};
  return {DType::kU8, {expected.bytes}, file->bytes().subspan(sizeof(Header)), file};
}

// False, with a warning, if the disk refuses: the cache is a convenience.
bool write_panels(const fs::path& path, const Header& header, const Tensor& panels) {
  const fs::path beside = path.string() + fmt::format(".tmp-{}", ::getpid());
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  {
    std::ofstream out(beside, std::ios::binary);
    out.write(reinterpret_cast<const char*>(&header), sizeof(header));
    out.write(reinterpret_cast<const char*>(panels.bytes().data()), panels.elements());
    if (!out.flush()) error = std::make_error_code(std::errc::io_error);
  }
  if (!error) fs::rename(beside, path, error);
  if (error) {
    spdlog::warn("cannot keep packed weights in {}: {}", path.string(), error.message());
    fs::remove(beside, error);
    return false;
  }
  return true;
}

}  // namespace

FilePackedCache::FilePackedCache(fs::path folder) : folder_(std::move(folder)) {}

Tensor FilePackedCache::get_or_pack(const std::function<std::string()>& make_key,
                                    std::int64_t bytes,
                                    const std::function<void(std::byte*)>& pack) {
  const std::string key = make_key();
  if (const auto found = in_memory_.find(key); found != in_memory_.end()) return found->second;

  const fs::path path = folder_ / (key + ".panels");
  const Header header = make_header(key, bytes);
  Tensor panels = open_panels(path, header);
  if (panels.empty()) {
    std::byte* data = nullptr;
    panels = Tensor::allocate(DType::kU8, {bytes}, &data);
    pack(data);
    ++packed_;
    // The mapping, not our copy, is what stays: other processes share its pages.
    if (write_panels(path, header, panels)) {
      if (Tensor mapped = open_panels(path, header); !mapped.empty()) panels = std::move(mapped);
    }
  }
  in_memory_.emplace(key, panels);
  return panels;
}

fs::path default_cache_folder() {
  if (const char* folder = std::getenv("TANDEM_CACHE"); folder != nullptr && *folder != '\0')
    return folder;
  if (const char* folder = std::getenv("XDG_CACHE_HOME"); folder != nullptr && *folder != '\0') {
    return fs::path(folder) / "tandem";
  }
  const char* home = std::getenv("HOME");
  return fs::path(home != nullptr ? home : "/tmp") / ".cache/tandem";
}

}  // namespace tandem
