// The two normalizers that use SentencePiece's replacement table.
#pragma once

#include <memory>

#include "text/tokenizer/normalizer.h"

namespace tandem {

// "Precompiled": the table of `precompiled_charsmap` (base64), applied as in the Hugging Face
// library.
std::unique_ptr<Normalizer> make_precompiled_normalizer(const JsonObject& config);

// "SentencePiece", specific to tandem: represents a tokenizer.model's normalizer_spec and
// normalizes as the SentencePiece library does: {"precompiled_charsmap": base64,
// "add_dummy_prefix", "remove_extra_whitespaces", "escape_whitespaces",
// "treat_whitespace_as_suffix": booleans, "user_defined_symbols": [texts that stay unchanged]}.
std::unique_ptr<Normalizer> make_sentencepiece_normalizer(const JsonObject& config);

}  // namespace tandem
