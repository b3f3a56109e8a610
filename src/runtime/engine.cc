// Splits reads into runs, selects the programs for each, and returns the logits.
#include "runtime/engine.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <numeric>
#include <unordered_set>

#include "base/error.h"
#include "devices/cpu/cpu_device.h"
#include "devices/npu/npu_device.h"
#include "graph/finite.h"
#include "graph/rotary.h"

namespace tandem {
namespace {

// Prompt tokens that the CPU reads per run: enough to amortise reading the weights, few enough that
// a layer's activations stay in the cache.
constexpr std::int64_t kCpuRows = 128;
constexpr std::int64_t kMaxRows = 4096;

// Prefill programs smaller than the chunk are kRowStep rows apart, or up to an eighth of their rows
// where that is more, up to kFineRows; then each has twice the rows of the one before. A short
// prompt, or the end of a long one, computes little padding, and no prompt more padding than
// tokens. All of them run the same panels, and each is compiled when first needed.
constexpr std::int64_t kRowStep = 2;
constexpr std::int64_t kFineRows = 128;

// Prompts of up to this many tokens are read by the decode programs: with so few rows both are
// memory-bound, and int4 weights have half the bytes. More so where the weights of a run are larger
// than any cache that a process has to itself.
constexpr std::int64_t kFewTokens = 8;
constexpr std::int64_t kFewTokensFromMemory = 24;
constexpr std::int64_t kLargestCacheBytes = std::int64_t{64} << 20;

// The contexts of an NPU's attention are four times as long as the one before, so that few programs
// serve any length and a short sequence is not padded much.
constexpr std::int64_t kShortestContext = 128;
constexpr std::int64_t kContextStep = 4;

// 0 beyond the longest, where attention stays on the CPU.
std::int64_t context_for(std::int64_t tokens) {
  if (tokens > kMaxIntColumns) return 0;
  std::int64_t context = kShortestContext;
  while (context < tokens) context *= kContextStep;
  return std::min(context, kMaxIntColumns);
}

const Kernels& find_kernels(const std::string& name) {
  const CpuFeatures features = detect_cpu_features();
  if (name.empty()) return select_kernels(features);
  std::string known;
  for (const Kernels* kernels : available_kernels(features)) {
    if (kernels->name == name) return *kernels;
    known += fmt::format(" {}", kernels->name);
  }
  fail(ErrorCode::kInvalidArgument, "[kernels] \"{}\" is not available here: expected one of{}",
       name, known);
}

// Rows of the prefill programs in ascending order; the last is the chunk.
std::vector<std::int64_t> program_rows(std::int64_t chunk) {
  std::vector<std::int64_t> sizes;
  for (std::int64_t rows = kRowStep; rows < chunk;) {
    sizes.push_back(rows);
    const auto eighth =
        static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(rows)) / 8);
    rows += rows < kFineRows ? std::max(kRowStep, eighth) : rows;
  }
  sizes.push_back(chunk);
  return sizes;
}

// True unless one is NaN or infinite: its exponent has all bits set. Written so that the compiler
// turns it into vector instructions, because every logit passes here.
bool all_finite(std::span<const float> values) {
  constexpr std::uint32_t kExponent = 0x7f800000;
  std::uint32_t bad = 0;
  for (const float value : values)
    bad |=
        static_cast<std::uint32_t>((std::bit_cast<std::uint32_t>(value) & kExponent) == kExponent);
  return bad == 0;
}

void check_batch(std::span<KvSequence* const> sequences, std::size_t inputs) {
  if (sequences.size() != inputs) {
    fail(ErrorCode::kInvalidArgument, "[model] {} sequences for tokens of {}", sequences.size(),
         inputs);
  }
  const std::unordered_set<KvSequence*> different(sequences.begin(), sequences.end());
  if (different.size() != sequences.size() || different.contains(nullptr))
    fail(ErrorCode::kInvalidArgument, "[model] the sequences of a batch must differ");
}

void check_range(const char* name, std::int64_t value, const char* unit) {
  if (value < 1 || value > kMaxRows)
    fail(ErrorCode::kInvalidArgument, "[model] {}: expected 1 to {} {}, got {}", name, kMaxRows,
         unit, value);
}

