// Reading and writing .mllm, byte for byte as mllm's own tools do.
#include "checkpoint/mllm_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/printable.h"
#include "base/staged_file.h"
#include "checkpoint/byte_reader.h"
#include "checkpoint/byte_writer.h"
#include "checkpoint/gguf/block_tensors.h"
#include "checkpoint/gguf/interleaved_rows.h"

namespace tandem {
namespace {

constexpr std::int32_t kMagic1 = 20012;
constexpr std::int32_t kMagic2 = 0x519A;
constexpr std::size_t kModelNameBytes = 512;
constexpr std::size_t kHeader2Bytes = 532;
constexpr std::size_t kDescriptorBytes = 352;
constexpr std::size_t kMaxDimensions = 16;
constexpr std::size_t kNameBytes = 256;

constexpr std::array kTypes = {
    MllmType{0, DType::kF32},
    MllmType{1, DType::kF16},
    MllmType{2, {}, GgmlType::kQ4_0},
    MllmType{3, {}, GgmlType::kQ4_1},
    MllmType{8, {}, GgmlType::kQ8_0},
    MllmType{12, {}, GgmlType::kQ4_K},
    MllmType{14, {}, GgmlType::kQ6_K},
    MllmType{15, {}, GgmlType::kQ8_K},
    MllmType{16, DType::kI8},
    MllmType{17, DType::kI16},
    MllmType{18, DType::kI32},
    MllmType{19, {}, GgmlType::kQ4_0_4_4},
    MllmType{20, {}, GgmlType::kQ4_0_4_8},
    MllmType{21, {}, GgmlType::kQ4_0_8_8},
    MllmType{23, {}, GgmlType::kQ3_K},
    MllmType{24, {}, GgmlType::kQ2_K},
    // Version 1 writes bytes under the number of a packed ARM format, KAI_Q4_0, which no other
    // program can read.
    MllmType{31, DType::kU8},
    MllmType{128, DType::kBF16},
    MllmType{129, DType::kU8},
    MllmType{130, DType::kU16},
    MllmType{131, DType::kU32},
    MllmType{132, DType::kI64},
    MllmType{133, DType::kU64},
    MllmType{156, DType::kBool},
};

struct MllmTensor {
  MllmType type;
  Shape shape;
  std::span<const std::byte> bytes;
};

std::string_view name_of(const MllmType& type) {
  return type.dtype ? to_string(*type.dtype) : to_string(type.blocks);
}

std::optional<std::int64_t> checked_size(const MllmType& type, const Shape& shape) {
  return type.dtype ? checked_bytes(*type.dtype, shape) : checked_ggml_bytes(type.blocks, shape);
}

MllmType find_type(std::int64_t code, const std::string& place) {
  const auto* found = std::ranges::find(kTypes, code, &MllmType::code);
  if (found == kTypes.end())
    fail(ErrorCode::kUnsupported, "{}: element type {} is not read here", place, code);
  return *found;
}

class MllmStore : public TensorStore {
 public:
  explicit MllmStore(std::shared_ptr<const MappedFile> file)
      : file_(std::move(file)), place_("[mllm] " + file_->path().string()) {
    ByteReader reader(file_->bytes(), place_);
    const auto magic = reader.number<std::int32_t>("magic");
    if (magic == kMagic1) {
      read_version_1(reader);
      shapes_ = false;
    } else if (magic == kMagic2) {
      read_version_2(reader);
    } else {
      fail(ErrorCode::kFormat, "{}: expected magic {} (version 1) or {} (version 2), got {}",
           place_, kMagic1, kMagic2, magic);
    }
    check_overlap();
  }

  bool has_shapes() const noexcept override { return shapes_; }

  Tensor load(const std::string& name) const override {
    return load_as(name, stored_.at(name).shape);
  }

  Tensor load_as(const std::string& name, const Shape& shape) const override {
    const MllmTensor& tensor = stored_.at(name);
    const Tensor raw(DType::kU8, {static_cast<std::int64_t>(tensor.bytes.size())}, tensor.bytes,
                     file_);
    if (tensor.type.dtype) return load_plain(*tensor.type.dtype, shape, raw);
    const std::string place = place_ + ": " + printable(name);
    if (interleaving_of(tensor.type.blocks))
      return load_blocks(GgmlType::kQ4_0, shape,
                         separate_rows(tensor.type.blocks, shape, tensor.bytes, place), place);
    return load_blocks(tensor.type.blocks, shape, raw, place);
  }

  std::optional<Weight> load_weight(const std::string& name, std::int64_t n,
                                    std::int64_t k) const override {
    const MllmTensor& tensor = stored_.at(name);
    if (tensor.type.dtype || k % kGgmlBlock != 0) return std::nullopt;
    if (tensor.type.blocks == GgmlType::kQ4_0) return int4_from_q4_0(tensor.bytes, n, k);
    if (!interleaving_of(tensor.type.blocks)) return std::nullopt;
    const Tensor rows =
        separate_rows(tensor.type.blocks, {n, k}, tensor.bytes, place_ + ": " + printable(name));
    return int4_from_q4_0(rows.bytes(), n, k);
  }

