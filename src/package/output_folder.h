// Checks whether a command may write a whole folder to a path: replacing the wrong folder would
// destroy a user's files.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <string_view>

#include "base/files.h"

namespace tandem {

// Returns why a folder cannot have been written by the same command; empty if it may have been.
using FolderObjection = std::function<std::string(const fs::path&)>;

// Throws kInvalidArgument unless `target` does not exist, is an empty folder, or is a folder that
// `object` returns no objection to. `part` is the command and `ours` what it writes, for the
// message.
void require_replaceable(const fs::path& target, std::string_view part, std::string_view ours,
                         const FolderObjection& object);

// "it holds NAME" for the first entry of `folder` that is not in `names`; empty if there is none.
std::string foreign_entry(const fs::path& folder, const std::set<std::string>& names);

// A package contains tandem.json, the files listed in it, and nothing else.
std::string objection_to_package(const fs::path& folder);

}  // namespace tandem
