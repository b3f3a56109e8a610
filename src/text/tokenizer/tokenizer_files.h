// Finds a model's tokenizer and detects its format; each format is converted to the equivalent
// tokenizer.json.
#pragma once

#include "base/files.h"
#include "base/json.h"
#include "base/observer.h"

namespace tandem {

// The format is detected from the content, not the name:
//   tokenizer.json       Hugging Face
//   tokenizer.model      SentencePiece (BPE or unigram), or tiktoken (base64 and rank per line)
//   vocab.json           with merges.txt next to it: GPT-2's byte-level BPE
//   *vocab.mllm          with *merges.txt next to it: mllm
//   *.gguf               the vocabulary in the metadata
// A folder is searched in this order. Settings missing from the format (special tokens, whether
// text begins with one) come from tokenizer_config.json and similar files next to it. The path
// of a file is returned unchanged; the name of a model on the Hugging Face hub stands for its
// download (base/hub_cache.h). Throws kNotFound.
fs::path find_tokenizer(const fs::path& name);

// The content converted to tokenizer.json. Components that SentencePiece needs and tokenizer.json
// lacks are specific to tandem: the normalizer "SentencePiece", "token_ranks" of BPE,
// "user_defined_symbols". `observer` receives warnings about what the file leaves open. `merges`: of
// vocab.json or *vocab.mllm, wherever they are; throws kInvalidArgument for any other format.
Json read_tokenizer(const fs::path& file, Observer& observer = silent(),
                    const fs::path& merges = {});

}  // namespace tandem
