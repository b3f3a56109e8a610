// Functions that change the scores of a vocabulary before a token is chosen, with the semantics of
// ONNX Runtime GenAI. A search applies a chain of them, each to the previous one's output.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "text/tokenizer/tokenizer.h"

namespace tandem {

// Changes `scores`, [vocabulary], in place; they are for the token after `sequence` (prompt and
// answer so far). A processor may be called for sequences in any order (rows of a batch, a sequence
// that was rewound), so its effect must depend only on these two arguments. It need not be
// thread-safe.
using LogitsProcessor =
    std::function<void(std::span<float> scores, std::span<const TokenId> sequence)>;

// For each distinct token in the sequence: score < 0 ? score * penalty : score / penalty (Keskar et
// al. 2019, "CTRL", §4.1, in Hugging Face's form). `penalty` > 0; above 1 discourages repetition.
// Tokens outside the vocabulary are ignored. Linear in the length of the sequence; allocates only
// in the first call.
LogitsProcessor repetition_penalty(float penalty);

// Gives the end tokens the lowest finite score while the sequence, prompt included, has fewer than
// `length` tokens. It is finite so that a vocabulary consisting only of end tokens can still be
// sampled from. End tokens outside the vocabulary are ignored.
LogitsProcessor min_length(std::int64_t length, std::vector<std::int64_t> end_tokens);

// Rules out (lowest finite score) every token that would complete a run of `size` tokens that is in
// the sequence already, as in transformers and ONNX Runtime GenAI. `size` > 0. Linear in the length
// of the sequence.
LogitsProcessor no_repeat_ngram(std::int64_t size);

}  // namespace tandem
