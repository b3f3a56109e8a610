// What variants of a float graph lose: runs the graph and all variants over windows of text side by
// side, one decoder block after the other, and compares the logits at the end. A block is packed
// once for all variants that leave it as it is, and a variant is run only from the first block that
// it changes, on the graph's own hidden states.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/logits.h"
#include "base/observer.h"
#include "base/thread_pool.h"
#include "quantize/block_runner.h"
#include "quantize/window_executor.h"

namespace tandem {

struct Variant {
  // The first and the last block that it changes, as VariantSweep numbers them.
  int first = 0;
  int last = 0;
  // A block of the graph to that of the variant, with the same inputs and outputs.
  std::function<Graph(const Graph& block)> rewrite;
  // The Linear whose output is compared; empty: none.
  std::string judged = {};
};

struct VariantLoss {
  // KL divergence of the logits from the reference's, of all tokens of a window but the last.
  WindowMean kl;
  // Share of those tokens at which both find the same token the likeliest.
  double agreement = 0;
  // 10 log10(Σ y² / Σ (y - ŷ)²) of the judged Linear's output y, in dB; infinite for equality.
  double sqnr = 0;
};

class VariantSweep {
 public:
  // The logits of `reference`, usually the graph before passes that change nothing of what it
  // computes, are what variants are compared with, behind the same prefix. The graphs, the windows
  // (of at least two tokens) and the pool must outlive this object. Throws kInvalidArgument for
  // windows that do not fit.
  VariantSweep(const Graph& graph, const Graph& reference, const CalibrationWindows& windows,
               ThreadPool& pool);

  // What precedes the decoder blocks is block 0, the head the last one.
  int blocks() const noexcept { return static_cast<int>(blocks_.size()); }
  // The block of a Linear. Throws kInternal if there is none of this name.
  int block_of(const std::string& module) const;

  // In the order of the variants. `task` names the work for the user.
  std::vector<VariantLoss> run(std::span<const Variant> variants, std::string_view task,
                               Observer& observer);

 private:
  struct Rows {
    Tensor memory;
    std::byte* data = nullptr;
    std::int64_t row_bytes = 0;
  };
  // What later blocks read of all tokens.
  using State = std::map<ValueId, Rows>;
  struct Noise {
    double signal = 0;
    double error = 0;
  };

  std::vector<VariantLoss> run_some(std::span<const Variant> variants, Task& progress);
  // Takes a variant through block `b`. `expected`: what the graph gives there.
  void advance(int b, const Variant& variant, WindowExecutor& plain, const State& base,
               const State& expected, State& state, VariantLoss& loss) const;
  void forget(int b, State& state) const;
  void run_reference();
  // Runs a block from `inputs`, or else from `base`, and returns those outputs that `keep` names.
  State run_block(const Block& block, WindowExecutor& executor, const State& inputs,
                  const State& base, const std::function<bool(ValueId)>& keep) const;
  std::vector<const void*> input_rows(const Block& block, const State& inputs, const State& base,
                                      std::int64_t first) const;
  void run_heads(std::span<const Variant> variants, const State& base,
                 std::span<const State> states, std::span<VariantLoss> losses, Task& progress);
  void compare_window(const float* reference, const float* logits, VariantLoss& loss) const;
  Noise noise_of(const float* expected, const float* got, std::int64_t count) const;
  std::int64_t state_bytes() const;

  const Graph& graph_;
  const CalibrationWindows& windows_;
  ThreadPool& pool_;
  std::int64_t batch_rows_;
  std::vector<Block> blocks_;
  // By value: the last block that reads it.
  std::map<ValueId, int> last_reader_;
  std::vector<std::int32_t> row_numbers_;
  // As the graph itself computes it: variants judge what follows.
  PrefixRows prefix_;
  // Of the reference: its head, and what that reads.
  std::vector<Block> reference_blocks_;
  State reference_;
};

}  // namespace tandem
