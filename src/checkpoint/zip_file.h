// The zip container as PyTorch writes it: every entry stored, none compressed.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>

#include "base/files.h"

namespace tandem {

// The bytes of each entry, by name. Every offset and size is checked: entries lie within `file`
// before its directory, do not overlap, and have one name each. kUnsupported for entries that are
// compressed or encrypted and for archives in several parts. Both sizes of archive (zip and zip64).
std::map<std::string, std::span<const std::byte>> read_zip(const MappedFile& file);

bool looks_like_zip(std::span<const std::byte> bytes) noexcept;

}  // namespace tandem
