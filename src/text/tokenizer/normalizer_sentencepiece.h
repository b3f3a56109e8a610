// The two normalizers that go by SentencePiece's table of replacements.
#pragma once

#include <memory>

#include "text/tokenizer/normalizer.h"

namespace tandem {

// "Precompiled": the table of `precompiled_charsmap` (base64) applied as the Hugging Face library
// applies it.
std::unique_ptr<Normalizer> make_precompiled_normalizer(const JsonObject& config);

// "SentencePiece", which stands for a tokenizer.model's normalizer_spec and does what the
// SentencePiece library does with it: {"precompiled_charsmap": base64, "add_dummy_prefix",
// "remove_extra_whitespaces", "escape_whitespaces", "treat_whitespace_as_suffix": booleans,
// "user_defined_symbols": [texts that stay as they are]}.
std::unique_ptr<Normalizer> make_sentencepiece_normalizer(const JsonObject& config);

}  // namespace tandem
