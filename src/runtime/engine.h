// Runs a model: executors for prefill and decode, and the KV cache of its sequences.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/observer.h"
#include "base/thread_pool.h"
#include "execute/executor.h"
#include "execute/key_turner.h"
#include "execute/kv_pool.h"
#include "execute/pipeline.h"
#include "kernels/kernels.h"
#include "package/panel_cache.h"
#include "runtime/loaded_model.h"
#include "runtime/plan.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem {

struct EngineOptions {
  // 0: default_threads().
  int threads = 0;
  // Rows per run of an NPU program; 0: the package's setting. On the CPU: rows per run.
  std::int64_t chunk = 0;
  // Sequences that decode_batch() runs at once in hybrid mode, where the decode programs run little
  // else; more sequences take several runs.
  std::int64_t batch = 16;
  // Name of a kernel table; empty: the fastest one.
  std::string kernels = {};
  // Folder of the packed-weight cache; empty: none.
  fs::path cache = {};
  // Of all files in it, in bytes; 0: any.
  std::int64_t cache_limit = kCacheBytes;
  // Of the KV cache: F16, F32 or I8; none: int8 where the package has scales for it and the plan no
  // float32 cache, else the plan's.
  std::optional<DType> kv = {};
  // Maximum size of the KV cache in bytes; 0: half of the machine's memory.
  std::int64_t kv_limit = 0;
  // Gets an event for each segment that runs; must outlive the engine. None: nothing is recorded.
  TraceRecorder* trace = nullptr;
  // How chunks of a prompt run at once on the devices that read it, which share the threads; none:
  // one segment after the other. Of no effect where one device reads prompts, attention included.
  std::optional<SchedulePolicy> pipeline = {};
};

// With what it leaves open: the model's context, an eighth of it at once (so that in its time in
// the cache a key is turned, and rounded, at most eight times). Throws kInvalidArgument for a
// context that is longer, and unless a token fits between what stays and what is dropped.
Eviction with_defaults(Eviction eviction, const ModelInfo& info);

// Runs one forward pass at a time and is not thread-safe: an engine and everything made from it
// belong to one thread. Several engines, of the same model or of different ones, may run in
// different threads.
class Engine {
 public:
  // Throws kInvalidArgument for options out of range and for a plan that does not fit the model,
  // such as one that needs a package. The observer must outlive the engine.
  Engine(std::shared_ptr<const LoadedModel> model, const Plan& plan, const EngineOptions& options,
         Observer& observer);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const LoadedModel& model() const noexcept { return *model_; }
  const ModelInfo& info() const noexcept { return model_->info(); }
  const Plan& plan() const noexcept { return plan_; }
  ThreadPool& pool() noexcept { return *pool_; }
  const Kernels& kernels() const noexcept { return *kernels_; }

  // An empty one, behind the model's prefix if it has one.
  KvSequence new_sequence() { return prefix_->fork(0); }
  const KvPool& kv_pool() const noexcept { return *kv_pool_; }
  // Lets a sequence, of which nothing was read yet, go on without an end: all functions that read
  // drop old tokens when its context is full. What it then holds depends on the tokens alone, not
  // on how many of them were read at once. Throws what with_defaults() and KeyTurner() throw.
  void evict_when_full(KvSequence& sequence, const Eviction& eviction);

  // The phase whose programs read a prompt of this many tokens: for very short prompts, the decode
  // programs are faster.
  Phase prompt_phase(std::int64_t tokens) const noexcept;

  // Reads tokens, in as many runs as needed, appending to `sequence`, with the programs of
  // prompt_phase() or of the given phase. Returns the logits after the last token, [vocabulary],
  // valid until the next run. Throws kInvalidArgument for an id outside the vocabulary, and
  // kFormat, naming the model, for logits that are not all finite. If any of these functions
  // throws, the sequences keep their previous length, or, of one that had to drop tokens meanwhile,
  // the first tokens that are never dropped.
  std::span<const float> prefill(KvSequence& sequence, std::span<const TokenId> ids,
                                 std::optional<Phase> phase = {});
  // The same with the logits of every token, passed to rows(first token of the run, [run,
  // vocabulary]).
  void prefill_all(KvSequence& sequence, std::span<const TokenId> ids,
                   const std::function<void(std::int64_t, std::span<const float>)>& rows,
                   std::optional<Phase> phase = {});
  // Reads one token with the decode programs.
  std::span<const float> decode(KvSequence& sequence, TokenId id);

