// Writing safetensors, tensor by tensor.
#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <numeric>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "base/staged_file.h"
#include "checkpoint/safetensors.h"
#include "tensor/half.h"

namespace tandem {
namespace {

// The data starts, and each tensor lies, at a multiple of its element size, as other readers
// expect.
constexpr std::size_t kHeaderAlignment = 8;

std::array<std::byte, 8> little_endian_64(std::uint64_t value) {
  std::array<std::byte, 8> bytes;
  for (std::size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<std::byte>(value >> (8 * i));
  return bytes;
}

std::vector<std::byte> encode(std::span<const float> values, DType dtype) {
  std::vector<std::byte> bytes(values.size() * size_of(dtype));
  encode_floats(values, dtype, bytes.data());
  return bytes;
}

}  // namespace

struct SafetensorsWriter::State {
  struct Slot {
    std::string name;
    // In the file.
    std::uint64_t offset;
    std::uint64_t bytes;
  };

  explicit State(const fs::path& path) : file(path) {}

  StagedFile file;
  // In writing order.
  std::vector<Slot> slots;
  std::size_t written = 0;
  // Bytes of the next tensor already written.
  std::uint64_t pieces = 0;

  // The next tensor, which must be `name`.
  const Slot& next(const std::string& name) const {
    const std::string where = file.target().string();
    if (written == slots.size())
      fail(ErrorCode::kInvalidArgument, "[safetensors] {}: {}: all tensors are written already",
           where, name);
    const Slot& slot = slots[written];
    if (slot.name != name)
      fail(ErrorCode::kInvalidArgument, "[safetensors] {}: expected tensor \"{}\" next, got \"{}\"",
           where, slot.name, name);
    return slot;
  }
};

SafetensorsWriter::SafetensorsWriter(const fs::path& path, std::vector<Entry> entries,
                                     std::map<std::string, std::string> metadata) {
  const std::string where = path.string();
  std::set<std::string_view> names;
  std::uint64_t total = 0;
  std::vector<std::uint64_t> sizes;
  for (const Entry& entry : entries) {
    const auto bytes = checked_bytes(entry.dtype, entry.shape);
    if (!bytes ||
        *bytes > std::numeric_limits<std::int64_t>::max() / 2 - static_cast<std::int64_t>(total))
      fail(ErrorCode::kInvalidArgument, "[safetensors] {}: {}: shape {} is not possible", where,
           entry.name, to_string(entry.shape));
    if (entry.name == "__metadata__" || !names.insert(entry.name).second)
      fail(ErrorCode::kInvalidArgument, "[safetensors] {}: the name \"{}\" is taken", where,
           entry.name);
    sizes.push_back(static_cast<std::uint64_t>(*bytes));
    total += sizes.back();
  }

  // Wide elements first, so that no tensor needs padding, which the format does not allow.
  std::vector<std::size_t> order(entries.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, [&](std::size_t a, std::size_t b) {
    return std::pair(size_of(entries[b].dtype), a) < std::pair(size_of(entries[a].dtype), b);
  });
  std::vector<std::uint64_t> offsets(entries.size());
  std::uint64_t reached = 0;
  for (const std::size_t i : order) {
    offsets[i] = reached;
    reached += sizes[i];
  }

  OrderedJson header = OrderedJson::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  for (const std::size_t i : order) {
    header[entries[i].name] = {{"dtype", std::string(to_string(entries[i].dtype))},
                               {"shape", entries[i].shape},
                               {"data_offsets", {offsets[i], offsets[i] + sizes[i]}}};
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception&) {
    fail(ErrorCode::kInvalidArgument, "[safetensors] {}: a name or the metadata is not UTF-8",
         where);
  }
  text.resize((text.size() + kHeaderAlignment - 1) / kHeaderAlignment * kHeaderAlignment, ' ');

  state_ = std::make_unique<State>(path);
  const std::uint64_t data = 8 + text.size();
  for (std::size_t i = 0; i < entries.size(); ++i)
    state_->slots.push_back({std::move(entries[i].name), data + offsets[i], sizes[i]});
  state_->file.write_at(0, little_endian_64(text.size()));
  state_->file.write_at(8, std::as_bytes(std::span(text)));
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  const State::Slot& slot = state_->next(name);
  if (state_->pieces > 0 || slot.bytes != bytes.size())
    fail(ErrorCode::kInvalidArgument, "[safetensors] {}: {}: expected {} bytes, got {}",
         state_->file.target().string(), name, slot.bytes - state_->pieces, bytes.size());
  write_piece(name, bytes);
}

void SafetensorsWriter::write_piece(const std::string& name, std::span<const std::byte> bytes) {
  const State::Slot& slot = state_->next(name);
  if (bytes.size() > slot.bytes - state_->pieces)
    fail(ErrorCode::kInvalidArgument,
         "[safetensors] {}: {}: expected at most {} more bytes, got {}",
         state_->file.target().string(), name, slot.bytes - state_->pieces, bytes.size());
  state_->file.write_at(slot.offset + state_->pieces, bytes);
  state_->pieces += bytes.size();
  if (state_->pieces < slot.bytes) return;
  ++state_->written;
  state_->pieces = 0;
}

void SafetensorsWriter::write_rows(const std::string& name, const RowSource& rows) {
  visit_rows(rows, 0, rows.rows(), [&](std::int64_t, std::span<const float> values) {
    write_piece(name, encode(values, rows.dtype()));
  });
  rows.release();
}

void SafetensorsWriter::finish() {
  if (state_->written != state_->slots.size())
    fail(ErrorCode::kInvalidArgument, "[safetensors] {}: {} of {} tensors were written",
         state_->file.target().string(), state_->written, state_->slots.size());
  state_->file.commit();
}

void write_safetensors(const fs::path& path, const std::map<std::string, Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<SafetensorsWriter::Entry> entries;
  for (const auto& [name, tensor] : tensors)
    entries.push_back({name, tensor.dtype(), tensor.shape()});
  SafetensorsWriter writer(path, std::move(entries), metadata);
  for (const auto& [name, tensor] : tensors) writer.write(name, tensor.bytes());
  writer.finish();
}

}  // namespace tandem
