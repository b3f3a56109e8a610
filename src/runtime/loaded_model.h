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
#include "text/tokenizer/tokenizer.h"

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
  // Sequences that decode_batch() reads in one run in hybrid mode, whose decode programs read
  // nothing else; more take several runs.
  std::int64_t batch = 16;
  std::string kernels;  // name of a kernel table; empty: the fastest
  std::optional<fs::path>
      cache;  // folder of packed weights; default: default_cache_folder(); empty path: no cache
  fs::path chat_template;  // instead of the model's own; as ChatTemplate::open() takes it
};

struct ChatOptions {
  OrderedJson tools;                              // a list of functions; null: none
  OrderedJson variables = OrderedJson::object();  // others that the template reads
  bool add_generation_prompt = true;              // up to where the answer begins
  // Special tokens spelled out in messages and tools become those tokens. Never for text of people
  // who are not trusted: it could end its turn and begin the system's.
  bool parse_special_tokens = false;
};

// One forward pass at a time: a LoadedModel and everything made from it belong to one thread.
class LoadedModel {
 public:
  // A package's folder, or what Checkpoint::open() takes.
  static std::unique_ptr<LoadedModel> open(const fs::path& path, const LoadOptions& options = {});
  ~LoadedModel();

  const fs::path& path() const noexcept { return path_; }  // as given
  const ModelInfo& info() const noexcept { return info_; }
  const Json& generation_config() const noexcept { return generation_config_; }
  Mode mode() const noexcept { return mode_; }
  ThreadPool& pool() noexcept { return *pool_; }
  const Kernels& kernels() const noexcept { return *kernels_; }
  const Tokenizer& tokenizer();  // opened when first needed
  // Likewise. Throws kNotFound, saying what to do, if the model has none.
  const ChatTemplate& chat_template();
  // The ids of a conversation as the chat template spells it: a list of {"role", "content", …}.
  std::vector<TokenId> encode_messages(const OrderedJson& messages,
                                       const ChatOptions& options = {});
  // The same for one user turn, with a system line before it unless that is empty.
  std::vector<TokenId> encode_chat(std::string_view user, std::string_view system = {},
                                   const ChatOptions& options = {});

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

  // The same for several sequences at once, each with tokens of its own. Their rows share runs, so
  // that short prompts fill an NPU's chunk together and weights are read once for all; each gets
  // the very bits that it would get alone. Sequences must differ from each other, and each gets at
  // least one token; throws kInvalidArgument otherwise, before anything is read.
  // Logits after the last token of each, [sequences, vocabulary], valid until the next run.
  std::span<const float> prefill_batch(std::span<KvSequence* const> sequences,
                                       std::span<const std::span<const TokenId>> ids);
  // rows(sequence, first token of it, [run, vocabulary]), one sequence after the other.
  void prefill_batch_all(
      std::span<KvSequence* const> sequences, std::span<const std::span<const TokenId>> ids,
      const std::function<void(std::size_t, std::int64_t, std::span<const float>)>& rows);
  // One token of each sequence.
  std::span<const float> decode_batch(std::span<KvSequence* const> sequences,
                                      std::span<const TokenId> ids);

  const Graph& graph(Phase phase) const noexcept;
  const Executor& executor(Phase phase) const noexcept;
  // Parameters of the Linears inside decoder blocks: 2 operations each per token of a prompt.
  std::int64_t block_parameters() const;
  // Bytes on disk of what a phase reads: its Linears and float tensors.
  std::int64_t weight_file_bytes(Phase phase) const;

 private:
  // What one run reads of one sequence, which holds `total` tokens once all of them are read.
  struct Part {
    KvSequence* sequence;
    std::span<const TokenId> ids;
    std::int64_t total;
  };
  using Rows = std::function<void(std::size_t, std::int64_t, std::span<const float>)>;

  LoadedModel() = default;
  // Every run of an executor goes through here.
  std::span<const float> run(Executor& executor, std::span<const Part> parts,
                             std::span<const std::int32_t> selected);
  // Before a sequence grows to `total` tokens: where that changes the frequencies of its rotary
  // embeddings, what it holds is read anew.
  void refresh(KvSequence& sequence, std::int64_t total);
  // Reads all on the prefill devices, handing out the logits of every row or of each last one.
  void read(std::span<KvSequence* const> sequences, std::span<const std::span<const TokenId>> ids,
            bool every_row, const Rows& rows);
  OrderedJson chat_context();  // what templates see beside messages and tools
  void check_ids(std::span<const TokenId> ids) const;

  fs::path path_;
  fs::path text_path_;  // where the tokenizer and the chat template are
  ModelInfo info_;
  Json generation_config_;
  Mode mode_ = Mode::kFloat;
  std::unique_ptr<ThreadPool> pool_;
  const Kernels* kernels_ = nullptr;
  std::optional<Tokenizer> tokenizer_;
  std::optional<ChatTemplate> chat_template_;
  fs::path chat_template_path_;
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
  std::vector<float> batch_logits_;  // of a batch that took more than one run
};

}  // namespace tandem
