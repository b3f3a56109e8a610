// A model in memory, ready to run: a package in hybrid or CPU mode, or any float checkpoint folder.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "models/model.h"
#include "runtime/executor.h"
#include "runtime/kv_cache.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace tandem {

enum class Mode : std::uint8_t {
  kFloat,   // a checkpoint as it is, on the CPU
  kCpu,     // a package's int4 weights in both phases
  kHybrid,  // prefill in static int8 on the NPU, decode in int4 on the CPU
};
std::string_view to_string(Mode mode) noexcept;  // "float", "cpu", "hybrid"
Mode mode_from_string(const std::string& name);  // kInvalidArgument for any other

struct LoadOptions {
  std::optional<Mode> mode;  // default: hybrid for a package, float for a checkpoint
  int threads = 0;           // 0: default_threads()
  std::int64_t chunk = 0;    // rows of an NPU program; 0: the package's
  std::string kernels;       // name of a kernel table; empty: the fastest
  std::optional<fs::path>
      cache;  // folder of packed weights; default: default_cache_folder(); empty path: no cache
};

// One forward pass at a time: a LoadedModel and everything made from it belong to one thread.
class LoadedModel {
 public:
  static std::unique_ptr<LoadedModel> open(const fs::path& folder, const LoadOptions& options = {});
  ~LoadedModel();

  const fs::path& folder() const noexcept { return folder_; }
  const ModelInfo& info() const noexcept { return info_; }
  const Json& generation_config() const noexcept { return generation_config_; }
  Mode mode() const noexcept { return mode_; }
  ThreadPool& pool() noexcept { return *pool_; }
  const Kernels& kernels() const noexcept { return *kernels_; }
  const Tokenizer& tokenizer();         // opened when first needed
  const ChatTemplate& chat_template();  // likewise
  // The ids of one user turn (with a system line before it, unless empty) as the chat template
  // spells it, up to where the answer begins.
  std::vector<TokenId> encode_chat(std::string_view user, std::string_view system = {});

  KvSequence new_sequence() { return KvSequence(*kv_pool_); }

  // Reads tokens on the prefill devices, in as many runs as needed, appending to `sequence`.
  // Returns the logits after the last token, [vocabulary], valid until the next run. Throws
  // kInvalidArgument for an id outside the vocabulary.
  std::span<const float> prefill(KvSequence& sequence, std::span<const TokenId> ids);
  // The same with the logits of every token: rows(first token of the run, [run, vocabulary]).
  void prefill_all(KvSequence& sequence, std::span<const TokenId> ids,
                   const std::function<void(std::int64_t, std::span<const float>)>& rows);
  // Reads one token on the decode device.
  std::span<const float> decode(KvSequence& sequence, TokenId id);

  const Graph& graph(Phase phase) const noexcept;
  const Executor& executor(Phase phase) const noexcept;
  // Parameters of the Linears inside decoder blocks: 2 operations each per token of a prompt.
  std::int64_t block_parameters() const;
  // Bytes on disk of what a phase reads: its Linears and float tensors.
  std::int64_t weight_file_bytes(Phase phase) const;

 private:
  LoadedModel() = default;
  std::span<const float> run(Executor& executor, KvSequence& sequence, std::span<const TokenId> ids,
                             std::span<const std::int32_t> selected);
  void check_ids(std::span<const TokenId> ids) const;

  fs::path folder_;
  ModelInfo info_;
  Json generation_config_;
  Mode mode_ = Mode::kFloat;
  std::unique_ptr<ThreadPool> pool_;
  const Kernels* kernels_ = nullptr;
  std::optional<Tokenizer> tokenizer_;
  std::optional<ChatTemplate> chat_template_;
  std::vector<std::unique_ptr<Device>> devices_;
  std::unique_ptr<PackedCache> cache_;
  std::unique_ptr<KvPool> kv_pool_;
  // One graph and one executor where both phases run alike; two in hybrid mode.
  Graph decode_graph_;
  std::optional<Graph> prefill_graph_;
  std::unique_ptr<Executor> decode_;
  std::unique_ptr<Executor> prefill_;
  std::int64_t decode_file_bytes_ = 0;
  std::int64_t prefill_file_bytes_ = 0;
};

}  // namespace tandem
