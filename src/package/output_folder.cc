// Checks on folders that a command is about to replace.
#include "package/output_folder.h"

#include <system_error>

#include "base/error.h"
#include "base/json.h"
#include "base/printable.h"
#include "package/package.h"

namespace tandem {

void require_replaceable(const fs::path& target, std::string_view part, std::string_view ours,
                         const FolderObjection& object) {
  if (target.empty())
    fail(ErrorCode::kInvalidArgument, "[{}] output: expected the name of a folder, got nothing",
         part);
  std::error_code error;
  if (!fs::exists(fs::symlink_status(target, error))) return;
  if (!fs::is_directory(target, error))
    fail(ErrorCode::kInvalidArgument, "[{}] {}: exists and is not a folder", part, target.string());
  if (fs::is_empty(target, error)) return;
  const std::string objection = error ? "it cannot be read: " + error.message() : object(target);
  if (objection.empty()) return;
  fail(ErrorCode::kInvalidArgument,
       "[{}] {}: would be replaced, but is not {} ({}): remove it or choose another folder", part,
       target.string(), ours, objection);
}

std::string foreign_entry(const fs::path& folder, const std::set<std::string>& names) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!names.contains(name)) return "it holds " + printable(name);
  }
  return {};
}

std::string objection_to_package(const fs::path& folder) {
  if (!Package::is_package(folder)) return fmt::format("it has no {}", kManifestFile);
  try {
    const fs::path path = folder / kManifestFile;
    const Json json = read_json_file(path);
    const JsonObject manifest(json, path.string());
    manifest.get_int("format", 1, 1 << 20);
    std::set<std::string> names = {kManifestFile};
    for (const auto& [name, entry] : manifest.child("files").json().items()) names.insert(name);
    return foreign_entry(folder, names);
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace tandem
