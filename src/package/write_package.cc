// Writes tensors, graphs, the manifest and the text files of a package.
#include "package/write_package.h"

#include <algorithm>
#include <map>
#include <memory>
#include <variant>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "base/version.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf/gguf.h"
#include "checkpoint/model_files.h"
#include "checkpoint/safetensors.h"
#include "graph/graph_json.h"
#include "package/genai_config.h"
#include "package/package.h"
#include "text/tokenizer/tokenizer_files.h"

namespace tandem {
namespace {

// Collects the tensors of graphs, file by file; a tensor that is already in an earlier file is not
// stored again.
class TensorGatherer : public TensorSink {
 public:
  struct Kept {
    std::string name;
    Tensor tensor;
    // Instead of a tensor: rows that are computed while they are written.
    std::shared_ptr<const RowSource> rows;
  };

  void begin_file(std::string file) {
    file_ = std::move(file);
    kept_.clear();
    names_.clear();
  }
  const std::vector<Kept>& kept() const noexcept { return kept_; }

  std::string keep(const std::string& name, const Tensor& tensor) override {
    return reference(tensor.bytes().data(), {name, tensor, nullptr});
  }
  std::string keep(const std::string& name, const std::shared_ptr<const RowSource>& rows) override {
    if (const Tensor* stored = rows->stored()) return keep(name, *stored);
    return reference(rows.get(), {name, {}, rows});
  }

 private:
  std::string reference(const void* what, Kept kept) {
    const auto [found, is_new] = references_.try_emplace(what);
    if (!is_new) return found->second;
    // Two nodes may have the same name, and a module two forms.
    const int count = names_[kept.name]++;
    if (count > 0) kept.name += fmt::format(".{}", count);
    found->second = fmt::format("{}:{}", file_, kept.name);
    kept_.push_back(std::move(kept));
    return found->second;
  }

  std::string file_;
  std::vector<Kept> kept_;
  std::map<std::string, int> names_;
  // Indexed by the address of the tensor's data or of its rows.
  std::map<const void*, std::string> references_;
};

void write_tensors(const fs::path& path, const std::vector<TensorGatherer::Kept>& kept,
                   Task& task) {
  std::vector<SafetensorsWriter::Entry> entries;
  for (const auto& [name, tensor, rows] : kept) {
    if (rows == nullptr) {
      entries.push_back({name, tensor.dtype(), tensor.shape()});
    } else {
      entries.push_back({name, rows->dtype(), {rows->rows(), rows->columns()}});
    }
  }
  SafetensorsWriter writer(path, entries);
  for (const auto& [name, tensor, rows] : kept) {
    if (rows == nullptr) {
      writer.write(name, tensor.bytes());
      tensor.release();
    } else {
      writer.write_rows(name, *rows);
    }
    task.advance();
  }
  writer.finish();
}

OrderedJson file_list(const fs::path& folder, ThreadPool& pool) {
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename() != kManifestFile) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  OrderedJson files = OrderedJson::object();
  for (const fs::path& path : paths) {
    const auto file = MappedFile::open(path);
    files[path.filename().string()] = {{"bytes", file->bytes().size()},
                                       {"hash", content_hash_tree(*file, pool)}};
  }
  return files;
}

// Adds the manifest's own hash. A file name that is not valid UTF-8 is kept as far as JSON can
// represent it.
void write_manifest(const fs::path& folder, OrderedJson manifest) {
  const auto text = [&] {
    return manifest.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
  };
  manifest["hash"] = manifest_hash(parse_json(text(), kManifestFile));
  write_text_file(folder / kManifestFile, text());
}

}  // namespace

void write_package(const fs::path& folder, const PackageContents& contents, ThreadPool& pool,
                   Observer& observer) {
  TensorGatherer gatherer;
  OrderedJson graphs;
  const auto gather = [&](const char* file, const char* phase, const Graph& graph) {
    gatherer.begin_file(file);
    graphs[phase] = graph_to_json(graph, gatherer);
    return gatherer.kept();
  };
  const auto decode = gather(kDecodeFile, "decode", contents.decode);
  const auto prefill = gather(kPrefillFile, "prefill", contents.prefill);
  {
    Task task(observer, "write", static_cast<std::int64_t>(decode.size() + prefill.size()),
              "tensors");
    write_tensors(folder / kDecodeFile, decode, task);
    write_tensors(folder / kPrefillFile, prefill, task);
  }
  write_text_file(folder / kGraphFile, graphs.dump(1) + "\n");
  write_text_file(folder / "genai_config.json",
                  make_genai_config(contents.info, contents.generation_config).dump(4) + "\n");
  const bool has_prefix = !contents.prefix.empty();
  OrderedJson manifest = {{"format", has_prefix ? kPackageFormatWithPrefix : kPackageFormat},
                          {"tandem", build_version()},
                          {"model", to_json(contents.info)},
                          {"recipe", contents.recipe}};
  if (has_prefix) manifest["prefix"] = contents.prefix;
  manifest["files"] = file_list(folder, pool);
  write_manifest(folder, std::move(manifest));
}

void put_texts_beside(const Checkpoint& checkpoint, const fs::path& folder, Observer& observer) {
  const fs::path& text = checkpoint.text_path();
  if (fs::is_directory(text)) {
    for (const std::string_view name : kFilesBesideWeights) {
      const fs::path& from = name == "generation_config.json" ? checkpoint.folder() : text;
      if (fs::exists(from / name) && !fs::exists(folder / name))
        fs::copy_file(from / name, folder / name);
    }
    return;
  }
  const Json metadata = GgufFile::open(text).metadata;
  // It may hold weights alone.
  if (!metadata.contains("tokenizer.ggml.model")) return;
  if (!fs::exists(folder / "tokenizer.json"))
    write_text_file(folder / "tokenizer.json", read_tokenizer(text, observer).dump(1) + "\n");
  const auto found = metadata.find("tokenizer.chat_template");
  const fs::path chat_template = folder / "chat_template.jinja";
  if (found != metadata.end() && found->is_string() && !fs::exists(chat_template))
    write_text_file(chat_template, found->get<std::string>());
}

void write_tokenizer(const Checkpoint& checkpoint, const fs::path& target, Observer& observer) {
  put_texts_beside(checkpoint, target, observer);
  const fs::path tokenizer = find_tokenizer(checkpoint.text_path());
  if (!fs::exists(target / tokenizer.filename()) && !fs::exists(target / "tokenizer.json"))
    write_text_file(target / "tokenizer.json", read_tokenizer(tokenizer, observer).dump(1) + "\n");
}

void write_texts(const Checkpoint& checkpoint, const fs::path& target, Observer& observer) {
  write_tokenizer(checkpoint, target, observer);
  // As it is, unless merging an adapter changed it.
  const fs::path config = checkpoint.folder() / "config.json";
  const bool is_file = fs::is_directory(checkpoint.text_path()) && fs::exists(config);
  if (is_file && read_json_file(config) == checkpoint.config()) {
    fs::copy_file(config, target / "config.json");
  } else {
    write_text_file(target / "config.json", checkpoint.config().dump(2) + "\n");
  }
}

}  // namespace tandem
