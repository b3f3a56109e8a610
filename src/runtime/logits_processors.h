// Functions that change the scores of a vocabulary before a token is chosen, with the semantics of
// ONNX Runtime GenAI and of the OpenAI API. A search applies a chain of them, each to the previous
// one's output.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "text/tokenizer/tokenizer.h"

namespace tandem {

// Changes `scores`, [vocabulary], in place; they are for the token after `sequence`, whose first
// `prompt` tokens were given and whose others are the answer so far. A processor may be called for
// sequences in any order (rows of a batch, a sequence that was rewound), so its effect must depend
// only on its arguments. It need not be thread-safe.
using LogitsProcessor = std::function<void(std::span<float> scores,
                                           std::span<const TokenId> sequence, std::size_t prompt)>;

// Adds to the score of each token its bias; -infinity rules the token out (lowest finite score).
// Tokens outside the vocabulary are ignored.
LogitsProcessor logit_bias(std::map<TokenId, float> biases);

// For each distinct token in the sequence: score < 0 ? score * penalty : score / penalty (Keskar et
// al. 2019, "CTRL", §4.1, in Hugging Face's form). `penalty` > 0; above 1 discourages repetition.
// Tokens outside the vocabulary are ignored. Linear in the length of the sequence; allocates only
// in the first call.
LogitsProcessor repetition_penalty(float penalty);

// For each token of the answer, which holds it n times: score - presence - frequency * n (OpenAI
// API reference, "Frequency and presence penalties"). Unlike the repetition penalty this leaves the
// prompt's tokens alone. Linear in the length of the answer; allocates only in the first call.
LogitsProcessor answer_penalties(float presence, float frequency);

// Gives the end tokens the lowest finite score while the sequence, prompt included, has fewer than
// `length` tokens. It is finite so that a vocabulary consisting only of end tokens can still be
// sampled from. End tokens outside the vocabulary are ignored.
LogitsProcessor min_length(std::int64_t length, std::vector<std::int64_t> end_tokens);

// Rules out (lowest finite score) every token that would complete a run of `size` tokens that is in
// the sequence already, as in transformers and ONNX Runtime GenAI. `size` > 0. Linear in the length
// of the sequence.
LogitsProcessor no_repeat_ngram(std::int64_t size);

}  // namespace tandem
