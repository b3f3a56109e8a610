// One answer to one prompt, text as it comes, with the figures that people ask for.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/generator.h"

namespace tandem {

enum class Ending : std::uint8_t { kEndToken, kLength, kStopped };
std::string_view to_string(Ending ending) noexcept;  // "end token", "length", "stopped"

struct Completion {
  std::string text;
  std::vector<TokenId> ids;  // as appended: without the end token
  std::int64_t prompt_tokens = 0;
  std::int64_t tokens = 0;  // chosen, the end token included
  Ending ending = Ending::kLength;
  double ttft_ms = 0;              // from the prompt's tokens to the first chosen one
  double decode_tokens_per_s = 0;  // of the tokens after the first
};

// Appends `prompt` and continues it by at most `max_tokens` tokens. `on_text` gets whole UTF-8
// characters as they come and stops the answer by returning false.
Completion complete(Generator& generator, const Tokenizer& tokenizer,
                    std::span<const TokenId> prompt, std::int64_t max_tokens,
                    const std::function<bool(std::string_view)>& on_text = {});
// The same with a generator of its own.
Completion complete(LoadedModel& model, std::span<const TokenId> prompt,
                    const SearchOptions& options, std::int64_t max_tokens,
                    const std::function<bool(std::string_view)>& on_text = {});

}  // namespace tandem