  // The same for several sequences at once, each with its own tokens. Their rows share runs, so
  // that short prompts fill an NPU's chunk together and weights are read once for all; results are
  // bit-identical to running each sequence alone. Sequences must be distinct, and each gets at
  // least one token; throws kInvalidArgument otherwise, before anything is read. Returns the logits
  // after the last token of each, [sequences, vocabulary], valid until the next run.
  std::span<const float> prefill_batch(std::span<KvSequence* const> sequences,
                                       std::span<const std::span<const TokenId>> ids);
  // The same with the logits of every token, passed to rows(sequence, its first token in the run,
  // [run, vocabulary]).
  void prefill_batch_all(
      std::span<KvSequence* const> sequences, std::span<const std::span<const TokenId>> ids,
      const std::function<void(std::size_t, std::int64_t, std::span<const float>)>& rows);
  // Reads one token of each sequence.
  std::span<const float> decode_batch(std::span<KvSequence* const> sequences,
                                      std::span<const TokenId> ids);

  // Reads a tree of drafts behind the sequence in one run: for each token the earlier one that it
  // continues, -1 for the sequence itself (SequenceSlice::parents). Returns the logits of every token,
  // [ids, vocabulary], valid until the next run: those that its path alone would give. The sequence
  // stays as it is, until KvSequence::accept() keeps a path. Throws kInvalidArgument for more tokens
  // than a run has, and kUnsupported unless attention runs on the NPU.
  std::span<const float> read_tree(KvSequence& sequence, std::span<const TokenId> ids,
                                   std::span<const std::int32_t> parents);
  // Whether read_tree() can be used: attention runs on the NPU, in mode npu with an int8 cache.
  bool reads_trees() const noexcept { return fixed_context_; }
  // Reads several tokens of each sequence as decode_batch() would one after the other, with the
  // logits of every token, passed on as by prefill_batch_all().
  void decode_batch_all(
      std::span<KvSequence* const> sequences, std::span<const std::span<const TokenId>> ids,
      const std::function<void(std::size_t, std::int64_t, std::span<const float>)>& rows);
  // How many tokens of a sequence decode_batch_all() can read in one run with the bits of reading
  // them one by one: `wanted`, or fewer where the sequence would have to drop others in between, or
  // where the frequencies of its rotary embeddings would change. At least 1.
  std::int64_t rows_at_once(const KvSequence& sequence, std::int64_t wanted) const noexcept;

  // The graph and the placement of a phase, for inspection.
  const Graph& graph(Phase phase) const noexcept;
  const Placement& placement(Phase phase) const noexcept;
  // Bytes of packed weights that one run of a phase reads.
  std::int64_t weight_bytes(Phase phase) const noexcept;

 private:
  // An executor with the memory for its runs, created when first needed: one arena, or as many as
  // there are chunks in flight.
  struct Runner {
    std::unique_ptr<Executor> executor;
    std::vector<Arena> arenas;
  };
  // The part of a sequence that one run reads, from `position` on; the sequence will hold `total`
  // tokens, those of the prefix included, once all are read.
  struct Part {
    KvSequence* sequence;
    std::span<const TokenId> ids;
    std::int64_t position;
    std::int64_t total;
    // Of a tree; empty: each token continues the one before it.
    std::span<const std::int32_t> parents = {};
  };
  // One sequence's share of a read().
  struct Request {
    std::size_t index;
    KvSequence* sequence;
    std::span<const TokenId> ids;
    std::int64_t total;
  };
  using RowCallback = std::function<void(std::size_t, std::int64_t, std::span<const float>)>;
  // What one run reads, and the rows whose logits are wanted, each in one run of a sequence.
  struct Batch {
    struct Output {
      std::size_t sequence, first, count;
    };
    std::vector<Part> parts;
    std::vector<Output> outputs;
    std::vector<std::int32_t> selected;
    std::int64_t rows = 0;
  };
  // A batch as an executor takes it.
  struct RunInputs;

