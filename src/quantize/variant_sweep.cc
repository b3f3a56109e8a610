// Rows of each variant pass from block to block; heads run window by window.
#include "quantize/variant_sweep.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>

#include "base/error.h"
#include "quantize/weight_sink.h"

namespace tandem {
namespace {

// Hidden states of variants that are kept at once; more variants take several sweeps, each of which
// packs the blocks and runs the graph itself again.
constexpr std::int64_t kStateBytes = std::int64_t{1} << 30;

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

// The number of an output among a block's; -1: it is none.
std::ptrdiff_t output_number(const Block& block, ValueId value) {
  const auto found = std::ranges::find(block.part.outputs, value);
  return found == block.part.outputs.end() ? -1 : found - block.part.outputs.begin();
}

// The output of a Linear, as the whole graph numbers values.
ValueId output_of(const Graph& graph, const std::string& module) {
  const auto node = std::ranges::find_if(graph.nodes(), [&](const Node& each) {
    return each.op == Op::kLinear && each.name == module;
  });
  return node == graph.nodes().end() ? -1 : node->output();
}

}  // namespace

VariantSweep::VariantSweep(const Graph& graph, const Graph& reference,
                           const CalibrationWindows& windows, ThreadPool& pool)
    : graph_(graph),
      windows_(windows),
      pool_(pool),
      batch_rows_(batch_rows(windows)),
      blocks_(cut_blocks(graph, {})),
      row_numbers_(index(std::max<std::int64_t>(0, windows.window))),
      prefix_(windows.prefix),
      reference_blocks_(cut_blocks(reference, {})) {
  if (windows.window < 2)
    fail(ErrorCode::kInvalidArgument, "[doctor] windows of {} tokens, expected at least 2",
         windows.window);
  // Checks that the windows fit the graph.
  BlockRunner(graph, windows, {}, pool);
  std::iota(row_numbers_.begin(), row_numbers_.end(), 0);
  for (std::size_t b = 0; b < blocks_.size(); ++b)
    for (const ValueId input : blocks_[b].part.inputs) last_reader_[input] = static_cast<int>(b);
  run_reference();
}

void VariantSweep::run_reference() {
  PrefixRows prefix(windows_.prefix);
  for (std::size_t b = 0; b + 1 < reference_blocks_.size(); ++b) {
    const Block& block = reference_blocks_[b];
    if (block.part.graph.nodes().empty()) continue;
    WindowExecutor executor(block.part.graph, windows_.window, batch_rows_, pool_);
    prefix.run(block.part, executor);
    prefix.keep(block.part, executor);
    State outputs = run_block(block, executor, reference_, {}, [](ValueId) { return true; });
    outputs.merge(reference_);
    reference_ = std::move(outputs);
    const auto later = std::span(reference_blocks_).subspan(b + 1);
    std::erase_if(reference_, [&](const auto& kept) {
      return std::ranges::none_of(later, [&](const Block& reader) {
        return std::ranges::find(reader.part.inputs, kept.first) != reader.part.inputs.end();
      });
    });
    release_weights(block.part.graph);
  }
}

int VariantSweep::block_of(const std::string& module) const {
  for (std::size_t b = 0; b < blocks_.size(); ++b)
    if (output_of(blocks_[b].part.graph, module) >= 0) return static_cast<int>(b);
  fail(ErrorCode::kInternal, "[doctor] {}: no Linear of this name", module);
}

std::int64_t VariantSweep::state_bytes() const {
  std::int64_t most = 0;
  for (const auto& [value, reader] : last_reader_) most = std::max(most, graph_.value(value).width);
  return windows_.tokens() * most * static_cast<std::int64_t>(sizeof(float));
}

std::vector<VariantLoss> VariantSweep::run(std::span<const Variant> variants, std::string_view task,
                                           Observer& observer) {
  std::int64_t steps = 0;
  for (const Variant& variant : variants) steps += blocks() - variant.first;
  Task progress(observer, task, steps, "blocks");
  const auto most = index(std::max<std::int64_t>(1, kStateBytes / state_bytes()));
  std::vector<VariantLoss> losses;
  for (std::size_t first = 0; first < variants.size(); first += most) {
    const auto some = variants.subspan(first, std::min(most, variants.size() - first));
    for (VariantLoss& loss : run_some(some, progress)) losses.push_back(std::move(loss));
  }
  return losses;
}

// What no block after `b` reads.
void VariantSweep::forget(int b, State& state) const {
  std::erase_if(state, [&](const auto& kept) {
    const auto reader = last_reader_.find(kept.first);
    return reader == last_reader_.end() || reader->second <= b;
  });
}

std::vector<VariantLoss> VariantSweep::run_some(std::span<const Variant> variants, Task& progress) {
  std::vector<ValueId> judged;
  for (const Variant& variant : variants)
    if (!variant.judged.empty()) judged.push_back(output_of(graph_, variant.judged));
  blocks_ = cut_blocks(graph_, judged);
  std::vector<VariantLoss> losses(variants.size());
  State base;
  std::vector<State> states(variants.size());
  for (int b = 0; b + 1 < blocks(); ++b) {
    const Block& block = blocks_[index(b)];
    if (block.part.graph.nodes().empty()) continue;
    WindowExecutor plain(block.part.graph, windows_.window, batch_rows_, pool_);
    prefix_.run(block.part, plain);
    prefix_.keep(block.part, plain);
    State outputs = run_block(block, plain, base, {}, [](ValueId) { return true; });
    for (std::size_t v = 0; v < variants.size(); ++v) {
      if (b < variants[v].first) continue;
      advance(b, variants[v], plain, base, outputs, states[v], losses[v]);
      progress.advance();
    }
    outputs.merge(base);
    base = std::move(outputs);
    forget(b, base);
    release_weights(block.part.graph);
  }
  run_heads(variants, base, states, losses, progress);
  return losses;
}

void VariantSweep::advance(int b, const Variant& variant, WindowExecutor& plain, const State& base,
                           const State& expected, State& state, VariantLoss& loss) const {
  const Block& block = blocks_[index(b)];
  const ValueId judged = b == variant.first ? output_of(graph_, variant.judged) : -1;
  const auto keep = [&](ValueId value) { return value == judged || last_reader_.contains(value); };
  State outputs;
  if (b <= variant.last) {
    WindowExecutor own(variant.rewrite(block.part.graph), windows_.window, batch_rows_, pool_);
    prefix_.run(block.part, own);
    outputs = run_block(block, own, state, base, keep);
  } else {
    outputs = run_block(block, plain, state, base, keep);
  }
  if (judged >= 0) {
    const Noise noise = noise_of(reinterpret_cast<const float*>(expected.at(judged).data),
                                 reinterpret_cast<const float*>(outputs.at(judged).data),
                                 windows_.tokens() * graph_.value(judged).width);
    loss.sqnr = 10 * std::log10(noise.signal / noise.error);
  }
  outputs.merge(state);
  state = std::move(outputs);
  forget(b, state);
}

std::vector<const void*> VariantSweep::input_rows(const Block& block, const State& inputs,
                                                  const State& base, std::int64_t first) const {
  std::vector<const void*> rows;
  for (std::size_t i = 0; i < block.part.inputs.size(); ++i) {
    const ValueId value = block.part.inputs[i];
    const Value& input = block.part.graph.value(block.part.graph.inputs()[i]);
    const State& state = inputs.contains(value) ? inputs : base;
    if (const auto kept = state.find(value); kept != state.end()) {
      rows.push_back(kept->second.data + first * kept->second.row_bytes);
    } else if (input.rows == kTokens) {
      // The graph's own inputs: token ids, and the rows that the head is run on.
      rows.push_back(windows_.ids.data() + first);
    } else {
      rows.push_back(row_numbers_.data());
    }
  }
  return rows;
}

VariantSweep::State VariantSweep::run_block(const Block& block, WindowExecutor& executor,
                                            const State& inputs, const State& base,
                                            const std::function<bool(ValueId)>& keep) const {
  State outputs;
  for (std::size_t i = 0; i < block.part.outputs.size(); ++i) {
    if (!keep(block.part.outputs[i])) continue;
    const Value& value = block.part.graph.value(block.part.graph.outputs()[i]);
    Rows& rows = outputs[block.part.outputs[i]];
    rows.memory = Tensor::allocate(value.dtype, {windows_.tokens(), value.width}, &rows.data);
    rows.row_bytes = value.width * static_cast<std::int64_t>(size_of(value.dtype));
  }
  for (std::int64_t first = 0; first < windows_.tokens(); first += batch_rows_) {
    const std::int64_t count = std::min(batch_rows_, windows_.tokens() - first);
    executor.run(input_rows(block, inputs, base, first), count);
    for (std::size_t i = 0; i < block.part.outputs.size(); ++i)
      if (const auto kept = outputs.find(block.part.outputs[i]); kept != outputs.end())
        std::memcpy(kept->second.data + first * kept->second.row_bytes, executor.output(i),
                    index(count * kept->second.row_bytes));
  }
  return outputs;
}

VariantSweep::Noise VariantSweep::noise_of(const float* expected, const float* got,
                                           std::int64_t count) const {
  Noise noise;
  for (std::int64_t i = 0; i < count; ++i) {
    const double y = expected[i], error = y - got[i];
    noise.signal += y * y;
    noise.error += error * error;
  }
  return noise;
}

void VariantSweep::compare_window(const float* reference, const float* logits,
                                  VariantLoss& loss) const {
  const auto width = index(graph_.value(graph_.outputs().front()).width);
  const std::int64_t tokens = windows_.window - 1;
  std::vector<Disagreement> apart(index(tokens));
  pool_.parallel_for(tokens, 1, [&](Range range) {
    for (std::int64_t t = range.begin; t < range.end; ++t)
      apart[index(t)] =
          compare_logits({reference + index(t) * width, width}, {logits + index(t) * width, width});
  });
  std::vector<double> kl;
  for (const Disagreement& each : apart) {
    kl.push_back(each.kl);
    loss.agreement += each.same_top ? 1 : 0;
  }
  loss.kl.add(kl);
}

void VariantSweep::run_heads(std::span<const Variant> variants, const State& base,
                             std::span<const State> states, std::span<VariantLoss> losses,
                             Task& progress) {
  const std::int64_t window = windows_.window;
  const Block &block = blocks_.back(), &expected = reference_blocks_.back();
  const auto logits = index(output_number(block, graph_.outputs().front()));
  WindowExecutor reference(expected.part.graph, window, window, pool_);
  WindowExecutor plain(block.part.graph, window, window, pool_);
  std::vector<std::unique_ptr<WindowExecutor>> own(variants.size());
  std::vector<Noise> noises(variants.size());
  for (std::size_t v = 0; v < variants.size(); ++v)
    if (variants[v].last == blocks() - 1)
      own[v] = std::make_unique<WindowExecutor>(variants[v].rewrite(block.part.graph), window,
                                                window, pool_);
  for (std::int64_t first = 0; first < windows_.tokens(); first += window) {
    reference.run(input_rows(expected, reference_, {}, first), window);
    plain.run(input_rows(block, base, {}, first), window);
    const std::vector<float> right(
        reference.output(0),
        reference.output(0) + window * graph_.value(graph_.outputs().front()).width);
    std::map<ValueId, std::vector<float>> outputs;
    for (std::size_t i = 0; i < block.part.outputs.size(); ++i) {
      const float* rows = plain.output(i);
      const ValueId value = block.part.outputs[i];
      outputs[value].assign(rows, rows + window * graph_.value(value).width);
    }
    for (std::size_t v = 0; v < variants.size(); ++v) {
      WindowExecutor& executor = own[v] ? *own[v] : plain;
      executor.run(input_rows(block, states[v], base, first), window);
      compare_window(right.data(), executor.output(logits), losses[v]);
      const auto judged = output_number(block, output_of(graph_, variants[v].judged));
      if (judged < 0) continue;
      const std::vector<float>& y = outputs.at(block.part.outputs[index(judged)]);
      const Noise more =
          noise_of(y.data(), executor.output(index(judged)), static_cast<std::int64_t>(y.size()));
      noises[v].signal += more.signal;
      noises[v].error += more.error;
    }
    // One step for each variant, window by window.
    const auto steps_at = [&](std::int64_t token) {
      return static_cast<std::int64_t>(variants.size()) * token / windows_.tokens();
    };
    progress.advance(steps_at(first + window) - steps_at(first));
  }
  const std::int64_t scored = windows_.tokens() / window * (window - 1);
  for (std::size_t v = 0; v < variants.size(); ++v) {
    losses[v].agreement /= static_cast<double>(scored);
    if (variants[v].first == blocks() - 1)
      losses[v].sqnr = 10 * std::log10(noises[v].signal / noises[v].error);
  }
}

}  // namespace tandem
