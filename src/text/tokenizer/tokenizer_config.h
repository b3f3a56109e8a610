// What stands beside a tokenizer's file: tokenizer_config.json, added_tokens.json and the model's
// config.json, where they are there.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "base/files.h"
#include "base/json.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem {

struct TokenizerConfig {
  // Reads what is in the folder of `file`. Throws kFormat for files that are there and damaged.
  static TokenizerConfig beside(const fs::path& file);

  bool found = false;           // tokenizer_config.json is there
  std::string tokenizer_class;  // such as "LlamaTokenizer"
  std::string model_type;       // of config.json, such as "llama"
  std::optional<bool> add_bos_token;
  std::optional<bool> add_eos_token;
  std::optional<bool> add_prefix_space;
  std::optional<bool> legacy;
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
  // By id, as "added_tokens" of tokenizer.json lists them.
  std::map<TokenId, Json> added_tokens;
};

}  // namespace tandem
