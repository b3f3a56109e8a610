// From a checkpoint, float or quantized, to a package: rewrites the graph according to the recipe, calibrates,
// quantizes each Linear for both phases, and writes the folder atomically.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/observer.h"
#include "base/thread_pool.h"
#include "checkpoint/packed_writer.h"
#include "graph/pass.h"
#include "quantize/export_checkpoint.h"
#include "quantize/export_gguf.h"
#include "quantize/forecast.h"
#include "quantize/journal.h"
#include "quantize/quality_gate.h"
#include "quantize/recipe.h"
#include "quantize/shadows.h"

namespace tandem {

struct QuantizeOptions {
  fs::path checkpoint;
  // A LoRA adapter to merge into its weights, or empty.
  fs::path lora = {};
  // Text for calibrating activation scales and for passes that learn from one; empty: a built-in
  // one, if the recipe needs any.
  fs::path calibration;
  // Must be absent, empty or a package; for a checkpoint absent or empty; for a GGUF absent or one.
  fs::path target;
  // Go on from the blocks that an interrupted run with the same options finished; what is finished
  // is kept in TARGET.resume until the work is done, once it takes longer than the interval.
  bool resume = false;
  std::chrono::milliseconds journal_interval = kJournalInterval;
  // Instead of a package: a checkpoint that holds the decode weights in another tool's words.
  std::optional<PackedStyle> export_style = {};
  // Of each of its files, at most.
  std::int64_t shard_bytes = kShardBytes;
  // Instead of a package: a GGUF file of the decode weights.
  std::optional<GgufExport> gguf = {};
  Recipe recipe = default_recipe();
  // A limit to what the model may lose, and what may be done to keep to it.
  std::optional<GateOptions> gate = {};
  // `dump` receives the graph after this pass: a structural pass of the recipe, "quantize_decode"
  // or "quantize_prefill".
  std::string dump_after = {};
  std::function<void(const Graph&)> dump = {};
  // Called before the long-running work.
  std::function<void(const Forecast&)> forecast = {};

  // Whether the decode weights alone are written, for other tools.
  bool exports() const { return export_style || gguf; }
};

struct QuantizeReport {
  std::int64_t linears = 0;
  // Of them, those whose codes the checkpoint had already.
  std::int64_t kept = 0;
  std::int64_t calibration_tokens = 0;
  // Tokens that stand before every sequence; usually none.
  std::vector<std::int32_t> prefix;
  // In prefill's graph, or where that has none, in decode's.
  ShadowCount shadows;
  // Size of decode.safetensors, of a checkpoint's safetensors files, or of a GGUF.
  std::int64_t decode_bytes = 0;
  std::int64_t prefill_bytes = 0;
  std::vector<PassContext::Timing> passes;
  // With a gate. If it was not passed, the target is unchanged, and sizes are 0.
  std::optional<GateReport> gate;
};

// Throws kInvalidArgument, naming the module, for a recipe that doesn't fit the model, and
// kCancelled soon after the observer is cancelled; the target is then unchanged.
QuantizeReport quantize_model(const QuantizeOptions& options, ThreadPool& pool, Observer& observer);

}  // namespace tandem
