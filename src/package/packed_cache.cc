#include "package/packed_cache.h"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"

namespace tandem {
namespace {

// Two cache lines in front of the panels, so that these stay aligned in a mapping.
struct Header {
  std::array<char, 16> magic{'t', 'a', 'n', 'd', 'e', 'm', ' ', 'p',
                             'a', 'n', 'e', 'l', 's', ' ', '2', '\n'};
  std::array<char, 32> key{};
  std::array<char, 32> hash{};  // of the panels
  std::int64_t bytes = 0;
  std::array<std::int64_t, 5> reserved{};
};
static_assert(sizeof(Header) == 128);

Header make_header(const std::string& key, std::span<const std::byte> panels, ThreadPool& pool) {
  const auto put = [](std::array<char, 32>& field, const std::string& text) {
    std::memcpy(field.data(), text.data(), std::min(text.size(), field.size()));
  };
  Header header;
  put(header.key, key);
  put(header.hash, content_hash_tree(panels, pool));
  header.bytes = static_cast<std::int64_t>(panels.size());
  return header;
}

// The mapped panels, or an empty tensor if `path` is not a whole file of this key.
Tensor open_panels(const fs::path& path, const std::string& key, std::int64_t bytes,
                   ThreadPool& pool) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return {};
  std::shared_ptr<const MappedFile> file;
  try {
    file = MappedFile::open(path);
  } catch (const Error&) {
    return {};
  }
  if (file->bytes().size() != sizeof(Header) + static_cast<std::size_t>(bytes)) return {};
  const auto panels = file->bytes().subspan(sizeof(Header));
  const Header expected = make_header(key, panels, pool);
  if (std::memcmp(file->bytes().data(), &expected, sizeof(Header)) != 0) return {};
  return {DType::kU8, {bytes}, panels, file};
}

// Where a file is written before it gets its name, ".KEY.panels.tmp-PID-N": several caches of one
// process differ by N.
fs::path beside(const fs::path& path, int attempt) {
  return path.parent_path() / fmt::format(".{}.tmp-{}-{}", path.filename().string(),
                                          static_cast<int>(::getpid()), attempt);
}

// What a writer that was killed left.
void remove_litter(const fs::path& folder) {
  constexpr std::string_view kMark = ".panels.tmp-";
  std::error_code ignored;
  for (fs::directory_iterator entry(folder, ignored), end; entry != end; entry.increment(ignored)) {
    const std::string name = entry->path().filename().string();
    const std::size_t at = name.find(kMark);
    if (!name.starts_with('.') || at == std::string::npos) continue;
    const char* digits = name.data() + at + kMark.size();
    pid_t writer = 0;
    if (std::from_chars(digits, name.data() + name.size(), writer).ec != std::errc{} || writer <= 0)
      continue;
    if (::kill(writer, 0) == 0 || errno == EPERM) continue;
    fs::remove(entry->path(), ignored);
  }
}

// Not flushed to disk: what a power failure leaves doesn't fit the hash, and is packed anew.
std::error_code write_panels(const fs::path& path, const Header& header, const Tensor& panels) {
  const auto system_error = [] { return std::error_code(errno, std::generic_category()); };
  constexpr int kAttempts = 64;
  fs::path staging;
  std::FILE* out = nullptr;
  for (int attempt = 0; out == nullptr && attempt < kAttempts; ++attempt) {
    staging = beside(path, attempt);
    out = std::fopen(staging.c_str(), "wbx");
    if (out == nullptr && errno != EEXIST) return system_error();
  }
  if (out == nullptr) return std::make_error_code(std::errc::file_exists);
  const std::size_t size = panels.bytes().size();
  const bool wrote = std::fwrite(&header, sizeof(header), 1, out) == 1 &&
                     std::fwrite(panels.bytes().data(), 1, size, out) == size;
  std::error_code error = wrote ? std::error_code{} : system_error();
  if (std::fclose(out) != 0 && !error) error = system_error();
  if (!error) fs::rename(staging, path, error);
  std::error_code ignored;
  if (error) fs::remove(staging, ignored);
  return error;
}

}  // namespace

FilePackedCache::FilePackedCache(fs::path folder, ThreadPool& pool)
    : folder_(std::move(folder)), pool_(pool) {}

// Puts panels into the folder and maps them; the mapping, not our copy, is what stays: other
// processes share its pages.
void FilePackedCache::keep(const fs::path& path, const std::string& key, Tensor& panels) {
  if (refused_) return;
  std::error_code error;
  if (!prepared_) {
    fs::create_directories(folder_, error);
    remove_litter(folder_);
    prepared_ = true;
  }
  if (!error) error = write_panels(path, make_header(key, panels.bytes(), pool_), panels);
  if (error) {
    refused_ = true;
    spdlog::warn("cannot keep packed weights in {}: {}", folder_.string(), error.message());
    return;
  }
  try {
    const auto file = MappedFile::open(path);
    if (file->bytes().size() == sizeof(Header) + panels.bytes().size())
      panels = {DType::kU8, panels.shape(), file->bytes().subspan(sizeof(Header)), file};
  } catch (const Error&) {
    // Somebody emptied the cache at this moment; our copy serves.
  }
}

Tensor FilePackedCache::get_or_pack(const std::function<std::string()>& make_key,
                                    std::int64_t bytes,
                                    const std::function<void(std::byte*)>& pack) {
  const std::string key = make_key();
  if (const auto found = in_memory_.find(key); found != in_memory_.end()) return found->second;

  const fs::path path = folder_ / (key + ".panels");
  Tensor panels = open_panels(path, key, bytes, pool_);
  if (panels.empty()) {
    std::byte* data = nullptr;
    panels = Tensor::allocate(DType::kU8, {bytes}, &data);
    pack(data);
    ++packed_;
    keep(path, key, panels);
  }
  in_memory_.emplace(key, panels);
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
