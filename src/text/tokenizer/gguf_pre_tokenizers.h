// How the text of a model in GGUF is cut in words: the values of "tokenizer.ggml.pre".
#pragma once

#include <span>
#include <string_view>
#include <vector>

namespace tandem {

struct GgufPreTokenizer {
  // All with the same meaning, such as "llama-bpe" and "llama3".
  std::vector<std::string_view> names;
  // Applied one after the other: each cuts the pieces of the one before it.
  std::vector<std::string_view> expressions;
  // "ignore_merges": a word that is in the vocabulary is one token.
  bool whole_words_first = false;
  // Text begins with the begin token, unless the file says otherwise.
  bool bos = false;
  // The model's own tokenizer normalizes.
  bool nfc = false;
  // Tokens are spelled in UTF-8 with "▁" for a space, as SentencePiece does, and characters that
  // the vocabulary lacks in tokens such as <0x0A>; otherwise in GPT-2's alphabet of bytes.
  bool visible_spaces = false;
};

// All that are known, as defined by llama.cpp, which refuses other names.
std::span<const GgufPreTokenizer> gguf_pre_tokenizers();
// Null for an unknown name.
const GgufPreTokenizer* find_gguf_pre_tokenizer(std::string_view name);

}  // namespace tandem
