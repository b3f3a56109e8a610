// Reading files that are compressed by zstd.
#pragma once

#include <cstddef>
#include <string>

#include "base/files.h"

namespace tandem {

// The content of a .zst file: that of all of its frames. Throws kFormat, naming the path, for a file
// that is not one, that is cut off or damaged, and for a content larger than `max_bytes`, however
// small the file is.
std::string read_zstd_file(const fs::path& path, std::size_t max_bytes = std::size_t{1} << 30);

}  // namespace tandem
