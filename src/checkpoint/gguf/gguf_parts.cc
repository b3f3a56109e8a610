// Finding the parts of a model, and checking that they belong together.
#include "checkpoint/gguf/gguf_parts.h"

#include <fmt/format.h>

#include <cctype>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/printable.h"

namespace tandem {
namespace {

constexpr std::string_view kSuffix = ".gguf";
// split.no and split.count have 16 bits.
constexpr std::int64_t kMaxParts = 65535;

// What the name of a part says.
struct PartName {
  fs::path folder;
  // Up to the number.
  std::string prefix;
  // From 1 up.
  std::int64_t number = 0;
  std::int64_t count = 0;

  fs::path of(std::int64_t other) const {
    return folder / fmt::format("{}-{:05}-of-{:05}{}", prefix, other, count, kSuffix);
  }
};

std::optional<std::int64_t> five_digits(std::string_view text) {
  std::int64_t value = 0;
  for (const char digit : text) {
    if (std::isdigit(static_cast<unsigned char>(digit)) == 0) return std::nullopt;
    value = value * 10 + (digit - '0');
  }
  return value;
}

// NAME-00001-of-00003.gguf; nullopt for any other name.
std::optional<PartName> part_name(const fs::path& path) {
  constexpr std::string_view kForm = "-00001-of-00003.gguf";
  const std::string name = path.filename().string();
  if (name.size() < kForm.size()) return std::nullopt;
  const std::string_view end = std::string_view(name).substr(name.size() - kForm.size());
  if (end[0] != '-' || end.substr(6, 4) != "-of-" || end.substr(15) != kSuffix) return std::nullopt;
  const auto number = five_digits(end.substr(1, 5));
  const auto count = five_digits(end.substr(10, 5));
  if (!number || !count || *number < 1 || *number > *count) return std::nullopt;
  return PartName{path.parent_path(), name.substr(0, name.size() - kForm.size()), *number, *count};
}

bool is_there(const fs::path& file) {
  std::error_code ignored;
  return fs::exists(file, ignored);
}

std::string place_of(const fs::path& path) { return "[gguf] " + path.string(); }

// What the metadata of a part says: its number from 1 up and the number of parts, 0 if it is not a
// part.
struct PartKeys {
  std::int64_t number = 1;
  std::int64_t count = 0;
};

PartKeys part_keys(const GgufFile& file, const fs::path& path) {
  const JsonObject metadata(file.metadata, path.string());
  PartKeys keys;
  keys.count = metadata.get_int_or("split.count", 0, 0, kMaxParts);
  keys.number = metadata.get_int_or("split.no", 0, 0, kMaxParts) + 1;
  return keys;
}

// Throws unless `file` says what its name says.
void check_part(const GgufFile& file, const fs::path& path, const PartName& name) {
  const PartKeys keys = part_keys(file, path);
  if (keys.count != name.count)
    fail(ErrorCode::kFormat, "{}: split.count: expected {}, as its name says, got {}",
         place_of(path), name.count, keys.count);
  if (keys.number != name.number)
    fail(ErrorCode::kFormat, "{}: split.no: expected {}, as its name says, got {}", place_of(path),
         name.number - 1, keys.number - 1);
}

// A part after the first may repeat the architecture; another one means that it is of another
// model.
void check_architecture(const GgufFile& first, const GgufFile& part, const fs::path& path) {
  constexpr const char* kKey = "general.architecture";
  const auto have = part.metadata.find(kKey);
  const auto want = first.metadata.find(kKey);
  if (have == part.metadata.end() || want == first.metadata.end() || *have == *want) return;
  fail(ErrorCode::kFormat, "{}: {}: expected {}, as in the first part, got {}", place_of(path),
       kKey, printable(want->dump()), printable(have->dump()));
}

}  // namespace

fs::path first_gguf_part(const fs::path& path) {
  const auto name = part_name(path);
  return name ? name->of(1) : path;
}

Json gguf_metadata(const fs::path& path) {
  GgufFile file = GgufFile::open(path);
  if (part_keys(file, path).number == 1) return std::move(file.metadata);
  return GgufFile::open(first_gguf_part(path)).metadata;
}

GgufParts open_gguf_parts(const fs::path& path) {
  GgufParts parts{GgufFile::open(path), {path}};
  const PartKeys keys = part_keys(parts.content, path);
  if (keys.count < 2) return parts;
  const auto name = part_name(path);
  if (!name)
    fail(ErrorCode::kFormat,
         "{}: is part {} of {}: expected a name that ends in -{:05}-of-{:05}.gguf, by which the "
         "others are found",
         place_of(path), keys.number, keys.count, keys.number, keys.count);
  check_part(parts.content, path, *name);
  for (std::int64_t number = 1; number <= name->count; ++number)
    if (!is_there(name->of(number)))
      fail(ErrorCode::kNotFound, "{}: part {} of {} is missing: expected {} beside it",
           place_of(path), number, name->count, printable(name->of(number).filename().string()));

  const fs::path first = name->of(1);
  parts = {GgufFile::open(first), {first}};
  check_part(parts.content, first, {name->folder, name->prefix, 1, name->count});
  for (std::int64_t number = 2; number <= name->count; ++number) {
    const fs::path file = name->of(number);
    GgufFile part = GgufFile::open(file);
    check_part(part, file, {name->folder, name->prefix, number, name->count});
    check_architecture(parts.content, part, file);
    for (auto& [tensor, content] : part.tensors)
      if (!parts.content.tensors.emplace(tensor, std::move(content)).second)
        fail(ErrorCode::kFormat, "{}: {}: is in an earlier part, too", place_of(file),
             printable(tensor));
    parts.files.push_back(file);
  }
  const JsonObject metadata(parts.content.metadata, first.string());
  const auto stored = static_cast<std::int64_t>(parts.content.tensors.size());
  const std::int64_t expected =
      metadata.get_int_or("split.tensors.count", stored, 0, std::numeric_limits<int>::max());
  if (stored != expected)
    fail(ErrorCode::kFormat, "{}: split.tensors.count: the {} parts hold {} tensors, expected {}",
         place_of(first), name->count, stored, expected);
  return parts;
}

}  // namespace tandem
