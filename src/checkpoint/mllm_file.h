// The .mllm format of the mllm project: version 1, an index of names and offsets without shapes,
// and version 2, descriptors of fixed size with shapes.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/files.h"
#include "checkpoint/gguf/ggml_blocks.h"
#include "checkpoint/tensor_store.h"

namespace tandem {

// One element type of the format: plain elements, or ggml's blocks.
struct MllmType {
  std::int32_t code;
  std::optional<DType> dtype;
  GgmlType blocks = GgmlType::kF32;  // where there is no dtype
};

// Tensors of a file of either version, mapped. Everything before the tensors' bytes is checked
// before anything is used. In version 1 every shape is one dimension: the number of elements.
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
  // `version` is 1 or 2. kInvalidArgument for a name or a shape that the version has no room for.
  MllmWriter(const fs::path& path, std::vector<Entry> entries, int version);
  ~MllmWriter();
  MllmWriter(const MllmWriter&) = delete;
  MllmWriter& operator=(const MllmWriter&) = delete;

  void write(std::size_t entry, std::span<const std::byte> bytes);  // 0, 1, 2, …
  void finish();                                                    // flushes to disk

  // The type that stands for plain elements in files of `version`; nothing if there is none.
  static std::optional<MllmType> type_of(DType dtype, int version);
  static MllmType type_of(GgmlType blocks);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tandem
