// What the rest of the system needs to know about a model besides its graph.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"

namespace tandem {

// In tokens, for models that set no limit themselves: as much context as any may name.
inline constexpr std::int64_t kLongestSequence = std::int64_t{1} << 30;

struct ModelInfo {
  // Such as "llama" or "phi3".
  std::string model_type;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t vocabulary = 0;
  // Maximum number of tokens, rope scaling included.
  std::int64_t context_length = 0;
  // Sequences may be longer than that: dynamic NTK adapts its base to any length.
  bool open_context = false;
  bool tied_head = false;
  std::optional<std::int64_t> bos = {};
  std::vector<std::int64_t> eos;
  std::optional<std::int64_t> pad = {};

  // In tokens.
  std::int64_t longest_sequence() const noexcept {
    return open_context ? kLongestSequence : context_length;
  }
};

// For display and for packages: every field under its own name, absent ones omitted.
OrderedJson to_json(const ModelInfo& info);
// Reads what to_json() wrote. Throws kFormat naming the key and its bounds.
ModelInfo model_info_from_json(const JsonObject& json);

}  // namespace tandem