 private:
  void read_version_1(ByteReader& reader) {
    const auto index_bytes = reader.number<std::uint64_t>("index size");
    ByteReader index(reader.take(index_bytes, "index"), place_ + ": index");
    while (index.remaining() > 0) {
      const auto length = index.number<std::int32_t>("a name's length");
      if (length < 0)
        fail(ErrorCode::kFormat, "{}: a name's length: expected it from 0 up, got {}", place_,
             length);
      std::string name(index.text(static_cast<std::uint64_t>(length), "a name"));
      const auto size = index.number<std::uint64_t>("a tensor's size");
      const auto offset = index.number<std::uint64_t>("a tensor's offset");
      const std::string place = place_ + ": " + printable(name);
      const MllmType type = find_type(index.number<std::int32_t>("a tensor's type"), place);
      const auto unit = static_cast<std::uint64_t>(
          type.dtype ? size_of(*type.dtype)
                     : static_cast<std::size_t>(ggml_info(type.blocks).block_bytes));
      const auto bytes = slice(offset, size, place);
      if (size % unit != 0)
        fail(ErrorCode::kFormat, "{}: {} bytes are not whole elements of {}", place, size,
             name_of(type));
      const auto in_unit = type.dtype ? 1 : ggml_info(type.blocks).block_elements;
      add(std::move(name), {type, {static_cast<std::int64_t>(size / unit) * in_unit}, bytes},
          place);
    }
  }

  void read_version_2(ByteReader& reader) {
    const auto version = reader.number<std::int32_t>("version");
    if (version != 2)
      fail(ErrorCode::kUnsupported, "{}: expected version 2, got {}", place_, version);
    reader.take(kModelNameBytes, "model name");
    const auto count = reader.number<std::uint32_t>("number of tensors");
    reader.seek(reader.number<std::uint64_t>("offset of the descriptors"), "descriptors");
    for (std::uint32_t i = 0; i < count; ++i) {
      ByteReader entry(reader.take(kDescriptorBytes, "a descriptor"),
                       fmt::format("{}: descriptor {}", place_, i));
      entry.number<std::uint32_t>("id");
      const auto code = entry.number<std::uint32_t>("type");
      const auto size = entry.number<std::uint64_t>("size");
      const auto offset = entry.number<std::uint64_t>("offset");
      const auto dimensions = entry.number<std::uint64_t>("dimensions");
      if (dimensions > kMaxDimensions)
        fail(ErrorCode::kFormat, "{}: expected {} dimensions at most, got {}", entry.place(),
             kMaxDimensions, dimensions);
      Shape shape(kMaxDimensions);
      for (std::int64_t& dim : shape) dim = entry.number<std::int32_t>("shape");
      shape.resize(static_cast<std::size_t>(dimensions));
      const std::string_view padded = entry.text(kNameBytes, "name");
      std::string name(padded.substr(0, padded.find('\0')));
      const std::string place = place_ + ": " + printable(name);
      const MllmType type = find_type(code, place);
      const auto expected = checked_size(type, shape);
      if (!expected || static_cast<std::uint64_t>(*expected) != size)
        fail(ErrorCode::kFormat, "{}: {} {} does not have {} bytes", place, name_of(type),
             to_string(shape), size);
      add(std::move(name), {type, std::move(shape), slice(offset, size, place)}, place);
    }
  }

  std::span<const std::byte> slice(std::uint64_t offset, std::uint64_t size,
                                   const std::string& place) const {
    const auto bytes = file_->bytes();
    if (offset > bytes.size() || size > bytes.size() - offset)
      fail(ErrorCode::kFormat, "{}: {} bytes at {}: expected them within the {} bytes of the file",
           place, size, offset, bytes.size());
    return bytes.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(size));
  }

  void add(std::string name, MllmTensor tensor, const std::string& place) {
    const StoredTensor described{std::string(name_of(tensor.type)),
                                 tensor.type.dtype.value_or(DType::kF16), tensor.shape,
                                 static_cast<std::int64_t>(tensor.bytes.size())};
    if (!tensors_.emplace(name, described).second)
      fail(ErrorCode::kFormat, "{}: appears twice", place);
    stored_.emplace(std::move(name), std::move(tensor));
  }

  void check_overlap() const {
    std::vector<std::pair<const std::byte*, const std::string*>> begins;
    for (const auto& [name, tensor] : stored_)
      if (!tensor.bytes.empty()) begins.emplace_back(tensor.bytes.data(), &name);
    std::ranges::sort(begins, {}, [](const auto& begin) { return begin.first; });
    for (std::size_t i = 1; i < begins.size(); ++i) {
      const MllmTensor& before = stored_.at(*begins[i - 1].second);
      if (begins[i].first < before.bytes.data() + before.bytes.size())
        fail(ErrorCode::kFormat, "{}: {}: overlaps {}", place_, printable(*begins[i].second),
             printable(*begins[i - 1].second));
    }
  }

