// One small file per verified file: its name is derived from the stamp, its content is the hash.
#include "package/verified_files.h"

#include <algorithm>

#include "base/error.h"
#include "base/hash.h"
#include "base/staged_file.h"
#include "package/cache_folder.h"

namespace tandem {
namespace {

constexpr std::size_t kHashDigits = 32;

bool is_hash(const std::string& text) {
  return text.size() == kHashDigits && std::ranges::all_of(text, [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

}  // namespace

std::string VerifiedFiles::hash_of(const MappedFile& file, ThreadPool& pool, bool anew) const {
  const fs::path record = folder_.empty()
                              ? fs::path()
                              : folder_ / (content_hash(file.stamp()) + std::string(kRecordSuffix));
  std::error_code ignored;
  if (!anew && !record.empty() && fs::is_regular_file(record, ignored)) {
    try {
      if (std::string known = read_text_file(record, kHashDigits); is_hash(known)) {
        mark_used(record);
        return known;
      }
    } catch (const Error&) {
      // A record that cannot be read is treated as absent.
    }
  }
  std::string hash = content_hash_tree(file.bytes(), pool);
  // A file that changed while it was read has no valid hash to remember.
  if (record.empty() || !file.unchanged()) return hash;
  try {
    fs::create_directories(folder_, ignored);
    StagedFile out(record, Durability::kNone);
    out.write_at(0, std::as_bytes(std::span(hash)));
    out.commit();
  } catch (const Error&) {
    // The file is then read again next time.
  }
  return hash;
}

}  // namespace tandem
