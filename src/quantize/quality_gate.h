// Holds a quantized model to a limit of KL divergence, and repairs one that is beyond it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/files.h"
#include "quantize/doctor.h"

namespace tandem {

struct GateOptions {
  // Of the quantized model's logits from the float checkpoint's, nats per token, in each phase;
  // infinite: no limit, nothing is repaired.
  double max_kl = 0;
  // What it is measured on; empty: windows held back from the calibration text.
  fs::path text = {};
  // How much larger repairs may make the Linears' weights, added up over the phases that read them.
  double max_size_increase_percent = 10;
  // The limit is at least this share of what the recipe's own loses in the phase.
  double max_share = 0;
  // Whether single Linears are measured even if the recipe's own is good enough, and on how many of
  // the windows, spread over all: two are enough to rank them.
  bool ranks_always = false;
  std::int64_t ranking_windows = 2;
};

// Windows that are measured on.
inline constexpr std::int64_t kGateWindows = 8;

struct GateReport {
  struct Loss {
    double kl = 0;
    double kl_error = 0;
    // Share of tokens with the same likeliest token as the float model's.
    double agreement = 0;
  };
  double max_kl = 0;
  double max_share = 0;
  // What was measured on, in words.
  std::string text;
  std::int64_t windows = 0;
  std::int64_t window_tokens = 0;
  // As the recipe says, and as repaired; prefill's only where it reads other forms than decode.
  Loss decode_before, decode;
  std::optional<Loss> prefill_before, prefill;
  // If the recipe's was not good enough, or it was asked for: every Linear alone, on some of the
  // windows.
  std::vector<Slot> slots;
  std::int64_t ranking_windows = 0;
  // Of the recipe's forms, and what repairs added.
  std::int64_t bytes = 0;
  std::int64_t added_bytes = 0;

  // What a phase may lose, given what the recipe's own loses in it.
  double limit(const Loss& before) const noexcept {
    return std::max(max_kl, max_share * before.kl);
  }
  bool passed() const noexcept {
    return decode.kl <= limit(decode_before) &&
           (!prefill || !prefill_before || prefill->kl <= limit(*prefill_before));
  }
};

// What a gate is told of a model: its float graph, as loaded and after passes, and what calibration
// found.
struct GateModel {
  const Graph& loaded;
  const Graph& graph;
  const std::map<std::string, InputStatistics>& statistics;
  // Whether prefill has a graph, and whether Linears may become anything but float or what they are.
  bool has_prefill = true;
  bool only_float = false;
};

// Adds rules to the recipe until the model is good enough, or nothing more fits the budget. The
// quantizer reads that recipe.
GateReport pass_gate(const GateOptions& options, const GateModel& model,
                     const CalibrationWindows& windows, Recipe& recipe, LinearQuantizer& quantizer,
                     ThreadPool& pool, Observer& observer);

}  // namespace tandem
