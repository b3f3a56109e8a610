// Opens a package: reads the manifest, verifies all files, maps the tensors.
#include "package/package.h"

#include <algorithm>
#include <set>
#include <type_traits>
#include <variant>

#include "base/error.h"
#include "base/hash.h"
#include "base/printable.h"
#include "checkpoint/safetensors.h"
#include "graph/graph_json.h"
#include "package/verified_files.h"

namespace tandem {
namespace {

class MappedTensors : public TensorSource {
 public:
  MappedTensors(const std::map<std::string, Tensor>& tensors, std::string where)
      : tensors_(tensors), where_(std::move(where)) {}

  Tensor find(const std::string& reference) const override {
    const auto found = tensors_.find(reference);
    if (found == tensors_.end())
      fail(ErrorCode::kNotFound, "[package] {}: tensor \"{}\" is missing", where_,
           printable(reference));
    return found->second;
  }

 private:
  const std::map<std::string, Tensor>& tensors_;
  std::string where_;
};

// The manifest names the files, so they must be in the folder itself.
fs::path listed_file(const fs::path& folder, const std::string& name) {
  if (name.empty() || name.find_first_of(std::string_view("/\0", 2)) != std::string::npos ||
      name == "." || name == "..") {
    fail(ErrorCode::kFormat, "[package] {}: files: \"{}\" is not a plain file name",
         (folder / kManifestFile).string(), printable(name));
  }
  return folder / name;
}

}  // namespace

std::string manifest_hash(Json manifest) {
  manifest.erase("hash");
  return content_hash(manifest.dump());
}

bool Package::is_package(const fs::path& folder) {
  std::error_code ignored;
  return fs::exists(folder / kManifestFile, ignored);
}

void Package::open_files(const JsonObject& manifest, ThreadPool& pool,
                         const PackageOptions& options) {
  const VerifiedFiles verified(options.cache);
  const JsonObject files = manifest.child("files");
  for (const char* needed : {kGraphFile, kDecodeFile, kPrefillFile}) {
    if (!files.has(needed))
      fail(ErrorCode::kFormat, "[package] {}: \"{}\" is not listed", files.where(), needed);
  }
  for (const auto& [name, entry] : files.json().items()) {
    const fs::path path = listed_file(folder_, name);
    const JsonObject expected(entry, fmt::format("{}.{}", files.where(), printable(name)));
    const std::string hash = expected.get_string("hash");
    auto file = MappedFile::open(path, hash);
    const auto bytes = static_cast<std::int64_t>(file->bytes().size());
    if (bytes != expected.get_int("bytes", 0, std::int64_t{1} << 50)) {
      fail(ErrorCode::kFormat,
           "[package] {}: {} bytes, {} were written: the file was cut or changed", path.string(),
           bytes, expected.at("bytes").dump());
    }
    if (verified.hash_of(*file, pool, options.verify) != hash) {
      fail(ErrorCode::kFormat,
           "[package] {}: content does not match the hash in {}: the file was changed",
           path.string(), kManifestFile);
    }
    files_.emplace(name, std::move(file));
  }
}

void Package::read_prefix(const JsonObject& manifest) {
  if (!manifest.has("prefix")) return;
  const Json& ids = manifest.at("prefix");
  const auto is_token = [&](const Json& id) {
    return id.is_number_integer() && id.get<std::int64_t>() >= 0 &&
           id.get<std::int64_t>() < info_.vocabulary;
  };
  if (!ids.is_array() || !std::ranges::all_of(ids, is_token) ||
      static_cast<std::int64_t>(ids.size()) >= info_.context_length)
    fail(ErrorCode::kFormat,
         "[package] {}: prefix: expected fewer than {} token ids from 0 to {}, got {}",
         manifest.where(), info_.context_length, info_.vocabulary - 1,
         printable(ids.dump().substr(0, 200)));
  prefix_ = ids.get<std::vector<std::int32_t>>();
}

Json Package::read_json(const char* name) const {
  const auto bytes = files_.at(name)->bytes();
  return parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()},
                    (folder_ / name).string());
}

Package Package::open(const fs::path& folder, ThreadPool& pool, const PackageOptions& options) {
  Package package;
  package.folder_ = folder;
  const fs::path manifest_path = folder / kManifestFile;
  package.manifest_ = read_json_file(manifest_path);
  const JsonObject manifest(package.manifest_, manifest_path.string());
  const std::int64_t format = manifest.get_int("format", 1, 1 << 20);
  if (format != kPackageFormat && format != kPackageFormatWithPrefix) {
    fail(ErrorCode::kUnsupported,
         "[package] {}: format {}, this version reads {} and {}: quantize the checkpoint again",
         manifest_path.string(), format, kPackageFormat, kPackageFormatWithPrefix);
  }
  if (manifest.get_string("hash") != manifest_hash(package.manifest_)) {
    fail(ErrorCode::kFormat,
         "[package] {}: content does not match its own hash: the file was changed",
         manifest_path.string());
  }
  package.open_files(manifest, pool, options);
  package.info_ = model_info_from_json(manifest.child("model"));
  package.chunk_ = manifest.child("recipe").get_int("chunk", 1, 4096);
  package.read_prefix(manifest);
  package.graphs_ = package.read_json(kGraphFile);
  if (package.files_.contains("generation_config.json"))
    package.generation_config_ = package.read_json("generation_config.json");
  for (const char* name : {kDecodeFile, kPrefillFile}) {
    const SafetensorsFile file = SafetensorsFile::open(package.files_.at(name));
    for (const auto& [tensor, value] : file.tensors)
      package.tensors_.emplace(fmt::format("{}:{}", name, tensor), value);
  }
  return package;
}

Graph Package::graph(Phase phase) const {
  const std::string where = (folder_ / kGraphFile).string();
  try {
    const JsonObject graphs(graphs_, where);
    Graph graph = graph_from_json(graphs.child(to_string(phase)), MappedTensors(tensors_, where));
    verify_decoder(graph);
    return graph;
  } catch (const Error& error) {
    // What an operator's rule says names the node only.
    if (std::string_view(error.what()).find(where) != std::string_view::npos) throw;
    fail(error.code(), "[package] {}: {}: {}", where, to_string(phase), error.what());
  }
}

void Package::require_unchanged() const {
  for (const auto& [name, file] : files_) {
    if (file_stamp(folder_ / name) == file->stamp()) continue;
    fail(ErrorCode::kFormat, "[package] {}: was changed while it was being opened: open it again",
         (folder_ / name).string());
  }
}

std::int64_t tensor_bytes(const Graph& graph) {
  std::set<const std::byte*> counted;
  std::int64_t bytes = 0;
  const auto count = [&](const Tensor& tensor) {
    if (!tensor.empty() && counted.insert(tensor.bytes().data()).second)
      bytes += static_cast<std::int64_t>(tensor.bytes().size());
  };
  const auto count_weight = [&](const Weight& weight) {
    const std::vector<Tensor> parts = parts_of(weight);
    if (parts.empty()) bytes += stored_bytes(weight);
    for (const Tensor& part : parts) count(part);
  };
  const auto visit = [&](const char*, const auto& field) {
    using T = std::decay_t<decltype(field)>;
    if constexpr (std::is_same_v<T, Tensor>) count(field);
    if constexpr (std::is_same_v<T, Weight>) count_weight(field);
  };
  for (const Node& node : graph.nodes())
    std::visit([&](const auto& a) { std::decay_t<decltype(a)>::fields(a, visit); },
               node.attributes);
  return bytes;
}

}  // namespace tandem
