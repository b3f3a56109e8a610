// Reading GGUF: everything before the tensor data is validated before any of it is used.
#include "checkpoint/gguf/gguf.h"

#include <algorithm>
#include <fstream>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/printable.h"
#include "checkpoint/byte_reader.h"

namespace tandem {
namespace {

constexpr std::uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr std::uint32_t kDefaultAlignment = 32;
// llama.cpp's limit.
constexpr std::uint32_t kMaxDimensions = 4;
// The format allows arrays of arrays; no known writer nests them deeper than one level.
constexpr int kMaxDepth = 4;
// Values in all arrays of a file. The largest vocabularies have 262,144 tokens with a score, a type
// and two merges each: about 1.3 million. A value takes 16 bytes in memory, and may take only one
// in the file.
constexpr std::uint64_t kMaxValues = std::uint64_t{1} << 24;

enum ValueType : std::uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

class MetadataReader {
 public:
  explicit MetadataReader(ByteReader& reader) : reader_(reader) {}

  std::string string(std::string_view what) {
    const auto length = reader_.number<std::uint64_t>(what);
    return std::string(reader_.text(length, what));
  }

  Json value(std::uint32_t type, std::string_view what, int depth = 0) {
    switch (type) {
      case kUint8:
        return reader_.number<std::uint8_t>(what);
      case kInt8:
        return reader_.number<std::int8_t>(what);
      case kUint16:
        return reader_.number<std::uint16_t>(what);
      case kInt16:
        return reader_.number<std::int16_t>(what);
      case kUint32:
        return reader_.number<std::uint32_t>(what);
      case kInt32:
        return reader_.number<std::int32_t>(what);
      case kFloat32:
        return reader_.number<float>(what);
      case kBool:
        return reader_.number<std::uint8_t>(what) != 0;
      case kString:
        return string(what);
      case kArray:
        return array(what, depth);
      case kUint64:
        return reader_.number<std::uint64_t>(what);
      case kInt64:
        return reader_.number<std::int64_t>(what);
      case kFloat64:
        return reader_.number<double>(what);
      default:
        fail(ErrorCode::kFormat, "{}: {}: expected a value type from 0 to 12, got {}",
             reader_.place(), what, type);
    }
  }

 private:
  Json array(std::string_view what, int depth) {
    if (depth == kMaxDepth)
      fail(ErrorCode::kFormat, "{}: {}: arrays are nested deeper than {} levels", reader_.place(),
           what, kMaxDepth);
    const auto type = reader_.number<std::uint32_t>(what);
    const auto count = reader_.number<std::uint64_t>(what);
    // Every value takes at least one byte.
    if (count > reader_.remaining() || count > kMaxValues - values_)
      fail(ErrorCode::kFormat, "{}: {}: an array of {} values: expected {} at most",
           reader_.place(), what, count, std::min(reader_.remaining(), kMaxValues - values_));
    values_ += count;
    Json array = Json::array();
    for (std::uint64_t i = 0; i < count; ++i) array.push_back(value(type, what, depth + 1));
    return array;
  }