// The inputs of a decoder's graph: token ids, and the indices of the rows whose logits are wanted.
void check_decoder(const Graph& graph) {
  const bool fits = graph.inputs().size() == 2 && graph.outputs().size() == 1 &&
                    graph.row_spaces().size() == 2 &&
                    graph.value(graph.inputs()[0]).rows == kTokens &&
                    graph.value(graph.inputs()[1]).rows != kTokens &&
                    graph.value(graph.outputs()[0]).rows != kTokens;
  if (!fits)
    fail(ErrorCode::kUnsupported,
         "[model] expected a decoder: a graph from token ids and selected rows to logits");
}

// Rewinds sequences to their previous length if a run fails; tokens that were dropped meanwhile are
// lost, and with them what was computed from them.
class Undo {
 public:
  explicit Undo(std::span<KvSequence* const> sequences) : sequences_(sequences) {
    for (const KvSequence* sequence : sequences)
      states_.push_back({sequence->length(), sequence->evicted()});
  }
  ~Undo() {
    if (done_) return;
    for (std::size_t i = 0; i < sequences_.size(); ++i) {
      KvSequence& sequence = *sequences_[i];
      const bool dropped = sequence.evicted() != states_[i].evicted;
      const std::int64_t kept = dropped ? sequence.eviction()->sinks : states_[i].length;
      sequence.rewind(std::min(sequence.length(), kept));
    }
  }
  Undo(const Undo&) = delete;
  Undo& operator=(const Undo&) = delete;
  void release() noexcept { done_ = true; }

 private:
  std::span<KvSequence* const> sequences_;
  struct State {
    std::int64_t length, evicted;
  };
  std::vector<State> states_;
  bool done_ = false;
};

}  // namespace

Eviction with_defaults(Eviction eviction, const ModelInfo& info) {
  auto& [context, sinks, count] = eviction;
  if (context == 0) context = info.context_length;
  if (count == 0) count = std::max<std::int64_t>(context / 8, 1);
  if (context < 1 || context > info.longest_sequence())
    fail(ErrorCode::kInvalidArgument,
         "[eviction] context: expected 1 to {} tokens, the model's, got {}",
         info.longest_sequence(), context);
  if (sinks < 0 || count < 1 || sinks >= context || count >= context - sinks)
    fail(ErrorCode::kInvalidArgument,
         "[eviction] expected 0 or more tokens that stay, 1 or more that are dropped at once, and "
         "together fewer than the context of {}, got {} and {}",
         context, sinks, count);
  return eviction;
}

Engine::Engine(std::shared_ptr<const LoadedModel> model, const Plan& plan,
               const EngineOptions& options, Observer& observer)
    : model_(std::move(model)),
      plan_(plan),
      options_(options),
      pool_(
          std::make_unique<ThreadPool>(options.threads > 0 ? options.threads : default_threads())),
      kernels_(&find_kernels(options.kernels)),
      panels_(std::make_unique<FilePanelCache>(options.cache, observer, options.cache_limit)) {
  const bool needs_package = plan.prompt_graph == Phase::kPrefill;
  if (needs_package && !model_->has_prefill_graph())
    fail(ErrorCode::kInvalidArgument,
         "[model] {}: mode {} needs a package (see tandem quantize); this is a float checkpoint",
         model_->path().string(), plan.name);
  const bool chunk_given = options_.chunk != 0;
  if (!chunk_given) options_.chunk = model_->chunk() > 0 ? model_->chunk() : kDefaultChunk;
  check_range("chunk", options_.chunk, "rows");
  check_range("batch", options_.batch, "sequences");
  for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) check_decoder(model_->graph(phase));

  const KvShape shape{info().layers, info().kv_heads, info().head_dim, kv_type()};
  fixed_context_ = reads_answers_as_prompts() && shape.dtype == DType::kI8;
  devices_.push_back(std::make_unique<NpuHostDevice>(*kernels_));
  devices_.push_back(std::make_unique<CpuDevice>(*kernels_));
  if (options_.pipeline && plan.prefill.size() == 2 && !fixed_context_) {
    // The NPU is emulated on the same cores.
    const int threads = pool_->threads();
    prompt_pools_.push_back(std::make_unique<ThreadPool>(threads - threads / 2));
    prompt_pools_.push_back(std::make_unique<ThreadPool>(std::max(1, threads / 2)));
    pipeline_ = std::make_unique<Pipeline>(*options_.pipeline);
  }
  if (plan.prompt_graph == Phase::kDecode && plan.prefill == plan.decode) {
    decode_ = make_runner(Phase::kDecode, chunk_given ? options_.chunk : kCpuRows);
  } else {
    prompt_rows_ = program_rows(options_.chunk);
    prompts_.resize(prompt_rows_.size());
    prompts_.back() = make_runner(Phase::kPrefill, options_.chunk);
    few_tokens_ = reads_answers_as_prompts() ? 1
                  : prompts_.back().executor->weight_bytes() > kLargestCacheBytes
                      ? kFewTokensFromMemory
                      : kFewTokens;
    decode_ = make_runner(Phase::kDecode,
                          reads_answers_as_prompts() ? 1 : std::max(options_.batch, few_tokens_));
  }
  kv_pool_ =
      std::make_shared<KvPool>(shape, options.kv_limit > 0 ? options.kv_limit : default_kv_limit());
  prefix_ = std::make_unique<KvSequence>(kv_pool_);
  const std::span<const TokenId> ids = model_->prefix();
  check_ids(ids);
  read_prefix(*prefix_, ids, static_cast<std::int64_t>(ids.size()));
}

