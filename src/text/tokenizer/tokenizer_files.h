// Where a model's tokenizer is, and which of the formats in use it has; each is read as the
// tokenizer.json that it stands for.
#pragma once

#include "base/files.h"
#include "base/json.h"

namespace tandem {

// The format is told by content, not by name:
//   tokenizer.json       Hugging Face
//   tokenizer.model      SentencePiece (BPE or unigram), or tiktoken (base64 and rank per line)
//   vocab.json           with merges.txt beside it: byte-level BPE as GPT-2 has it
//   *vocab.mllm          with *merges.txt beside it: mllm
//   *.gguf               the vocabulary in the metadata
// A folder is searched in this order. What the formats leave out (special tokens, whether text
// begins with one) is taken from tokenizer_config.json and its like beside the file.
fs::path find_tokenizer(const fs::path& path);  // a file stands for itself; throws kNotFound

// The content as tokenizer.json. Components that SentencePiece needs and tokenizer.json lacks are
// tandem's own: normalizer "SentencePiece", "token_ranks" of BPE, "user_defined_symbols".
Json read_tokenizer(const fs::path& file);

}  // namespace tandem
