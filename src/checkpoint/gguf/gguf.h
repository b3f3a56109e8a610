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
  Shape shape;                       // outermost first: [n, k] for a matrix with rows of k
  std::span<const std::byte> bytes;  // mapped
  std::shared_ptr<const void> owner;
};

// One file, mapped, not copied. Everything before the tensors' bytes is checked before anything is
// used: counts, lengths, nesting, types, shapes, alignment, offsets in range, no overlap, no name
// twice. Throws kFormat naming the file, the place and what was expected.
struct GgufFile {
  std::uint32_t version = 0;
  // One object with the keys of the file ("general.architecture"). Strings keep their bytes, UTF-8
  // or not: not every part of a vocabulary is text.
  Json metadata;
  std::map<std::string, GgufTensor> tensors;

  static GgufFile open(const fs::path& path);
};

// True if the file begins as GGUF does; false if it can't be read.
bool is_gguf(const fs::path& path);

}  // namespace tandem
