// Completes one prompt, streaming the text, with the usual performance figures.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/generator.h"
#include "runtime/local_model.h"
#include <tandem/logprobs.hpp>

namespace tandem {

enum class FinishReason : std::uint8_t { kEndToken, kLength, kStopped, kStopText };
// "end token", "length", "stopped" (by the caller) or "stop text".
std::string_view to_string(FinishReason reason) noexcept;

struct Completion {
  // Up to a stop text.
  std::string text;
  // The appended tokens, without the end token; with those of a stop text.
  std::vector<TokenId> ids;
  // One for each of these tokens if the options request log-probabilities, else empty.
  std::vector<ChosenToken> logprobs;
  std::int64_t prompt_tokens = 0;
  // Generated tokens, including the end token.
  std::int64_t tokens = 0;
  // Of prompt and answer, those that were dropped because the context was full.
  std::int64_t dropped_tokens = 0;
  // What drafts saved, with options.lookup.
  LookupFigures lookup;
  FinishReason finish_reason = FinishReason::kLength;
  // Time to first token, starting from the tokenized prompt.
  double ttft_ms = 0;
  // Over the tokens after the first.
  double decode_tokens_per_s = 0;
};

// Appends `prompt` and generates at most `max_tokens` tokens, up to a stop text of the generator's
// options. `on_text` receives whole UTF-8 characters as they are generated and stops the generation
// by returning false.
Completion complete(Generator& generator, const Tokenizer& tokenizer,
                    std::span<const TokenId> prompt, std::int64_t max_tokens,
                    const std::function<bool(std::string_view)>& on_text = {});
// The same with a new generator.
Completion complete(LocalModel& model, std::span<const TokenId> prompt,
                    const SearchOptions& options, std::int64_t max_tokens,
                    const std::function<bool(std::string_view)>& on_text = {});

}  // namespace tandem