Engine::~Engine() = default;

DType Engine::kv_type() const {
  const bool has_scales =
      graph(Phase::kPrefill).has_kv_scales() && graph(Phase::kDecode).has_kv_scales();
  const DType usual = has_scales && plan_.kv == DType::kF16 ? DType::kI8 : plan_.kv;
  const DType type = options_.kv.value_or(usual);
  if (type == DType::kI8 && !has_scales)
    fail(ErrorCode::kInvalidArgument,
         "[model] {}: has no scales for an int8 KV cache: expected a package that was quantized "
         "with --kv int8",
         model_->path().string());
  return type;
}

Engine::Runner Engine::make_runner(Phase phase, std::int64_t rows, std::int64_t tokens) {
  return make_runner(graph(phase), phase == Phase::kPrefill ? plan_.prefill : plan_.decode,
                     {phase, rows, fixed_context_ ? context_for(tokens) : 0});
}

Engine::Runner Engine::make_runner(const Graph& graph, const std::vector<std::string>& names,
                                   const PhaseSpec& spec) {
  std::vector<DeviceThreads> devices;
  for (const std::string& name : names) {
    const auto found =
        std::ranges::find(devices_, name, [](const auto& device) { return device->name(); });
    if (found == devices_.end())
      fail(ErrorCode::kInvalidArgument, "[model] device \"{}\": expected npu or cpu", name);
    const bool shares = pipeline_ && spec.phase == Phase::kPrefill;
    devices.push_back({found->get(), shares ? prompt_pools_[devices.size()].get() : pool_.get()});
  }
  Runner runner;
  runner.executor =
      std::make_unique<Executor>(graph, spec, devices, *panels_, std::span(&spec.rows, 1));
  // Chunks in flight refer to them.
  runner.arenas.reserve(Pipeline::kChunks);
  runner.arenas.push_back(runner.executor->make_arena());
  return runner;
}

Engine::Runner& Engine::prompt_runner(std::int64_t tokens) {
  if (prompts_.empty()) return decode_;
  for (std::size_t i = 0; i < prompts_.size(); ++i) {
    if (tokens > prompt_rows_[i] && i + 1 < prompts_.size()) continue;
    if (!prompts_[i].executor) prompts_[i] = make_runner(Phase::kPrefill, prompt_rows_[i]);
    return prompts_[i];
  }
  return prompts_.back();
}

std::int64_t Engine::run_rows(Phase phase) const noexcept {
  return phase == Phase::kPrefill && !prompt_rows_.empty() ? prompt_rows_.back()
                                                           : decode_.executor->spec().rows;
}

Phase Engine::prompt_phase(std::int64_t tokens) const noexcept {
  return tokens <= few_tokens_ ? Phase::kDecode : Phase::kPrefill;
}

