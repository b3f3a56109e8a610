// The .mllm format of the mllm project: version 1, an index of names and offsets without shapes,
// and version 2, fixed-size descriptors with shapes.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/files.h"
#include "checkpoint/gguf/ggml_blocks.h"
#include "checkpoint/tensor_store.h"

namespace tandem {

// An element type of the format: plain elements, or ggml's blocks.
struct MllmType {
  std::int32_t code;
  std::optional<DType> dtype;
  // If there is no dtype.
  GgmlType blocks = GgmlType::kF32;
};

// The tensors of a file of either version, mapped. Everything before the tensor data is validated
// before any of it is used. In version 1 every shape has one dimension: the number of elements.
std::shared_ptr<const TensorStore> open_mllm(const fs::path& path);

bool looks_like_mllm(std::span<const std::byte> bytes) noexcept;

// Writes a file tensor by tensor, in the order of the entries.
class MllmWriter {
 public:
  struct Entry {
    std::string name;
    MllmType type;
    Shape shape;
  };
  // `version` is 1 or 2. Throws kInvalidArgument for a name or a shape that does not fit that
  // version's format.
  MllmWriter(const fs::path& path, std::vector<Entry> entries, int version);
  ~MllmWriter();
  MllmWriter(const MllmWriter&) = delete;
  MllmWriter& operator=(const MllmWriter&) = delete;

  // `entry` counts up: 0, 1, 2, …
  void write(std::size_t entry, std::span<const std::byte> bytes);
  // Flushes to disk.
  void finish();

  // The type for plain elements in files of `version`; nullopt if there is none.
  static std::optional<MllmType> type_of(DType dtype, int version);
  static MllmType type_of(GgmlType blocks);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tandem
