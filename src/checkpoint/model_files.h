// The files that belong to a model besides its weights and config.json: copying a model copies
// these if they exist.
#pragma once

#include <array>

namespace tandem {

inline constexpr std::array kFilesBesideWeights = {"generation_config.json",
                                                   "tokenizer.json",
                                                   "tokenizer.model",
                                                   "vocab.json",
                                                   "merges.txt",
                                                   "added_tokens.json",
                                                   "tokenizer_config.json",
                                                   "special_tokens_map.json",
                                                   "chat_template.jinja",
                                                   "chat_template.json"};

}  // namespace tandem