void Engine::check_ids(std::span<const TokenId> ids) const {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= info().vocabulary) {
      fail(ErrorCode::kInvalidArgument, "[model] token {} is {}: expected an id in [0, {})", i,
           ids[i], info().vocabulary);
    }
  }
}

void Engine::fail_not_finite(Phase phase, std::int64_t tokens) const {
  const auto bad = find_non_finite(graph(phase), *pool_);
  fail(ErrorCode::kFormat,
       "[model] {}: expected finite logits, got NaN or infinity within {} tokens: {}",
       model_->path().string(), tokens, bad ? to_string(*bad) : "the activations overflow");
}

Engine::Runner& Engine::in_context(Runner& runner, std::span<const Part> parts) {
  const PhaseSpec& spec = runner.executor->spec();
  if (spec.context == 0) return runner;
  std::int64_t tokens = 0;
  for (const Part& part : parts)
    tokens = std::max(tokens, part.sequence->position() + std::ssize(part.ids));
  const std::int64_t context = context_for(tokens);
  if (context == spec.context) return runner;
  const Shape shape{spec.phase, spec.rows, context};
  auto found = longer_.find(shape);
  if (found == longer_.end())
    found = longer_.emplace(shape, make_runner(spec.phase, spec.rows, tokens)).first;
  return found->second;
}

struct Engine::RunInputs {
  // The sequences have room for the parts.
  RunInputs(std::span<const Part> parts, std::span<const std::int32_t> selected) {
    for (const Part& part : parts) {
      slices.push_back({std::ssize(ids), std::ssize(part.ids), part.position, part.sequence->view(),
                        part.total, part.parents});
      ids.insert(ids.end(), part.ids.begin(), part.ids.end());
    }
    inputs = {ids.data(), selected.data()};
    rows = {std::ssize(ids), std::ssize(selected)};
  }

  // Refers to this.
  Executor::Run run(TraceRecorder* trace) const {
    return {.inputs = inputs, .rows = rows, .slices = slices, .trace = trace};
  }

  std::vector<TokenId> ids;
  std::vector<SequenceSlice> slices;
  std::array<const void*, 2> inputs{};
  std::array<std::int64_t, 2> rows{};
};

std::span<const float> Engine::run(Runner& program, std::span<const Part> parts,
                                   std::span<const std::int32_t> selected) {
  Runner& runner = in_context(program, parts);
  for (const Part& part : parts) part.sequence->reserve(std::ssize(part.ids));
  const RunInputs inputs(parts, selected);
  Arena& arena = runner.arenas.front();
  runner.executor->run(inputs.run(options_.trace), arena);
  return finish(*runner.executor, arena, parts, selected.size());
}

std::span<const float> Engine::finish(const Executor& executor, const Arena& arena,
                                      std::span<const Part> parts, std::size_t selected) const {
  const std::span<const float> logits(executor.output(arena, 0),
                                      selected * static_cast<std::size_t>(info().vocabulary));
  if (!all_finite(logits)) fail_not_finite(executor.spec().phase, parts.back().total);
  for (const Part& part : parts)
    if (part.parents.empty()) part.sequence->advance(part.ids);
  return logits;
}

void Engine::evict_when_full(KvSequence& sequence, const Eviction& eviction) {
  const Eviction complete = with_defaults(eviction, info());
  if (!turner_)
    turner_ =
        std::make_unique<KeyTurner>(graph(Phase::kDecode), *kernels_, kv_pool_->shape().dtype);
  sequence.set_eviction(complete);
}

void Engine::make_room(KvSequence& sequence) const {
  if (sequence.room() == 0) turner_->evict(sequence, *pool_);
}

std::int64_t Engine::length_with(const KvSequence& sequence, std::int64_t count) noexcept {
  const std::optional<Eviction>& eviction = sequence.eviction();
  if (!eviction) return sequence.position() + count;
  const std::int64_t prefix = sequence.position() - sequence.length();
  const std::int64_t full = prefix + eviction->context;
  return sequence.evicted() > 0 ? full : std::min(sequence.position() + count, full);
}

