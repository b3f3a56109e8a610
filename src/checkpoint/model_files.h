// The files that belong to a model beside its weights and config.json: what copies a model copies
// these, where they exist.
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
