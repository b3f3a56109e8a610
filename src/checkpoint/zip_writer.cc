// Local headers, data, and the directory at the end; zip64 records where 32 bits are too few.
#include "checkpoint/zip_writer.h"

#include <zlib.h>

#include "base/error.h"
#include "checkpoint/byte_writer.h"

namespace tandem {
namespace {

constexpr std::uint32_t kLocalMagic = 0x04034b50;
constexpr std::uint32_t kDirectoryMagic = 0x02014b50;
constexpr std::uint32_t kEndMagic = 0x06054b50;
constexpr std::uint32_t kEnd64Magic = 0x06064b50;
constexpr std::uint32_t kLocator64Magic = 0x07064b50;
// A size or offset that stands in the zip64 record.
constexpr std::uint32_t kIn64 = 0xffffffff;
constexpr std::uint64_t kLargest32 = kIn64 - 1;
constexpr std::uint16_t kZip64Field = 1;
// PyTorch's field of padding before the data.
constexpr std::uint16_t kPaddingField = 0x4246;
// The versions that zip64 and plain entries need.
constexpr std::uint16_t kVersion64 = 45, kVersion = 20;
constexpr std::uint16_t kUtf8Names = 1 << 11;
// January 1, 1980: the same weights make the same file at any time.
constexpr std::uint16_t kDate = 1 << 5 | 1;
constexpr std::uint64_t kLocalBytes = 30;
constexpr std::uint64_t kCrcInLocal = 14;
constexpr std::uint64_t kZip64InLocal = 20;
constexpr std::uint64_t kAlignment = 64;

std::uint32_t low_32(std::uint64_t value) {
  return value > kLargest32 ? kIn64 : static_cast<std::uint32_t>(value);
}

// Version, flags, method, time, date, checksum and sizes, which both headers have in common.
void put_common(ByteWriter& out, std::uint64_t size, std::uint32_t crc, bool is_64) {
  out.number(is_64 ? kVersion64 : kVersion);
  out.number(kUtf8Names);
  out.number(std::uint16_t{0});
  out.number(std::uint16_t{0});
  out.number(kDate);
  out.number(crc);
  out.number(low_32(size));
  out.number(low_32(size));
}

}  // namespace

void ZipWriter::begin(const std::string& name, std::uint64_t size) {
  close();
  const bool is_64 = size > kLargest32;
  const std::uint64_t before = end_ + kLocalBytes + name.size() + (is_64 ? kZip64InLocal : 0) + 4;
  const std::uint64_t padding = (kAlignment - before % kAlignment) % kAlignment;
  ByteWriter header;
  header.number(kLocalMagic);
  put_common(header, size, 0, is_64);
  header.number(static_cast<std::uint16_t>(name.size()));
  header.number(static_cast<std::uint16_t>((is_64 ? kZip64InLocal : 0) + 4 + padding));
  header.text(name);
  if (is_64) {
    header.number(kZip64Field);
    header.number(static_cast<std::uint16_t>(kZip64InLocal - 4));
    header.number(size);
    header.number(size);
  }
  header.number(kPaddingField);
  header.number(static_cast<std::uint16_t>(padding));
  header.padded_text("", padding);
  file_.write_at(end_, header.bytes());
  entries_.push_back({name, end_, size, 0});
  end_ += header.size();
  missing_ = size;
}

void ZipWriter::append(std::span<const std::byte> bytes) {
  if (bytes.size() > missing_)
    fail(ErrorCode::kInvalidArgument, "[zip] {}: {}: expected {} bytes more at most, got {}",
         file_.target().string(), entries_.empty() ? "" : entries_.back().name, missing_,
         bytes.size());
  if (bytes.empty()) return;
  file_.write_at(end_, bytes);
  Entry& entry = entries_.back();
  entry.crc = static_cast<std::uint32_t>(
      ::crc32_z(entry.crc, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
  end_ += bytes.size();
  missing_ -= bytes.size();
}

void ZipWriter::close() {
  if (missing_ > 0)
    fail(ErrorCode::kInvalidArgument, "[zip] {}: {}: {} bytes are missing", file_.target().string(),
         entries_.back().name, missing_);
  if (entries_.empty()) return;
  ByteWriter crc;
  crc.number(entries_.back().crc);
  file_.write_at(entries_.back().header + kCrcInLocal, crc.bytes());
}

void ZipWriter::finish() {
  close();
  ByteWriter out;
  for (const Entry& entry : entries_) {
    ByteWriter wide;
    if (entry.size > kLargest32) {
      wide.number(entry.size);
      wide.number(entry.size);
    }
    if (entry.header > kLargest32) wide.number(entry.header);
    const bool is_64 = wide.size() > 0;
    out.number(kDirectoryMagic);
    out.number(kVersion64);
    put_common(out, entry.size, entry.crc, is_64);
    out.number(static_cast<std::uint16_t>(entry.name.size()));
    out.number(static_cast<std::uint16_t>(is_64 ? 4 + wide.size() : 0));
    // Of the comment, the disk, and attributes.
    out.padded_text("", 2 + 2 + 2 + 4);
    out.number(low_32(entry.header));
    out.text(entry.name);
    if (!is_64) continue;
    out.number(kZip64Field);
    out.number(static_cast<std::uint16_t>(wide.size()));
    out.text(wide.view());
  }
  const std::uint64_t count = entries_.size(), bytes = out.size();
  const bool is_64 = count >= 0xffff || end_ > kLargest32 || bytes > kLargest32;
  if (is_64) {
    out.number(kEnd64Magic);
    // Of what follows in this record.
    out.number(std::uint64_t{44});
    out.number(kVersion64);
    out.number(kVersion64);
    out.number(std::uint64_t{0});
    out.number(count);
    out.number(count);
    out.number(bytes);
    out.number(end_);
    out.number(kLocator64Magic);
    out.number(std::uint32_t{0});
    out.number(end_ + bytes);
    out.number(std::uint32_t{1});
  }
  const auto low_16 = static_cast<std::uint16_t>(is_64 ? 0xffff : count);
  out.number(kEndMagic);
  out.number(std::uint32_t{0});
  out.number(low_16);
  out.number(low_16);
  out.number(is_64 ? kIn64 : low_32(bytes));
  out.number(is_64 ? kIn64 : low_32(end_));
  out.number(std::uint16_t{0});
  file_.write_at(end_, out.bytes());
  file_.commit();
}

}  // namespace tandem
