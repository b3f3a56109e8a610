// Reading safetensors: the whole header is validated before any of it is used.
#include "checkpoint/safetensors.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "base/printable.h"

namespace tandem {
namespace {

constexpr std::size_t kLengthBytes = 8;
constexpr std::string_view kMetadata = "__metadata__";
// The limit of the reference implementation; a 100 MB header would describe about a million
// tensors.
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;

struct Extent {
  std::int64_t begin;
  std::int64_t end;
  std::string name;
};

std::uint64_t little_endian_64(std::span<const std::byte> bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = kLengthBytes; i-- > 0;)
    value = value << 8 | static_cast<std::uint64_t>(bytes[i]);
  return value;
}

// The bytes of the JSON header.
std::string_view header_of(const MappedFile& file) {
  const auto bytes = file.bytes();
  const std::string path = file.path().string();
  if (bytes.size() < kLengthBytes)
    fail(ErrorCode::kFormat, "[safetensors] {}: expected a header length of 8 bytes, file has {}",
         path, bytes.size());
  const std::uint64_t length = little_endian_64(bytes);
  if (length > kMaxHeaderBytes)
    fail(ErrorCode::kFormat, "[safetensors] {}: header is {} bytes, expected {} at most", path,
         length, kMaxHeaderBytes);
  if (length > bytes.size() - kLengthBytes)
    fail(ErrorCode::kFormat, "[safetensors] {}: header is {} bytes, file has {} after its length",
         path, length, bytes.size() - kLengthBytes);
  return {reinterpret_cast<const char*>(bytes.data()) + kLengthBytes,
          static_cast<std::size_t>(length)};
}

Shape read_shape(const JsonObject& entry) {
  const Json& dims = entry.at("shape");
  if (!dims.is_array())
    fail(ErrorCode::kFormat, "[safetensors] {}: shape: expected an array of dimensions",
         entry.where());
  return entry.get_ints("shape");
}

Extent read_extent(const JsonObject& entry, const std::string& name, std::size_t data_bytes) {
  const auto offsets = entry.get_ints("data_offsets");
  if (offsets.size() != 2 || offsets[0] < 0 || offsets[1] < offsets[0] ||
      static_cast<std::uint64_t>(offsets[1]) > data_bytes)
    fail(ErrorCode::kFormat,
         "[safetensors] {}: data_offsets: expected [begin, end] within the {} bytes of data",
         entry.where(), data_bytes);
  return {offsets[0], offsets[1], name};
}

// nullopt for a type that is not read here.
std::optional<DType> read_dtype(const JsonObject& entry) {
  const std::string name = entry.get_string("dtype");
  try {
    return dtype_from_string(name);
  } catch (const Error&) {
    return std::nullopt;
  }
}

// The tensor described by `entry`, at `extent` in `data`, the bytes after the header.
Tensor read_entry(const JsonObject& entry, DType dtype, Shape shape,
                  const std::shared_ptr<const MappedFile>& file, std::span<const std::byte> data,
                  const Extent& extent) {
  const auto expected = checked_bytes(dtype, shape);
  if (!expected)
    fail(ErrorCode::kFormat, "[safetensors] {}: a shape of {} dimensions is negative or too large",
         entry.where(), shape.size());
  if (extent.end - extent.begin != *expected)
    fail(ErrorCode::kFormat, "[safetensors] {}: {} {} has {} bytes, data_offsets give {}",
         entry.where(), to_string(dtype), to_string(shape), *expected, extent.end - extent.begin);

  const auto bytes =
      data.subspan(static_cast<std::size_t>(extent.begin), static_cast<std::size_t>(*expected));
  if (reinterpret_cast<std::uintptr_t>(bytes.data()) % size_of(dtype) == 0)
    return Tensor(dtype, std::move(shape), bytes, file);
  // Old writers did not align the data, which makes reading it in place undefined behaviour.
  std::byte* copy = nullptr;
  Tensor tensor = Tensor::allocate(dtype, std::move(shape), &copy);
  std::memcpy(copy, bytes.data(), bytes.size());
  return tensor;
}

// Sorted, the extents must cover the data from the first byte to the last without gaps.
void check_cover(std::vector<Extent>& extents, std::size_t data_bytes, const std::string& path) {
  std::ranges::sort(extents, {}, [](const Extent& e) { return std::pair(e.begin, e.end); });
  std::int64_t reached = 0;
  for (const Extent& extent : extents) {
    if (extent.begin != reached)
      fail(ErrorCode::kFormat,
           "[safetensors] {}: {}: {} the tensor before it: begins at byte {}, expected {}", path,
           printable(extent.name), extent.begin < reached ? "overlaps" : "leaves a hole after",
           extent.begin, reached);
    reached = extent.end;
  }
  if (static_cast<std::size_t>(reached) != data_bytes)
    fail(ErrorCode::kFormat, "[safetensors] {}: tensors end at byte {} of the data, file has {}",
         path, reached, data_bytes);
}

}  // namespace

SafetensorsFile SafetensorsFile::open(const fs::path& path) { return open(MappedFile::open(path)); }

SafetensorsFile SafetensorsFile::open(const std::shared_ptr<const MappedFile>& file) {
  const std::string path = file->path().string();
  const std::string_view text = header_of(*file);
  const auto data = file->bytes().subspan(kLengthBytes + text.size());
  const Json json = parse_json(text, path + " (header)");
  const JsonObject header(json, path);

  SafetensorsFile result;
  std::vector<Extent> extents;
  for (const auto& [name, value] : json.items()) {
    // Python's None, for a file without metadata.
    if (name == kMetadata && value.is_null()) continue;
    const JsonObject entry = header.child(name);
    if (name == kMetadata) {
      for (const auto& [key, text_value] : value.items())
        result.metadata[key] = entry.get_string(key);
      continue;
    }
    const std::optional<DType> dtype = read_dtype(entry);
    Shape shape = read_shape(entry);
    Extent extent = read_extent(entry, name, data.size());
    if (dtype) {
      result.tensors.emplace(name, read_entry(entry, *dtype, std::move(shape), file, data, extent));
    } else {
      result.unread[name] = {.type = entry.get_string("dtype"),
                             .shape = std::move(shape),
                             .bytes = extent.end - extent.begin};
    }
    extents.push_back(std::move(extent));
  }
  check_cover(extents, data.size(), path);
  return result;
}

}  // namespace tandem
