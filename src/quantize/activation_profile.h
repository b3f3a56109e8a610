// What the inputs and outputs of a model's Linears look like on a text, and the scales that follow
// from it, in the form of mllm's tools.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "base/thread_pool.h"
#include "graph/graph.h"
#include "quantize/block_runner.h"

namespace tandem {

// Of all values of a matrix, over all tokens.
struct Distribution {
  // The largest value and the one at rank ⌊0.999 N⌋ - 1 of N, by magnitude or signed.
  float max = 0;
  float percentile = 0;
  double mean = 0;
  double standard_deviation = 0;
};

struct ModuleDistribution {
  Distribution input;
  Distribution output;
};

// By module.
using ActivationProfile = std::map<std::string, ModuleDistribution>;

struct ProfileSettings {
  // Whether outputs are seen without their bias.
  bool no_bias = false;
  // As mllm does: negative values count for nothing, however large they are.
  bool is_signed = false;
  // By window, how many tokens from its first on are looked at: what follows them is padding. Empty:
  // all.
  std::vector<std::int64_t> lengths = {};
};

// Of all Linears, those of decoder blocks and the head, tied or not. `progress(done, total)` is
// called after each block. Throws kInvalidArgument, naming module and token, for a value that is not
// finite.
ActivationProfile profile_activations(const Graph& graph, const CalibrationWindows& windows,
                                      const ProfileSettings& settings, ThreadPool& pool,
                                      const std::function<void(int, int)>& progress);

// mllm's "ori" (the largest), "top_0_1" (the percentile) and "all_stat" (mean and std).
OrderedJson to_json(const ActivationProfile& profile);
// Reads that, or a file of mllm's own. Throws kFormat naming file, module and key.
ActivationProfile read_activation_profile(const fs::path& path);

// What mllm does about one matrix.
struct ClipDecision {
  // True: the scale reaches the largest value. False: it follows the percentile, and what lies
  // beyond is an outlier, to be computed apart.
  bool clips = true;
  // What the largest code stands for.
  float largest = 0;
};
// `threshold`: how many times the percentile the largest value may be; 0: any.
ClipDecision decide_clip(const Distribution& distribution, double threshold);

}  // namespace tandem
