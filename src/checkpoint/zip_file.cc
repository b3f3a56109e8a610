// Reading a zip archive from the directory at its end.
#include "checkpoint/zip_file.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/printable.h"
#include "checkpoint/byte_reader.h"

namespace tandem {
namespace {

constexpr std::uint32_t kLocalMagic = 0x04034b50;      // "PK\3\4"
constexpr std::uint32_t kDirectoryMagic = 0x02014b50;  // "PK\1\2"
constexpr std::uint32_t kEndMagic = 0x06054b50;        // "PK\5\6"
constexpr std::uint32_t kEnd64Magic = 0x06064b50;
constexpr std::uint32_t kLocator64Magic = 0x07064b50;
constexpr std::size_t kEndBytes = 22;
constexpr std::size_t kLocator64Bytes = 20;
constexpr std::size_t kLongestComment = 0xffff;
constexpr std::uint32_t kIn64 = 0xffffffff;  // a size or offset that stands in the zip64 record

struct Directory {
  std::uint64_t entries = 0;
  std::uint64_t bytes = 0;
  std::uint64_t offset = 0;
};

struct Entry {
  std::string name;
  std::uint64_t size = 0;
  std::uint64_t stored_size = 0;
  // Offset of its local header.
  std::uint64_t header = 0;
};

std::uint32_t load_32(std::span<const std::byte> bytes, std::size_t at) {
  std::uint32_t value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

// Offset of the end record: the last in the file whose comment extends to the end of the file.
std::size_t find_end(std::span<const std::byte> bytes, const std::string& place) {
  if (bytes.size() >= kEndBytes) {
    const std::size_t last = bytes.size() - kEndBytes;
    const std::size_t first = last - std::min(last, kLongestComment);
    for (std::size_t at = last + 1; at-- > first;)
      if (load_32(bytes, at) == kEndMagic) return at;
  }
  fail(ErrorCode::kFormat, "{}: expected the directory of a zip archive at its end", place);
}

Directory read_end(std::span<const std::byte> bytes, const std::string& place) {
  const std::size_t end = find_end(bytes, place);
  ByteReader reader(bytes, place);
  reader.seek(end + 4, "zip end record");
  const auto disk = reader.number<std::uint16_t>("disk");
  reader.number<std::uint16_t>("disk");
  reader.number<std::uint16_t>("entries");
  Directory directory;
  directory.entries = reader.number<std::uint16_t>("entries");
  directory.bytes = reader.number<std::uint32_t>("directory size");
  directory.offset = reader.number<std::uint32_t>("directory offset");
  if (disk != 0 && disk != 0xffff)
    fail(ErrorCode::kUnsupported, "{}: is a part of an archive in several", place);
  if (end < kLocator64Bytes || load_32(bytes, end - kLocator64Bytes) != kLocator64Magic)
    return directory;
  reader.seek(end - kLocator64Bytes + 8, "zip64 locator");
  reader.seek(reader.number<std::uint64_t>("zip64 end record"), "zip64 end record");
  if (reader.number<std::uint32_t>("zip64 end record") != kEnd64Magic)
    fail(ErrorCode::kFormat, "{}: expected a zip64 end record at byte {}", place,
         reader.position() - 4);
  reader.take(8 + 2 + 2 + 4 + 4 + 8, "zip64 end record");
  directory.entries = reader.number<std::uint64_t>("entries");
  directory.bytes = reader.number<std::uint64_t>("directory size");
  directory.offset = reader.number<std::uint64_t>("directory offset");
  return directory;
}

// The zip64 field of an entry: those of the three numbers that did not fit, in this order.
void read_extra(std::string_view extra, Entry& entry, const std::string& place) {
  ByteReader fields(std::as_bytes(std::span(extra)), place);
  while (fields.remaining() >= 4) {
    const auto id = fields.number<std::uint16_t>("extra field");
    const auto size = fields.number<std::uint16_t>("extra field");
    if (id != 1) {
      fields.take(size, "extra field");
      continue;
    }
    for (std::uint64_t* number : {&entry.size, &entry.stored_size, &entry.header})
      if (*number == kIn64) *number = fields.number<std::uint64_t>("zip64 field");
    return;
  }
}

Entry read_entry(ByteReader& reader) {
  if (reader.number<std::uint32_t>("directory entry") != kDirectoryMagic)
    fail(ErrorCode::kFormat, "{}: expected a directory entry at byte {}", reader.place(),
         reader.position() - 4);
  reader.take(4, "directory entry");
  const auto flags = reader.number<std::uint16_t>("directory entry");
  const auto method = reader.number<std::uint16_t>("directory entry");
  reader.take(8, "directory entry");  // time, date, checksum
  Entry entry;
  entry.stored_size = reader.number<std::uint32_t>("directory entry");
  entry.size = reader.number<std::uint32_t>("directory entry");
  const auto name_length = reader.number<std::uint16_t>("directory entry");
  const auto extra_length = reader.number<std::uint16_t>("directory entry");
  const auto comment_length = reader.number<std::uint16_t>("directory entry");
  reader.take(8, "directory entry");  // disk, attributes
  entry.header = reader.number<std::uint32_t>("directory entry");
  entry.name = reader.text(name_length, "an entry's name");
  read_extra(reader.text(extra_length, "an entry's extra fields"), entry, reader.place());
  reader.take(comment_length, "an entry's comment");
  if (method != 0 || (flags & 1) != 0)
    fail(ErrorCode::kUnsupported,
         "{}: {}: is compressed or encrypted; expected entries as PyTorch "
         "stores them",
         reader.place(), printable(entry.name));
  if (entry.size != entry.stored_size)
    fail(ErrorCode::kFormat, "{}: {}: has {} bytes, {} are stored", reader.place(),
         printable(entry.name), entry.size, entry.stored_size);
  return entry;
}

// Where the entry's data begins: after a local header that repeats its name.
std::uint64_t find_data(std::span<const std::byte> bytes, const Entry& entry,
                        const std::string& place) {
  ByteReader reader(bytes, place);
  reader.seek(entry.header, printable(entry.name));
  if (reader.number<std::uint32_t>("local header") != kLocalMagic)
    fail(ErrorCode::kFormat, "{}: {}: expected its header at byte {}", place, printable(entry.name),
         entry.header);
  reader.take(22, "local header");
  const auto name_length = reader.number<std::uint16_t>("local header");
  const auto extra_length = reader.number<std::uint16_t>("local header");
  reader.take(std::uint64_t{name_length} + extra_length, "local header");
  return reader.position();
}

}  // namespace

std::map<std::string, std::span<const std::byte>> read_zip(const MappedFile& file) {
  const auto bytes = file.bytes();
  const std::string place = "[zip] " + file.path().string();
  const Directory directory = read_end(bytes, place);
  ByteReader reader(bytes, place);
  reader.seek(directory.offset, "directory");
  const auto listing = reader.take(directory.bytes, "directory");
  const auto content = bytes.first(static_cast<std::size_t>(directory.offset));

  struct Extent {
    std::uint64_t begin;
    std::uint64_t end;
    std::string_view name;
  };
  std::map<std::string, std::span<const std::byte>> entries;
  std::vector<Extent> extents;
  ByteReader list(listing, place);
  for (std::uint64_t i = 0; i < directory.entries; ++i) {
    const Entry entry = read_entry(list);
    const std::uint64_t begin = find_data(content, entry, place);
    if (entry.size > content.size() - begin)
      fail(ErrorCode::kFormat, "{}: {}: {} bytes at {} reach into the directory at {}", place,
           printable(entry.name), entry.size, begin, directory.offset);
    const auto [slot, inserted] = entries.emplace(
        entry.name,
        content.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(entry.size)));
    if (!inserted) fail(ErrorCode::kFormat, "{}: {}: appears twice", place, printable(entry.name));
    extents.push_back({entry.header, begin + entry.size, slot->first});
  }
  std::ranges::sort(extents, {}, &Extent::begin);
  for (std::size_t i = 1; i < extents.size(); ++i) {
    if (extents[i].begin < extents[i - 1].end)
      fail(ErrorCode::kFormat,
           "{}: {}: overlaps the entry before it: begins at byte {}, expected {}", place,
           printable(extents[i].name), extents[i].begin, extents[i - 1].end);
  }
  return entries;
}

bool looks_like_zip(std::span<const std::byte> bytes) noexcept {
  return bytes.size() >= 4 && load_32(bytes, 0) == kLocalMagic;
}

}  // namespace tandem