  DType kv_type() const;
  // With fixed_context_, and for a context of at least so many tokens.
  Runner make_runner(Phase phase, std::int64_t rows, std::int64_t tokens = 1);
  Runner make_runner(const Graph& graph, const std::vector<std::string>& names,
                     const PhaseSpec& spec);
  // Whether the NPU writes answers, too: then a program has one row, and prompts of more tokens are
  // read by others.
  bool reads_answers_as_prompts() const noexcept { return plan_.answer_graph == Phase::kPrefill; }
  // The smallest prefill program for a run of up to this many tokens.
  Runner& prompt_runner(std::int64_t tokens);
  std::int64_t run_rows(Phase phase) const noexcept;
  // Names the weight to blame, if there is one.
  [[noreturn]] void fail_not_finite(Phase phase, std::int64_t tokens) const;
  // The same program, for a context that holds all tokens once the parts are read.
  Runner& in_context(Runner& runner, std::span<const Part> parts);
  // All runs of an executor go through these functions: one, or several in flight.
  std::span<const float> run(Runner& program, std::span<const Part> parts,
                             std::span<const std::int32_t> selected);
  // Drops what must be dropped before another token is read.
  void make_room(KvSequence& sequence) const;
  // The length, prefix included, that decides the frequencies of rotary embeddings once `count`
  // more tokens are read: that of the full context from the first eviction on.
  static std::int64_t length_with(const KvSequence& sequence, std::int64_t count) noexcept;
  void run_pipeline(std::span<const Batch> batches, const RowCallback& rows);
  // The logits of a run that is done; its tokens become part of their sequences.
  std::span<const float> finish(const Executor& executor, const Arena& arena,
                                std::span<const Part> parts, std::size_t selected) const;
  // Passes on the logits of a batch.
  void pass_on(const Batch& batch, std::span<const float> logits, const RowCallback& rows) const;
  // Called before a sequence grows to `total` tokens, those of the prefix included: if that changes
  // the frequencies of its rotary embeddings, its current tokens are read again.
  void refresh(KvSequence& sequence, std::int64_t total);
  // Reads a prefix into an empty sequence, in the decode graph: static int8 would clip what it is a
  // prefix for.
  void read_prefix(KvSequence& sequence, std::span<const TokenId> ids, std::int64_t total);
  // Reads everything, passing on the logits of every row or only of each last one.
  void read(std::span<KvSequence* const> sequences, std::span<const std::span<const TokenId>> ids,
            bool every_row, const RowCallback& rows, std::optional<Phase> phase = {});
  void read_in(Phase phase, std::span<const Request> requests, bool every_row,
               const RowCallback& rows);
  void check_ids(std::span<const TokenId> ids) const;

  std::shared_ptr<const LoadedModel> model_;
  Plan plan_;
  EngineOptions options_;
  std::unique_ptr<ThreadPool> pool_;
  // With a pipeline: by device, those of prompts.
  std::vector<std::unique_ptr<ThreadPool>> prompt_pools_;
  std::unique_ptr<Pipeline> pipeline_;
  const Kernels* kernels_;
  std::vector<std::unique_ptr<Device>> devices_;
  std::unique_ptr<PanelCache> panels_;
  std::shared_ptr<KvPool> kv_pool_;
  // Made when first needed.
  std::unique_ptr<const KeyTurner> turner_;
  // What new sequences begin with.
  std::unique_ptr<KvSequence> prefix_;
  Runner decode_;
  // Row counts in ascending order; empty if both phases use the same programs. The last one is
  // compiled immediately, the others when needed: all of them run the same panels.
  std::vector<std::int64_t> prompt_rows_;
  // Prompts of up to this many tokens are read by the decode programs; 0: none are.
  std::int64_t few_tokens_ = 0;
  std::vector<Runner> prompts_;
  // Whether attention runs on the NPU, in contexts of fixed lengths.
  bool fixed_context_ = false;
  // Programs for longer contexts than the shortest, which all others are for; compiled when needed.
  struct Shape {
    Phase phase;
    std::int64_t rows, context;
    auto operator<=>(const Shape&) const = default;
  };
  std::map<Shape, Runner> longer_;
  // Logits of a batch that took more than one run.
  std::vector<float> batch_logits_;
};

}  // namespace tandem
