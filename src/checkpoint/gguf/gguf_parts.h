// A GGUF model in several files, as llama.cpp's gguf-split and converters write it: parts
// NAME-00001-of-00003.gguf and so on, of which the first holds the metadata.
#pragma once

#include <vector>

#include "checkpoint/gguf/gguf.h"

namespace tandem {

// The name of the first part, if `path` is named as a part; else `path` itself. Looks at no file.
fs::path first_gguf_part(const fs::path& path);

// The metadata of the model that `path`, any of its parts or a file by itself, belongs to. Throws
// as GgufFile::open().
Json gguf_metadata(const fs::path& path);

// A model and the files that it came from, in the order of its parts.
struct GgufParts {
  // The metadata of the first part, the tensors of all.
  GgufFile content;
  std::vector<fs::path> files;
};

// Opens the model that `path`, any of its parts or a file by itself, belongs to. Throws kNotFound
// naming a part that is missing, and kFormat naming the part that contradicts its name or the first
// part (split.no, split.count), repeats a tensor, or lacks one (split.tensors.count).
GgufParts open_gguf_parts(const fs::path& path);

}  // namespace tandem
