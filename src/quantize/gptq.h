// The pass gptq (Frantar et al., 2022): codes of a weight are chosen one input channel after the
// other, each making up for what rounding the earlier ones changed of the output on a text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/observer.h"
#include "base/thread_pool.h"
#include "graph/graph.h"
#include "quantize/block_runner.h"
#include "quantize/products.h"
#include "quantize/recipe.h"
#include "quantize/rtn.h"
#include "quantize/weight_sink.h"

namespace tandem {

struct GptqSettings {
  // What is added to the diagonal of the Gram matrix, as a part of its mean.
  double damping = 0.01;
  // Channels with the largest inputs are rounded first, while others can still make up for them;
  // scales stay those of groups of consecutive channels.
  bool act_order = true;
};

// Chooses codes for weights that read the same input.
class GptqRounding {
 public:
  // `gram`: of the input. Throws kInvalidArgument for one that is not finite; `name` tells which.
  GptqRounding(GramMatrix gram, const GptqSettings& settings, const std::string& name,
               ThreadPool& pool);

  // Scales and zero points are those of quantize_group_codes(), whose errors it throws. In the
  // order of rounding, channel i becomes Q(w_i + sum_j (w_j - q_j) U_ji / U_ii) over the channels j
  // before it, where the damped Gram matrix is U · Uᵀ with U upper triangular: the same codes as
  // the update of all later channels by the inverse gives (Chee et al., 2023, theorem 6).
  GroupCodes round(const RowSource& weight, const GroupFormat& format,
                   const std::string& name) const;

 private:
  bool factorize(const std::vector<float>& gram, double damping);
  std::vector<float> ordered(const RowSource& weight, DType dtype) const;
  std::vector<float> corrections(const std::vector<float>& errors, std::int64_t begin,
                                 std::int64_t end) const;

  std::int64_t k_;
  ThreadPool& pool_;
  // Channels in the opposite order of rounding, and in that order the Cholesky factor of the Gram
  // matrix, lower triangular.
  std::vector<std::int64_t> order_;
  std::vector<float> factor_;
};

// The graph with codes for every Linear of a decoder block that the recipe's decode schemes
// quantize in groups; each block's input is what the blocks before it compute with theirs. Their
// tensors go to the sink. Throws kInvalidArgument for an activation that is not finite, what the
// runner and quantize_group_codes() throw, and kCancelled.
Graph gptq(const Graph& graph, const Recipe& recipe, const GptqSettings& settings,
           const CalibrationWindows& windows, WeightSink& sink, ThreadPool& pool,
           Observer& observer, BlockJournal* journal = nullptr);

}  // namespace tandem
