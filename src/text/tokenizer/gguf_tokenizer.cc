// The vocabulary in a GGUF: SentencePiece's ("llama", "t5") or BPE over words ("gpt2"), which names
// the model whose way of splitting text into words it uses.
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "checkpoint/gguf/gguf_parts.h"
#include "text/tokenizer/byte_level.h"
#include "text/tokenizer/foreign_tokenizers.h"
#include "text/tokenizer/gguf_pre_tokenizers.h"
#include "text/tokenizer/sentencepiece_pieces.h"
#include "text/tokenizer/tokenizer_json.h"
#include "text/tokenizer/tokenizer_parts.h"
#include "text/tokenizer/unicode.h"

namespace tandem {
namespace {

using Type = SentencePieceModel::Type;

const GgufPreTokenizer& find_words(const JsonObject& metadata, Observer& observer) {
  constexpr std::string_view kKey = "tokenizer.ggml.pre";
  std::string name = metadata.get_string_or(kKey, "");
  if (name.empty()) {
    // Files of before this key was introduced, or of a converter that doesn't write it.
    observer.warn(
        fmt::format("[tokenizer] {}: is missing: text is cut in words in a default way, which may "
                    "not be the model's",
                    key_place(metadata, kKey)));
    name = "default";
  }
  if (const GgufPreTokenizer* known = find_gguf_pre_tokenizer(name)) return *known;
  fail(ErrorCode::kUnsupported,
       "[tokenizer] {}: \"{}\" is not a way to cut text in words that this build knows",
       key_place(metadata, kKey), name);
}

// The array at `key` with one entry for each of `count` tokens; null if it is missing.
const Json* get_array(const JsonObject& metadata, std::string_view key, std::size_t count) {
  if (!metadata.has(key)) return nullptr;
  const Json& array = metadata.at(key);
  if (!array.is_array() || array.size() != count) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: expected an array of {} entries, got {}",
         key_place(metadata, key), count, describe(array));
  }
  return &array;
}

std::vector<SentencePieceModel::Piece> read_pieces(const JsonObject& metadata) {
  const std::vector<std::string> tokens = get_strings(metadata, "tokenizer.ggml.tokens");
  const Json* scores = get_array(metadata, "tokenizer.ggml.scores", tokens.size());
  const Json* types = get_array(metadata, "tokenizer.ggml.token_type", tokens.size());
  std::vector<SentencePieceModel::Piece> pieces;
  pieces.reserve(tokens.size());
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    const Json score = scores != nullptr ? (*scores)[id] : Json(0);
    const Json type = types != nullptr ? (*types)[id] : Json(1);
    if (!score.is_number() || !type.is_number_integer() || type < 1 || type > 6 ||
        !is_valid_utf8(tokens[id])) {
      fail(ErrorCode::kFormat,
           "[tokenizer] {}: token {}: expected text in UTF-8, a score and a type from 1 to 6",
           metadata.where(), id);
    }
    pieces.push_back({tokens[id], score.get<double>(), static_cast<Type>(type.get<int>())});
  }
  return pieces;
}

// The text of a special token; none for an id outside the vocabulary, which reading the model
// warns of.
std::optional<std::string> token_at(const JsonObject& metadata, std::string_view key,
                                    const std::vector<SentencePieceModel::Piece>& pieces) {
  if (!metadata.has(key)) return std::nullopt;
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  const std::int64_t id = metadata.get_int(key, -kMost, kMost);
  if (id < 0 || id >= static_cast<std::int64_t>(pieces.size())) return std::nullopt;
  return pieces[static_cast<std::size_t>(id)].text;
}

std::optional<bool> get_optional_bool(const JsonObject& metadata, std::string_view key) {
  if (!metadata.has(key)) return std::nullopt;
  return metadata.get_bool(key);
}

// The settings that tokenizer_config.json would contain.
TokenizerConfig read_settings(const JsonObject& metadata,
                              const std::vector<SentencePieceModel::Piece>& pieces) {
  TokenizerConfig config;
  config.add_bos_token = get_optional_bool(metadata, "tokenizer.ggml.add_bos_token");
  config.add_eos_token = get_optional_bool(metadata, "tokenizer.ggml.add_eos_token");
  config.add_prefix_space = get_optional_bool(metadata, "tokenizer.ggml.add_space_prefix");
  config.bos_token = token_at(metadata, "tokenizer.ggml.bos_token_id", pieces);
  config.eos_token = token_at(metadata, "tokenizer.ggml.eos_token_id", pieces);
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    if (pieces[id].type != Type::kControl && pieces[id].type != Type::kUserDefined) continue;
    const auto token = static_cast<TokenId>(id);
    config.added_tokens[token] =
        added_token(token, pieces[id].text, pieces[id].type == Type::kControl);
  }
  return config;
}

