// The GGUF format, versions 2 and 3: typed metadata, then tensors of ggml's element types.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "base/files.h"
#include "base/json.h"
#include "checkpoint/gguf/ggml_blocks.h"
#include "tensor/tensor.h"

namespace tandem {

struct GgufTensor {
  GgmlType type = GgmlType::kF32;
  // Outermost dimension first: [n, k] for a matrix with rows of k.
  Shape shape;
  // Within the mapping of `file`.
  std::span<const std::byte> bytes;
  std::shared_ptr<const MappedFile> file;
};

// One file, mapped, not copied. Everything before the tensor data is validated before any of it is
// used: counts, lengths, nesting, types, shapes, alignment, offsets in range, no overlaps, no
// duplicate names. Throws kFormat naming the file, the location and what was expected.
struct GgufFile {
  std::uint32_t version = 0;
  // A flat object with the keys of the file ("general.architecture"). Strings keep their bytes,
  // valid UTF-8 or not: some vocabulary entries are not text.
  Json metadata;
  std::map<std::string, GgufTensor> tensors;

  static GgufFile open(const fs::path& path);
};

// True if the file starts with GGUF's magic; false if it can't be read.
bool is_gguf(const fs::path& path);

}  // namespace tandem