void Engine::run_pipeline(std::span<const Batch> batches, const RowCallback& rows) {
  for (const Batch& batch : batches)
    for (const Part& part : batch.parts)
      part.sequence->reserve(part.position + std::ssize(part.ids) - part.sequence->position());
  std::vector<RunInputs> inputs;
  inputs.reserve(batches.size());
  std::vector<Pipeline::Chunk> chunks;
  const Runner* previous = nullptr;
  std::size_t at = 0;
  for (const Batch& batch : batches) {
    Runner& runner = prompt_runner(batch.rows);
    at = &runner == previous ? (at + 1) % Pipeline::kChunks : 0;
    previous = &runner;
    if (at == runner.arenas.size()) runner.arenas.push_back(runner.executor->make_arena());
    inputs.emplace_back(batch.parts, batch.selected);
    chunks.push_back(
        {runner.executor.get(), inputs.back().run(options_.trace), &runner.arenas[at]});
  }
  pipeline_->run(chunks, [&](std::size_t i) {
    const Batch& batch = batches[i];
    pass_on(batch,
            finish(*chunks[i].executor, *chunks[i].arena, batch.parts, batch.selected.size()),
            rows);
  });
}

void Engine::refresh(KvSequence& sequence, std::int64_t total) {
  const std::int64_t epoch = rotary_epoch(graph(Phase::kDecode), total);
  if (sequence.rotary_epoch() == epoch) return;
  const std::vector<TokenId> ids(sequence.all_ids().begin(), sequence.all_ids().end());
  const auto prefix = static_cast<std::size_t>(sequence.position() - sequence.length());
  const std::int64_t evicted = sequence.evicted();
  sequence.clear();
  sequence.begin_epoch(epoch);
  read_prefix(sequence, std::span(ids).first(prefix), total);
  for (std::size_t first = prefix; first < ids.size();) {
    Runner& runner = prompt_runner(static_cast<std::int64_t>(ids.size() - first));
    const auto rows = static_cast<std::size_t>(runner.executor->spec().rows);
    const std::size_t count = std::min(rows, ids.size() - first);
    const Part part{&sequence, std::span(ids).subspan(first, count), sequence.position(), total};
    run(runner, {&part, 1}, {});
    first += count;
  }
  sequence.skip(evicted);
}

void Engine::read_prefix(KvSequence& sequence, std::span<const TokenId> ids, std::int64_t total) {
  if (!ids.empty() && reads_answers_as_prompts()) {
    const auto rows = static_cast<std::int64_t>(ids.size());
    Runner on_cpu = make_runner(model_->graph(Phase::kDecode), {"cpu"}, {Phase::kDecode, rows});
    const Part part{&sequence, ids, sequence.position(), total};
    run(on_cpu, {&part, 1}, {});
  } else {
    const auto most = static_cast<std::size_t>(run_rows(Phase::kDecode));
    for (std::size_t first = 0; first < ids.size(); first += most) {
      const Part part{&sequence, ids.subspan(first, std::min(most, ids.size() - first)),
                      sequence.position(), total};
      run(decode_, {&part, 1}, {});
    }
  }
  sequence.make_prefix();
}

void Engine::read(std::span<KvSequence* const> sequences,
                  std::span<const std::span<const TokenId>> ids, bool every_row,
                  const RowCallback& rows, std::optional<Phase> phase) {
  check_batch(sequences, ids.size());
  // Each sequence is read by the programs that would read it alone.
  std::vector<Request> by_phase[2];
  for (std::size_t s = 0; s < ids.size(); ++s) {
    check_ids(ids[s]);
    if (ids[s].empty()) fail(ErrorCode::kInvalidArgument, "[model] no tokens to read");
    const auto count = static_cast<std::int64_t>(ids[s].size());
    by_phase[static_cast<std::size_t>(phase.value_or(prompt_phase(count)))].push_back(
        {s, sequences[s], ids[s], length_with(*sequences[s], count)});
  }
  Undo undo(sequences);
  for (const Phase in : {Phase::kPrefill, Phase::kDecode}) {
    const auto& requests = by_phase[static_cast<std::size_t>(in)];
    for (const Request& request : requests) refresh(*request.sequence, request.total);
    read_in(in, requests, every_row, rows);
  }
  undo.release();
}

