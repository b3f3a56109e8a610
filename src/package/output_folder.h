// Where a command that writes a whole folder may write: replacing the wrong one would destroy
// somebody's files.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <string_view>

#include "base/files.h"

namespace tandem {

// What speaks against taking a folder for one that the same command wrote; empty if nothing does.
using FolderObjection = std::function<std::string(const fs::path&)>;

// Throws kInvalidArgument unless nothing is at `target`, or an empty folder, or one that `object`
// has no objection to. `part` is the command and `ours` what it writes, for the message.
void require_replaceable(const fs::path& target, std::string_view part, std::string_view ours,
                         const FolderObjection& object);

// "it holds NAME" for the first entry of `folder` that is not in `names`; empty if there is none.
std::string foreign_entry(const fs::path& folder, const std::set<std::string>& names);

// A package holds tandem.json, the files that it lists, and nothing else.
std::string objection_to_package(const fs::path& folder);

}  // namespace tandem