std::string read_character_map(const JsonObject& metadata) {
  constexpr std::string_view kKey = "tokenizer.ggml.precompiled_charsmap";
  std::string bytes;
  if (!metadata.has(kKey)) return bytes;
  const Json& array = metadata.at(kKey);
  const bool is_bytes =
      array.is_array() && std::all_of(array.begin(), array.end(), [](const Json& value) {
        return value.is_number_integer() && value >= -128 && value <= 255;
      });
  if (!is_bytes) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: expected an array of bytes, got {}",
         key_place(metadata, kKey), describe(array));
  }
  for (const Json& value : array) bytes.push_back(static_cast<char>(value.get<int>()));
  return bytes;
}

Json read_sentencepiece(const JsonObject& metadata, bool unigram) {
  SentencePieceModel model;
  model.kind = unigram ? SentencePieceModel::Kind::kUnigram : SentencePieceModel::Kind::kBpe;
  model.pieces = read_pieces(metadata);
  model.byte_fallback = !unigram;
  model.character_map = read_character_map(metadata);
  model.remove_extra_spaces =
      metadata.get_bool_or("tokenizer.ggml.remove_extra_whitespaces", false);
  TokenizerConfig config = read_settings(metadata, model.pieces);
  if (unigram && !config.add_eos_token) config.add_eos_token = true;
  return to_tokenizer_json(std::move(model), config, metadata.where());
}

// Byte-pair encoding over words, in GPT-2's alphabet of bytes or in UTF-8.
Json read_bpe(const JsonObject& metadata, Observer& observer) {
  const GgufPreTokenizer& words = find_words(metadata, observer);
  const std::vector<SentencePieceModel::Piece> pieces = read_pieces(metadata);
  const TokenizerConfig config = read_settings(metadata, pieces);
  Json vocabulary = Json::object();
  std::map<TokenId, Json> added;
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    // Some vocabularies are padded with duplicate tokens; the first one is meant.
    const bool is_new = vocabulary.emplace(pieces[id].text, id).second;
    const auto it = config.added_tokens.find(static_cast<TokenId>(id));
    if (is_new && it != config.added_tokens.end() && !pieces[id].text.empty()) added.insert(*it);
  }
  Json json;
  set_byte_level(json, words.expressions);
  if (words.visible_spaces) {
    json["pre_tokenizer"]["pretokenizers"].erase(words.expressions.size());
    set_spaces_visible(json, false);
    json["decoder"] = visible_spaces_decoder(false, true);
  }
  if (words.nfc) json["normalizer"] = {{"type", "NFC"}};
  json["model"] = {{"type", "BPE"},
                   {"vocab", std::move(vocabulary)},
                   {"merges", metadata.at("tokenizer.ggml.merges")},
                   {"ignore_merges", words.whole_words_first},
                   {"byte_fallback", words.visible_spaces}};
  set_added_tokens(json, added);
  std::vector<std::string> before;
  std::vector<std::string> behind;
  if (config.add_bos_token.value_or(words.bos)) before = {config.bos_token.value_or("")};
  if (config.add_eos_token.value_or(false)) behind = {config.eos_token.value_or("")};
  set_around(json, added, before, behind);
  return json;
}

}  // namespace

Json read_gguf_vocabulary(const fs::path& file, Observer& observer) {
  const Json json = gguf_metadata(file);
  const JsonObject metadata(json, file.string());
  const std::string model = metadata.get_string("tokenizer.ggml.model");
  if (model == "llama") return read_sentencepiece(metadata, false);
  if (model == "t5") return read_sentencepiece(metadata, true);
  if (model == "gpt2" || model == "gemma4") return read_bpe(metadata, observer);
  fail(ErrorCode::kUnsupported, "[tokenizer] {}: \"{}\", expected llama, gpt2, gemma4 or t5",
       key_place(metadata, "tokenizer.ggml.model"), model);
}

}  // namespace tandem