void Engine::read_in(Phase phase, std::span<const Request> requests, bool every_row,
                     const RowCallback& rows) {
  const auto most = static_cast<std::size_t>(run_rows(phase));
  // Tokens are dropped between runs, not while others are in flight.
  const bool pipelined = pipeline_ && phase == Phase::kPrefill &&
                         std::ranges::all_of(requests, [](const Request& request) {
                           return request.sequence->room() >= std::ssize(request.ids);
                         });
  std::vector<Batch> batches;
  // The next token to read is requests[r].ids[at].
  std::size_t r = 0, at = 0;
  while (r < requests.size()) {
    Batch batch;
    std::size_t row = 0;
    while (row < most && r < requests.size()) {
      const Request& request = requests[r];
      make_room(*request.sequence);
      const std::size_t count = std::min({most - row, request.ids.size() - at,
                                          static_cast<std::size_t>(request.sequence->room())});
      // Those before it were read unless they wait in a batch.
      const std::int64_t position =
          request.sequence->position() + (pipelined ? static_cast<std::int64_t>(at) : 0);
      batch.parts.push_back(
          {request.sequence, request.ids.subspan(at, count), position, request.total});
      const bool ends = at + count == request.ids.size();
      const std::size_t wanted = every_row ? count : ends ? 1 : 0;
      if (wanted > 0) batch.outputs.push_back({request.index, at + count - wanted, wanted});
      for (std::size_t i = 0; i < wanted; ++i)
        batch.selected.push_back(static_cast<std::int32_t>(row + count - wanted + i));
      row += count;
      at = ends ? 0 : at + count;
      r += ends ? 1 : 0;
      // The run is full, or the sequence is.
      if (!ends) break;
    }
    batch.rows = static_cast<std::int64_t>(row);
    if (pipelined) {
      batches.push_back(std::move(batch));
      continue;
    }
    Runner& runner = phase == Phase::kPrefill ? prompt_runner(batch.rows) : decode_;
    pass_on(batch, run(runner, batch.parts, batch.selected), rows);
  }
  if (pipelined) run_pipeline(batches, rows);
}

void Engine::pass_on(const Batch& batch, std::span<const float> logits,
                     const RowCallback& rows) const {
  for (const Batch::Output& output : batch.outputs) {
    const std::size_t size = output.count * static_cast<std::size_t>(info().vocabulary);
    rows(output.sequence, static_cast<std::int64_t>(output.first), logits.first(size));
    logits = logits.subspan(size);
  }
}

std::span<const float> Engine::prefill(KvSequence& sequence, std::span<const TokenId> ids,
                                       std::optional<Phase> phase) {
  KvSequence* const one = &sequence;
  std::span<const float> last;
  read(
      {&one, 1}, {&ids, 1}, false,
      [&](std::size_t, std::int64_t, std::span<const float> logits) { last = logits; }, phase);
  return last;
}

void Engine::prefill_all(KvSequence& sequence, std::span<const TokenId> ids,
                         const std::function<void(std::int64_t, std::span<const float>)>& rows,
                         std::optional<Phase> phase) {
  KvSequence* const one = &sequence;
  if (ids.empty()) return;
  read(
      {&one, 1}, {&ids, 1}, true,
      [&](std::size_t, std::int64_t first, std::span<const float> run) { rows(first, run); },
      phase);
}

std::span<const float> Engine::decode(KvSequence& sequence, TokenId id) {
  KvSequence* const one = &sequence;
  return decode_batch({&one, 1}, {&id, 1});
}

std::span<const float> Engine::prefill_batch(std::span<KvSequence* const> sequences,
                                             std::span<const std::span<const TokenId>> ids) {
  const auto vocabulary = static_cast<std::size_t>(info().vocabulary);
  batch_logits_.assign(sequences.size() * vocabulary, 0);
  read(sequences, ids, false, [&](std::size_t s, std::int64_t, std::span<const float> logits) {
    std::ranges::copy(logits, batch_logits_.begin() + static_cast<std::ptrdiff_t>(s * vocabulary));
  });
  return batch_logits_;
}

void Engine::prefill_batch_all(
    std::span<KvSequence* const> sequences, std::span<const std::span<const TokenId>> ids,
    const std::function<void(std::size_t, std::int64_t, std::span<const float>)>& rows) {
  read(sequences, ids, true, rows);
}