  ByteReader& reader_;
  std::uint64_t values_ = 0;
};

struct Extent {
  std::uint64_t begin;
  std::uint64_t end;
  std::string_view name;
};

std::uint64_t read_alignment(const Json& metadata, const std::string& place) {
  const auto found = metadata.find("general.alignment");
  if (found == metadata.end()) return kDefaultAlignment;
  // The widest element that is read in place has eight bytes.
  if (!found->is_number_unsigned() || found->get<std::uint64_t>() < 8 ||
      found->get<std::uint64_t>() > 1 << 20 || !std::has_single_bit(found->get<std::uint64_t>()))
    fail(ErrorCode::kFormat,
         "{}: general.alignment: expected a power of two from 8 to 1048576, got {}", place,
         printable(found->is_string() ? found->get<std::string>() : found->dump()));
  return found->get<std::uint64_t>();
}

struct Placed {
  GgufTensor tensor;
  // In the tensor data.
  std::uint64_t offset = 0;
};

Placed read_tensor_info(ByteReader& reader, std::string_view name) {
  const std::string place = fmt::format("{}: {}", reader.place(), printable(name));
  Placed placed;
  const auto dimensions = reader.number<std::uint32_t>("a tensor's dimensions");
  if (dimensions > kMaxDimensions)
    fail(ErrorCode::kFormat, "{}: expected {} dimensions at most, got {}", place, kMaxDimensions,
         dimensions);
  for (std::uint32_t i = 0; i < dimensions; ++i)
    placed.tensor.shape.push_back(
        static_cast<std::int64_t>(reader.number<std::uint64_t>("a tensor's shape")));
  std::ranges::reverse(placed.tensor.shape);
  const auto type = reader.number<std::uint32_t>("a tensor's type");
  const auto format = find_ggml_type(type);
  if (!format)
    fail(ErrorCode::kUnsupported, "{}: element type {} is not one that is known here", place, type);
  placed.tensor.type = format->type;
  placed.offset = reader.number<std::uint64_t>("a tensor's offset");
  if (!checked_ggml_bytes(format->type, placed.tensor.shape))
    fail(ErrorCode::kFormat, "{}: {} {} is negative, too large, or not made of blocks of {}", place,
         format->name, to_string(placed.tensor.shape), format->block_elements);
  return placed;
}

// Finds each tensor's bytes in the tensor data, which begins at `start`.
void place_tensors(std::map<std::string, Placed>& placed, std::span<const std::byte> data,
                   std::uint64_t alignment, const std::string& place) {
  std::vector<Extent> extents;
  for (auto& [name, entry] : placed) {
    const auto bytes = checked_ggml_bytes(entry.tensor.type, entry.tensor.shape);
    if (!bytes) fail(ErrorCode::kInternal, "{}: {}: no size was checked", place, printable(name));
    const auto size = static_cast<std::uint64_t>(*bytes);
    if (entry.offset % alignment != 0)
      fail(ErrorCode::kFormat, "{}: {}: offset {} is not a multiple of the alignment {}", place,
           printable(name), entry.offset, alignment);
    if (entry.offset > data.size() || size > data.size() - entry.offset)
      fail(ErrorCode::kFormat, "{}: {}: {} bytes at {}: expected them within the {} bytes of data",
           place, printable(name), size, entry.offset, data.size());
    entry.tensor.bytes =
        data.subspan(static_cast<std::size_t>(entry.offset), static_cast<std::size_t>(size));
    if (size > 0) extents.push_back({entry.offset, entry.offset + size, name});
  }
  std::ranges::sort(extents, {}, &Extent::begin);
  for (std::size_t i = 1; i < extents.size(); ++i) {
    if (extents[i].begin < extents[i - 1].end)
      fail(ErrorCode::kFormat,
           "{}: {}: overlaps the tensor before it: begins at byte {}, expected {}", place,
           printable(extents[i].name), extents[i].begin, extents[i - 1].end);
  }
}

void check_version(std::uint32_t version, const std::string& place) {
  if (version == 2 || version == 3) return;
  if ((version & 0xffff) == 0 && version != 0)
    fail(ErrorCode::kUnsupported, "{}: is big-endian; expected little-endian", place);
  fail(ErrorCode::kUnsupported, "{}: expected version 2 or 3, got {}", place, version);
}

}  // namespace

GgufFile GgufFile::open(const fs::path& path) {
  const auto file = MappedFile::open(path);
  ByteReader reader(file->bytes(), "[gguf] " + path.string());
  const std::string& place = reader.place();
  if (reader.number<std::uint32_t>("magic") != kMagic)
    fail(ErrorCode::kFormat, "{}: expected a file that begins with \"GGUF\"", place);
  GgufFile result;
  result.version = reader.number<std::uint32_t>("version");
  check_version(result.version, place);
  const auto tensor_count = reader.number<std::uint64_t>("number of tensors");
  const auto key_count = reader.number<std::uint64_t>("number of keys");

  MetadataReader metadata(reader);
  result.metadata = Json::object();
  for (std::uint64_t i = 0; i < key_count; ++i) {
    const std::string key = metadata.string("a key");
    const std::string what = printable(key);
    const auto type = reader.number<std::uint32_t>(what);
    if (!result.metadata.emplace(key, metadata.value(type, what)).second)
      fail(ErrorCode::kFormat, "{}: {}: appears twice", place, what);
  }

  std::map<std::string, Placed> placed;
  for (std::uint64_t i = 0; i < tensor_count; ++i) {
    std::string name = metadata.string("a tensor's name");
    Placed entry = read_tensor_info(reader, name);
    const auto [slot, inserted] = placed.emplace(std::move(name), std::move(entry));
    if (!inserted) fail(ErrorCode::kFormat, "{}: {}: appears twice", place, printable(slot->first));
  }

  const std::uint64_t alignment = read_alignment(result.metadata, place);
  const std::uint64_t start = (reader.position() + alignment - 1) / alignment * alignment;
  // A file without tensors (a vocabulary) may end before the padding.
  const auto data = start <= file->bytes().size()
                        ? file->bytes().subspan(static_cast<std::size_t>(start))
                        : std::span<const std::byte>();
  place_tensors(placed, data, alignment, place);
  for (auto& [name, entry] : placed) {
    entry.tensor.file = file;
    result.tensors.emplace(name, std::move(entry.tensor));
  }
  return result;
}

bool is_gguf(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::uint32_t magic = 0;
  return file.read(reinterpret_cast<char*>(&magic), sizeof magic) && magic == kMagic;
}

}  // namespace tandem
