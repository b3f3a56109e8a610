// The settings of a search, with the names and defaults of ONNX Runtime GenAI.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/observer.h"
#include "execute/eviction.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem {

// Of SearchOptions::lookup: the logits after every token of a draft are kept.
inline constexpr std::int64_t kMaxLookup = 64;

struct SearchOptions {
  // False: greedy.
  bool do_sample = false;
  // Greater than 0.
  float temperature = 1;
  // 0 and -1: no limit.
  std::int64_t top_k = 50;
  // In [0, 1]; 1: no limit, 0: only the likeliest.
  float top_p = 1;
  // In [0, 1]: draws only from tokens that are at least this part as likely as the likeliest
  // (Nguyen et al. 2024, "Min-p Sampling", as in transformers); 0: no limit.
  float min_p = 0;
  // Greater than 0; 1: no penalty. See repetition_penalty() in logits_processors.h.
  float repetition_penalty = 1;
  // No run of this many tokens is written twice, the prompt counting; 0: no limit. See
  // no_repeat_ngram() in logits_processors.h.
  std::int64_t no_repeat_ngram_size = 0;
  // In [-2, 2]; 0: no penalty. See answer_penalties() in logits_processors.h.
  float presence_penalty = 0;
  float frequency_penalty = 0;
  // By token, in [-100, 100], or -infinity, which rules the token out. See logit_bias() in
  // logits_processors.h.
  std::map<TokenId, float> logit_bias;
  // Total tokens, prompt included, before which no end token is chosen.
  std::int64_t min_length = 0;
  // Maximum total tokens, prompt included; 0: the model's context length, or no limit with an
  // eviction.
  std::int64_t max_length = 0;
  // What to drop when the context is full; what it leaves open is as with_defaults() in engine.h
  // says. None: the end of the context is the end of the answer.
  std::optional<Eviction> eviction;
  // Tokens to draft at most from earlier text (prompt_lookup.h) and to check in one run; 0: none.
  // Changes nothing but the time: each token is still chosen by its own logits.
  std::int64_t lookup = 0;
  // -1 or more; -1: taken from the system's entropy source.
  std::int64_t seed = -1;
  // Tokens that end the answer; empty: the model's end tokens.
  std::vector<std::int64_t> eos;
  // Computes the log-probability of each choice, and of so many of the likeliest tokens beside it
  // (0 to 20), which costs a pass over the vocabulary.
  std::optional<std::int64_t> logprobs;
  // Texts that end the answer, of which they are no part; complete() and Chat look for them.
  std::vector<std::string> stop;
};

// The search that a model's authors recommend: do_sample, temperature, top_k, top_p, min_p,
// repetition_penalty and no_repeat_ngram_size of a generation_config.json. What it lacks is as
// above, and so is what is out of range. `observer` is warned of what is out of range, unless a
// greedy search has no use for it, and of other keys that would change the answer. Sampling at
// temperature 0 is greedy. Throws kFormat naming file and key for a value of a wrong type.
SearchOptions recommended_search(const JsonObject& generation_config,
                                 Observer& observer = silent());

// What a caller asks for; what is not set is as recommended.
struct SearchSettings {
  std::optional<bool> do_sample;
  // 0: greedy.
  std::optional<float> temperature;
  std::optional<std::int64_t> top_k;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<std::int64_t> seed;
  std::optional<float> repetition_penalty;
  std::optional<std::int64_t> no_repeat_ngram_size;
  std::optional<float> presence_penalty;
  std::optional<float> frequency_penalty;
};
// `options` with the settings. A setting of the draw (temperature to seed) asks for one, unless
// do_sample says otherwise. Throws kInvalidArgument naming a setting that is out of range.
SearchOptions with_settings(SearchOptions options, const SearchSettings& settings);

// For display: what decides which token is chosen.
OrderedJson to_json(const SearchOptions& options);

// Throws kInvalidArgument naming the option.
void validate(const SearchOptions& options);

}  // namespace tandem