std::span<const float> Engine::decode_batch(std::span<KvSequence* const> sequences,
                                            std::span<const TokenId> ids) {
  check_batch(sequences, ids.size());
  check_ids(ids);
  Undo undo(sequences);
  for (KvSequence* sequence : sequences) {
    make_room(*sequence);
    refresh(*sequence, length_with(*sequence, 1));
  }
  const auto most = static_cast<std::size_t>(run_rows(Phase::kDecode));
  std::vector<Part> parts;
  std::vector<std::int32_t> selected;
  std::span<const float> logits;
  batch_logits_.clear();
  for (std::size_t first = 0; first < ids.size(); first += most) {
    parts.clear();
    selected.clear();
    const std::size_t end = std::min(first + most, ids.size());
    for (std::size_t s = first; s < end; ++s) {
      selected.push_back(static_cast<std::int32_t>(parts.size()));
      parts.push_back({sequences[s], ids.subspan(s, 1), sequences[s]->position(),
                       length_with(*sequences[s], 1)});
    }
    logits = run(decode_, parts, selected);
    if (ids.size() > most) batch_logits_.insert(batch_logits_.end(), logits.begin(), logits.end());
  }
  undo.release();
  return ids.size() > most ? std::span<const float>(batch_logits_) : logits;
}

std::span<const float> Engine::read_tree(KvSequence& sequence, std::span<const TokenId> ids,
                                         std::span<const std::int32_t> parents) {
  if (!fixed_context_)
    fail(ErrorCode::kUnsupported,
         "[model] a tree of drafts: expected attention on the NPU, which is that of mode npu with "
         "an int8 cache");
  const auto rows = static_cast<std::int64_t>(ids.size());
  if (rows < 1 || rows > run_rows(Phase::kPrefill) || parents.size() != ids.size())
    fail(ErrorCode::kInvalidArgument,
         "[model] a tree of {} tokens and {} parents: expected 1 to {} of each", rows,
         parents.size(), run_rows(Phase::kPrefill));
  check_ids(ids);
  make_room(sequence);
  if (rows > sequence.room())
    fail(ErrorCode::kInvalidArgument,
         "[model] a tree of {} tokens: expected at most {}, up to the end of the context", rows,
         sequence.room());
  const std::int64_t total = length_with(sequence, rows);
  refresh(sequence, total);
  std::vector<std::int32_t> every(ids.size());
  std::iota(every.begin(), every.end(), 0);
  const Part part{&sequence, ids, sequence.position(), total, parents};
  return run(prompt_runner(rows), {&part, 1}, every);
}

void Engine::decode_batch_all(
    std::span<KvSequence* const> sequences, std::span<const std::span<const TokenId>> ids,
    const std::function<void(std::size_t, std::int64_t, std::span<const float>)>& rows) {
  // Programs of more rows that run the same graph, if the one for answers has a single row.
  read(sequences, ids, true, rows, reads_answers_as_prompts() ? Phase::kPrefill : Phase::kDecode);
}

std::int64_t Engine::rows_at_once(const KvSequence& sequence, std::int64_t wanted) const noexcept {
  std::int64_t rows =
      std::min(wanted, run_rows(reads_answers_as_prompts() ? Phase::kPrefill : Phase::kDecode));
  const std::int64_t room = sequence.room();
  rows = std::min(rows, room > 0 ? room : sequence.eviction().value_or(Eviction{}).count);
  const auto epoch = [&](std::int64_t count) {
    return rotary_epoch(graph(Phase::kDecode), length_with(sequence, count));
  };
  while (rows > 1 && epoch(rows) != epoch(1)) --rows;
  return std::max<std::int64_t>(rows, 1);
}

const Graph& Engine::graph(Phase phase) const noexcept {
  return model_->graph(phase == Phase::kPrefill ? plan_.prompt_graph : plan_.answer_graph);
}

const Placement& Engine::placement(Phase phase) const noexcept {
  return phase == Phase::kPrefill && !prompts_.empty() ? prompts_.back().executor->placement()
                                                       : decode_.executor->placement();
}

std::int64_t Engine::weight_bytes(Phase phase) const noexcept {
  return phase == Phase::kPrefill && !prompts_.empty() ? prompts_.back().executor->weight_bytes()
                                                       : decode_.executor->weight_bytes();
}

}  // namespace tandem
