// Writing GGUF's bytes.
#include "checkpoint/gguf/gguf_writer.h"

#include <algorithm>
#include <ranges>

#include "base/error.h"
#include "base/staged_file.h"

namespace tandem {
namespace {

constexpr std::uint64_t kAlignment = 32;

// Value types.
constexpr std::uint32_t kUint32 = 4;
constexpr std::uint32_t kInt32 = 5;
constexpr std::uint32_t kFloat32 = 6;
constexpr std::uint32_t kBool = 7;
constexpr std::uint32_t kString = 8;
constexpr std::uint32_t kArray = 9;

std::uint64_t aligned(std::uint64_t size) {
  return (size + kAlignment - 1) / kAlignment * kAlignment;
}

void put_text(ByteWriter& writer, std::string_view text) {
  writer.number(std::uint64_t{text.size()});
  writer.text(text);
}

}  // namespace

void GgufMetadata::text(std::string_view text) { put_text(bytes_, text); }

void GgufMetadata::begin(std::string_view key, std::uint32_t type) {
  ++keys_;
  text(key);
  bytes_.number(type);
}

void GgufMetadata::begin_array(std::string_view key, std::uint32_t type, std::size_t count) {
  begin(key, kArray);
  bytes_.number(type);
  bytes_.number(std::uint64_t{count});
}

void GgufMetadata::add_uint32(std::string_view key, std::uint32_t value) {
  begin(key, kUint32);
  bytes_.number(value);
}

void GgufMetadata::add_float(std::string_view key, float value) {
  begin(key, kFloat32);
  bytes_.number(value);
}

void GgufMetadata::add_bool(std::string_view key, bool value) {
  begin(key, kBool);
  bytes_.number(static_cast<std::uint8_t>(value));
}

void GgufMetadata::add_string(std::string_view key, std::string_view value) {
  begin(key, kString);
  text(value);
}

void GgufMetadata::add_strings(std::string_view key, const std::vector<std::string>& values) {
  begin_array(key, kString, values.size());
  for (const std::string& value : values) text(value);
}

void GgufMetadata::add_ints(std::string_view key, const std::vector<std::int32_t>& values) {
  begin_array(key, kInt32, values.size());
  for (const std::int32_t value : values) bytes_.number(value);
}

void GgufMetadata::add_floats(std::string_view key, const std::vector<float>& values) {
  begin_array(key, kFloat32, values.size());
  for (const float value : values) bytes_.number(value);
}

struct GgufWriter::State {
  explicit State(const fs::path& path) : file(path) {}

  struct Slot {
    // In the file.
    std::uint64_t offset;
    std::uint64_t bytes;
  };
  StagedFile file;
  std::vector<Slot> slots;
  // Of the whole file.
  std::uint64_t size = 0;
  // The index of the current slot.
  std::size_t slot = 0;
  // Bytes already written to the current slot.
  std::uint64_t in_slot = 0;
};

GgufWriter::GgufWriter(const fs::path& path, const GgufMetadata& metadata,
                       const std::vector<Entry>& entries) {
  ByteWriter header;
  header.number(std::uint32_t{0x46554747});  // "GGUF"
  header.number(std::uint32_t{3});
  header.number(std::uint64_t{entries.size()});
  header.number(metadata.keys_);
  header.text(metadata.bytes_.view());
  state_ = std::make_unique<State>(path);
  std::uint64_t offset = 0;
  for (const Entry& entry : entries) {
    const auto size = checked_ggml_bytes(entry.type, entry.shape);
    if (!size || entry.shape.size() > 4)
      fail(ErrorCode::kInvalidArgument, "[gguf] {}: {}: {} {} is not possible", path.string(),
           entry.name, to_string(entry.type), to_string(entry.shape));
    put_text(header, entry.name);
    header.number(static_cast<std::uint32_t>(entry.shape.size()));
    for (const std::int64_t dim : std::views::reverse(entry.shape))
      header.number(static_cast<std::uint64_t>(dim));
    header.number(static_cast<std::uint32_t>(entry.type));
    header.number(offset);
    state_->slots.push_back({offset, static_cast<std::uint64_t>(*size)});
    offset += aligned(static_cast<std::uint64_t>(*size));
  }
  const std::uint64_t data = aligned(header.size());
  for (State::Slot& slot : state_->slots) slot.offset += data;
  state_->size = data + offset;
  state_->file.write_at(0, header.bytes());
}

GgufWriter::~GgufWriter() = default;

void GgufWriter::write(std::span<const std::byte> bytes) {
  State& state = *state_;
  const auto complete = [&] {
    return state.slot < state.slots.size() && state.in_slot == state.slots[state.slot].bytes;
  };
  if (bytes.empty()) return;
  while (complete()) {
    ++state.slot;
    state.in_slot = 0;
  }
  if (state.slot == state.slots.size() ||
      bytes.size() > state.slots[state.slot].bytes - state.in_slot)
    fail(ErrorCode::kInvalidArgument, "[gguf] {}: tensor {} of {} has no room for {} bytes",
         state.file.target().string(), state.slot, state.slots.size(), bytes.size());
  state.file.write_at(state.slots[state.slot].offset + state.in_slot, bytes);
  state.in_slot += bytes.size();
}

void GgufWriter::finish() {
  State& state = *state_;
  while (state.slot < state.slots.size() && state.in_slot == state.slots[state.slot].bytes) {
    ++state.slot;
    state.in_slot = 0;
  }
  if (state.slot != state.slots.size())
    fail(ErrorCode::kInvalidArgument, "[gguf] {}: {} of {} tensors were written",
         state.file.target().string(), state.slot, state.slots.size());
  // The padding after the last tensor, which readers require.
  if (!state.slots.empty()) {
    const auto end = state.slots.back().offset + state.slots.back().bytes;
    const std::vector<std::byte> padding(static_cast<std::size_t>(state.size - end));
    if (!padding.empty()) state.file.write_at(end, padding);
  }
  state.file.commit();
}

void GgufWriter::finish_outline() {
  if (!state_->slots.empty()) {
    const std::byte last{};
    state_->file.write_at(state_->size - 1, {&last, 1});
  }
  state_->file.commit();
}

}  // namespace tandem
