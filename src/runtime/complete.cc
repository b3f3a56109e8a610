// The loop from tokens to streamed text, with timing.
#include "runtime/complete.h"

#include <chrono>

#include "runtime/stop_strings.h"

namespace tandem {

namespace {

// What a token adds to the text, if it comes after the token `before`.
std::string text_after(const Tokenizer& tokenizer, TokenId before, TokenId id) {
  TokenStream stream(tokenizer, /*skip_special_tokens=*/false);
  stream.put(before);
  const std::string text = stream.put(id);
  return text + stream.finish();
}

ChosenToken with_texts(const Choice& choice, const Tokenizer& tokenizer, TokenId before) {
  const auto with_text = [&](const TokenProbability& token) {
    return TokenLogprob{token.id, text_after(tokenizer, before, token.id), token.log_probability};
  };
  ChosenToken chosen{with_text(choice)};
  for (const TokenProbability& token : choice.likeliest)
    chosen.likeliest.push_back(with_text(token));
  return chosen;
}

}  // namespace

std::string_view to_string(FinishReason reason) noexcept {
  switch (reason) {
    case FinishReason::kEndToken:
      return "end token";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kStopped:
      return "stopped";
    case FinishReason::kStopText:
      return "stop text";
  }
  return "unknown";
}

Completion complete(LocalModel& model, std::span<const TokenId> prompt,
                    const SearchOptions& options, std::int64_t max_tokens,
                    const std::function<bool(std::string_view)>& on_text) {
  Generator generator(model.engine, options);
  return complete(generator, model.text.tokenizer(), prompt, max_tokens, on_text);
}

Completion complete(Generator& generator, const Tokenizer& tokenizer,
                    std::span<const TokenId> prompt, std::int64_t max_tokens,
                    const std::function<bool(std::string_view)>& on_text) {
  using Clock = std::chrono::steady_clock;
  TokenStream stream(tokenizer);
  StopStrings stop(generator.options().stop);
  Completion completion;
  completion.prompt_tokens = static_cast<std::int64_t>(prompt.size());
  const auto show = [&](const std::string& piece) {
    completion.text += piece;
    return piece.empty() || !on_text || on_text(piece);
  };

  const LookupFigures earlier = generator.lookup_figures();
  const auto start = Clock::now();
  generator.append(prompt);
  auto first = Clock::now();
  while (completion.tokens < max_tokens && !generator.done()) {
    const TokenId id = generator.next();
    if (++completion.tokens == 1) first = Clock::now();
    if (generator.is_end(id)) {
      completion.finish_reason = FinishReason::kEndToken;
      break;
    }
    if (generator.options().logprobs) {
      const TokenId before = completion.ids.empty() ? prompt.back() : completion.ids.back();
      completion.logprobs.push_back(with_texts(generator.last_choice(), tokenizer, before));
    }
    completion.ids.push_back(id);
    const bool wanted = show(stop.put(stream.put(id)));
    if (stop.found()) {
      completion.finish_reason = FinishReason::kStopText;
      break;
    }
    if (!wanted) {
      completion.finish_reason = FinishReason::kStopped;
      break;
    }
  }
  const auto end = Clock::now();
  std::string rest = stop.put(stream.finish());
  rest += stop.finish();
  // A caller that has ended the answer is not called again.
  if (completion.finish_reason == FinishReason::kStopped) {
    completion.text += rest;
  } else {
    show(rest);
  }

  completion.dropped_tokens = generator.dropped_tokens();
  const LookupFigures& now = generator.lookup_figures();
  completion.lookup = {now.runs - earlier.runs, now.drafted - earlier.drafted,
                       now.accepted - earlier.accepted};
  completion.ttft_ms = std::chrono::duration<double, std::milli>(first - start).count();
  if (completion.tokens > 1) {
    completion.decode_tokens_per_s = static_cast<double>(completion.tokens - 1) /
                                     std::chrono::duration<double>(end - first).count();
  }
  return completion;
}

}  // namespace tandem
