// The zip container as written by PyTorch: every entry stored, none compressed.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>

#include "base/files.h"

namespace tandem {

// The bytes of each entry, by name. Every offset and size is validated: entries lie within `file`
// before its directory, do not overlap, and have unique names. Throws kUnsupported for compressed
// or encrypted entries and for multi-part archives. Reads both zip and zip64.
std::map<std::string, std::span<const std::byte>> read_zip(const MappedFile& file);

bool looks_like_zip(std::span<const std::byte> bytes) noexcept;

}  // namespace tandem
