// The settings next to a tokenizer file: tokenizer_config.json, added_tokens.json and the model's
// config.json, if they exist.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "base/files.h"
#include "base/json.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem {

struct TokenizerConfig {
  // Reads the settings in the folder of `file`. Throws kFormat for malformed files.
  static TokenizerConfig beside(const fs::path& file);

  // True if tokenizer_config.json exists.
  bool found = false;
  // Such as "LlamaTokenizer".
  std::string tokenizer_class;
  // From config.json, such as "llama".
  std::string model_type;
  std::optional<bool> add_bos_token;
  std::optional<bool> add_eos_token;
  std::optional<bool> add_prefix_space;
  std::optional<bool> legacy;
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
  // By id, in the format of "added_tokens" of tokenizer.json.
  std::map<TokenId, Json> added_tokens;
};

}  // namespace tandem