  std::shared_ptr<const MappedFile> file_;
  std::string place_;
  bool shapes_ = true;
  std::map<std::string, MllmTensor> stored_;
};

}  // namespace

std::shared_ptr<const TensorStore> open_mllm(const fs::path& path) {
  return std::make_shared<MllmStore>(MappedFile::open(path));
}

bool looks_like_mllm(std::span<const std::byte> bytes) noexcept {
  std::int32_t magic = 0;
  if (bytes.size() < sizeof magic) return false;
  std::memcpy(&magic, bytes.data(), sizeof magic);
  return magic == kMagic1 || magic == kMagic2;
}

struct MllmWriter::State {
  explicit State(const fs::path& path) : file(path) {}

  StagedFile file;
  struct Slot {
    std::uint64_t offset;
    std::uint64_t bytes;
  };
  std::vector<Slot> slots;
  std::size_t written = 0;
};

MllmWriter::MllmWriter(const fs::path& path, std::vector<Entry> entries, int version) {
  const std::string where = path.string();
  std::uint64_t index_bytes = 0;
  std::vector<std::uint64_t> sizes;
  for (const Entry& entry : entries) {
    const auto size = checked_size(entry.type, entry.shape);
    const bool fits =
        version == 1 || (entry.name.size() < kNameBytes && entry.shape.size() <= kMaxDimensions &&
                         std::ranges::all_of(entry.shape, [](std::int64_t dim) {
                           return dim <= std::numeric_limits<std::int32_t>::max();
                         }));
    if (!size || !fits)
      fail(ErrorCode::kInvalidArgument, "[mllm] {}: {}: {} has no room in version {}", where,
           printable(entry.name), to_string(entry.shape), version);
    sizes.push_back(static_cast<std::uint64_t>(*size));
    index_bytes += 4 + entry.name.size() + 8 + 8 + 4;
  }
  state_ = std::make_unique<State>(path);
  ByteWriter header;
  std::uint64_t offset = 0;
  if (version == 1) {
    header.number(kMagic1);
    header.number(index_bytes);
    offset = 4 + 8 + index_bytes;
  } else {
    header.number(kMagic2);
    header.number(std::int32_t{2});
    header.padded_text("", kModelNameBytes);
    header.number(static_cast<std::uint32_t>(entries.size()));
    header.number(std::uint64_t{kHeader2Bytes});
    offset = kHeader2Bytes + entries.size() * kDescriptorBytes;
  }
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const Entry& entry = entries[i];
    if (version == 1) {
      header.number(static_cast<std::int32_t>(entry.name.size()));
      header.text(entry.name);
      header.number(sizes[i]);
      header.number(offset);
      header.number(entry.type.code);
    } else {
      header.number(static_cast<std::uint32_t>(i));
      header.number(static_cast<std::uint32_t>(entry.type.code));
      header.number(sizes[i]);
      header.number(offset);
      header.number(std::uint64_t{entry.shape.size()});
      for (std::size_t d = 0; d < kMaxDimensions; ++d)
        header.number(static_cast<std::int32_t>(d < entry.shape.size() ? entry.shape[d] : 0));
      header.padded_text(entry.name, kNameBytes);
    }
    state_->slots.push_back({offset, sizes[i]});
    offset += sizes[i];
  }
  state_->file.write_at(0, header.bytes());
}

MllmWriter::~MllmWriter() = default;

void MllmWriter::write(std::size_t entry, std::span<const std::byte> bytes) {
  const std::string where = state_->file.target().string();
  if (entry != state_->written || entry >= state_->slots.size())
    fail(ErrorCode::kInvalidArgument, "[mllm] {}: expected tensor {} of {} next, got {}", where,
         state_->written, state_->slots.size(), entry);
  if (bytes.size() != state_->slots[entry].bytes)
    fail(ErrorCode::kInvalidArgument, "[mllm] {}: tensor {}: expected {} bytes, got {}", where,
         entry, state_->slots[entry].bytes, bytes.size());
  state_->file.write_at(state_->slots[entry].offset, bytes);
  ++state_->written;
}

void MllmWriter::finish() {
  if (state_->written != state_->slots.size())
    fail(ErrorCode::kInvalidArgument, "[mllm] {}: {} of {} tensors were written",
         state_->file.target().string(), state_->written, state_->slots.size());
  state_->file.commit();
}

std::optional<MllmType> MllmWriter::type_of(DType dtype, int version) {
  if (version == 1 && dtype == DType::kBool) return MllmType{16, DType::kI8};
  for (const MllmType& type : kTypes) {
    const bool known = version == 1 ? type.code < 128 : type.code != 31;
    if (known && type.dtype == dtype) return type;
  }
  return std::nullopt;
}

MllmType MllmWriter::type_of(GgmlType blocks) {
  if (const auto dtype = plain_dtype(blocks))
    if (const auto type = type_of(*dtype, 2)) return *type;
  for (const MllmType& type : kTypes)
    if (!type.dtype && type.blocks == blocks) return type;
  fail(ErrorCode::kUnsupported, "[mllm] type {} is not written here", to_string(blocks));
}

}  // namespace tandem
