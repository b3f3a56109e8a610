// An opened model: graphs and weights, which are immutable and can be shared by several engines.
#pragma once

#include <memory>
#include <optional>
#include <span>

#include "base/files.h"
#include "base/json.h"
#include "base/observer.h"
#include "base/thread_pool.h"
#include "graph/graph.h"
#include "graph/model_info.h"
#include "package/package.h"
#include "runtime/search_options.h"

namespace tandem {

// A tokenizer that is named apart from its model: the file, and merges in a file of their own if
// they don't stand next to it.
struct VocabularyFiles {
  fs::path vocabulary;
  fs::path merges;
};

class LoadedModel {
 public:
  // Opens a package folder, or anything that Checkpoint::open() accepts. `pool` is used for hashing
  // what must be verified; `observer` is warned of settings that are ignored or contradict each
  // other.
  static std::shared_ptr<const LoadedModel> open(const fs::path& path, ThreadPool& pool,
                                                 const PackageOptions& options = {},
                                                 Observer& observer = silent());
  // The same model in two checkpoints: `decode` writes answers, `prefill` reads prompts, in static
  // int8 as mllm's models for Qualcomm's NPU do. Throws kInvalidArgument, naming both, unless they
  // have the same sizes and, but for what rounding did, the same values.
  static std::shared_ptr<const LoadedModel> open_pair(const fs::path& decode,
                                                      const fs::path& prefill,
                                                      Observer& observer = silent());

  // As given.
  const fs::path& path() const noexcept { return path_; }
  // Where the tokenizer and the chat template are.
  const fs::path& text_path() const noexcept { return text_path_; }
  bool is_package() const noexcept { return package_.has_value(); }
  // Whether prompts have a graph of their own, as those of a package have.
  bool has_prefill_graph() const noexcept { return prefill_.has_value(); }
  const ModelInfo& info() const noexcept { return info_; }
  // Tokens that every sequence begins with, and of which its user sees nothing; the context length is
  // what is left.
  std::span<const TokenId> prefix() const noexcept {
    return package_ ? package_->prefix() : std::span<const TokenId>();
  }
  // The search that generation_config.json recommends; throws and warns as recommended_search().
  SearchOptions recommended_search(Observer& observer = silent()) const;
  // The package's rows per run of an NPU program; 0 for a checkpoint.
  std::int64_t chunk() const noexcept { return package_ ? package_->chunk() : 0; }
  // A checkpoint has the same graph for both phases.
  const Graph& graph(Phase phase) const noexcept {
    return phase == Phase::kPrefill && prefill_ ? *prefill_ : decode_;
  }
  // Size on disk of the weights that a phase reads.
  std::int64_t weight_file_bytes(Phase phase) const { return tensor_bytes(graph(phase)); }
  // Parameters of the Linears inside decoder blocks: each takes 2 operations per prompt token.
  std::int64_t block_parameters() const;
  // Throws kFormat if files of a package have changed since they were verified.
  void require_unchanged() const;

 private:
  LoadedModel() = default;
  // Sets what a checkpoint has for both phases.
  void open_checkpoint(const fs::path& path, Observer& observer);

  fs::path path_;
  fs::path text_path_;
  ModelInfo info_;
  Json generation_config_;
  std::optional<Package> package_;
  Graph decode_;
  std::optional<Graph> prefill_;
};

}  // namespace tandem
