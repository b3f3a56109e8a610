// adapter_config.json of PEFT: the scale of each module's low-rank product.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/json.h"

namespace tandem {

class LoraConfig {
 public:
  // Throws kFormat or, for an adapter whose product can't be added to weights as they are,
  // kUnsupported, naming the file and the key.
  explicit LoraConfig(fs::path file);
  ~LoraConfig();
  LoraConfig(const LoraConfig&) = delete;
  LoraConfig& operator=(const LoraConfig&) = delete;

  // The rank of `module` ("model.layers.0.self_attn.q_proj"): of the first pattern of rank_pattern
  // that matches it or a part of it behind a dot, to its end, else r.
  std::int64_t rank(const std::string& module) const;
  // alpha / rank, or alpha / sqrt(rank) with use_rslora; alpha is found like the rank.
  double scale(const std::string& module) const;
  // The rows of weights have norms of their own (Liu et al., 2024, DoRA).
  bool use_dora() const noexcept { return use_dora_; }
  // A tied head changes with the table of embeddings.
  bool ensure_weight_tying() const noexcept { return ensure_weight_tying_; }

 private:
  // A pattern and its value.
  struct Entry;
  // In the order of the file.
  using Entries = std::vector<Entry>;
  Entries read_pattern(const OrderedJson& config, const char* key) const;
  // The value of the first pattern that matches, else `fallback`.
  double find(const Entries& entries, const std::string& module, double fallback) const;

  fs::path file_;
  double rank_ = 0;
  double alpha_ = 0;
  Entries rank_pattern_;
  Entries alpha_pattern_;
  bool use_rslora_ = false;
  bool use_dora_ = false;
  bool ensure_weight_tying_ = false;
};

}  // namespace tandem
