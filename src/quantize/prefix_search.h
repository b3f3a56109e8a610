// Prefix tokens (PrefixQuant, Chen et al. 2024): the outliers that spoil a static scale are those of
// a few tokens, which most models make of whatever stands first or of certain separators. Once such
// tokens stand in the KV cache before every sequence, others have no outliers any more.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/observer.h"
#include "base/thread_pool.h"
#include "graph/graph.h"
#include "graph/model_info.h"
#include "quantize/block_runner.h"
#include "quantize/recipe.h"

namespace tandem {

// A token is an outlier if its largest |x| is above this many times the median of all tokens.
inline constexpr double kPrefixThreshold = 64;
// A longer prefix would cost more context than it is worth.
inline constexpr std::int64_t kMostPrefixTokens = 8;

struct PrefixSearch {
  // The last Linear of an MLP, where outliers are largest, by layer.
  struct Layer {
    std::int32_t layer = -1;
    // Of the tokens' largest |x|.
    float median = 0, max = 0;
    // Outlier tokens in a window, on average.
    double outliers = 0;
  };
  std::vector<Layer> layers;
  // Empty if there are no outliers.
  std::vector<std::int32_t> prefix;
};

// Counts outliers at the inputs of Linears that read a product, as an MLP's last one does. The
// prefix has as many tokens as there are outliers in a window on average, in the worst layer,
// rounded up, at most `most`: the most frequent ids among outliers that are not the first of their
// window, and `first` behind them, for those that are the first whatever they are.
// `progress(done, total)` is called after each block.
PrefixSearch search_prefix(const Graph& graph, const CalibrationWindows& windows,
                           std::int32_t first, std::int64_t most, ThreadPool& pool,
                           const std::function<void(int, int)>& progress = {});

// The recipe's prefix, or the one that it searches for on the windows, which may be null if it does
// not: behind the other tokens stands the one that begins texts, or where a model has none the one
// that ends them. Throws kInvalidArgument for an id outside the vocabulary.
std::vector<std::int32_t> prefix_of(const Recipe& recipe, const Graph& graph, const ModelInfo& info,
                                    const CalibrationWindows* windows, ThreadPool& pool,
                                    Observer& observer);

}  // namespace tandem
