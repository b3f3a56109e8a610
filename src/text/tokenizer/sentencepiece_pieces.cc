// Converts each part of SentencePiece's model to the equivalent component.
#include "text/tokenizer/sentencepiece_pieces.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "base/error.h"
#include "text/tokenizer/base64.h"
#include "text/tokenizer/tokenizer_json.h"
#include "text/tokenizer/tokenizer_parts.h"
#include "text/tokenizer/unicode.h"

namespace tandem {
namespace {

using Piece = SentencePieceModel::Piece;
using Type = SentencePieceModel::Type;

const char* const kVisibleSpace = "\xE2\x96\x81";

// {"text": id, …}
Json checked_vocabulary(const std::vector<Piece>& pieces, const std::string& place) {
  if (pieces.empty() || static_cast<std::int64_t>(pieces.size()) > kMaxTokenId) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: expected 1 to {} pieces, got {}", place, kMaxTokenId,
         pieces.size());
  }
  Json vocabulary = Json::object();
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    const Piece& piece = pieces[id];
    if (piece.text.empty() || !is_valid_utf8(piece.text) || !std::isfinite(piece.score)) {
      fail(ErrorCode::kFormat,
           "[tokenizer] {}: piece {}: expected text in UTF-8 and a finite score", place, id);
    }
    const auto [it, is_new] = vocabulary.emplace(piece.text, id);
    if (!is_new) {
      fail(ErrorCode::kFormat, "[tokenizer] {}: pieces {} and {} are both \"{}\"", place,
           it->get<std::size_t>(), id, piece.text);
    }
  }
  return vocabulary;
}

// The higher its score, the earlier a piece is merged; equal scores have equal ranks. Pieces of
// other types are matched in other ways, or never.
Json token_ranks(const std::vector<Piece>& pieces) {
  std::vector<std::size_t> order;
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    if (pieces[id].type == Type::kNormal) order.push_back(id);
  }
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return pieces[a].score != pieces[b].score ? pieces[a].score > pieces[b].score : a < b;
  });
  Json ranks(pieces.size(), Json());
  std::int64_t rank = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (i > 0 && pieces[order[i]].score != pieces[order[i - 1]].score) ++rank;
    ranks[order[i]] = rank;
  }
  return ranks;
}

Json ids_of_types(const std::vector<Piece>& pieces, const std::vector<Type>& types) {
  Json ids = Json::array();
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    if (std::find(types.begin(), types.end(), pieces[id].type) != types.end()) ids.push_back(id);
  }
  return ids;
}

const Piece* find_unknown(const std::vector<Piece>& pieces) {
  const auto it = std::find_if(pieces.begin(), pieces.end(),
                               [](const Piece& piece) { return piece.type == Type::kUnknown; });
  return it == pieces.end() ? nullptr : &*it;
}

Json bpe_model(const SentencePieceModel& model, Json vocabulary) {
  Json json = {{"type", "BPE"},
               {"vocab", std::move(vocabulary)},
               {"token_ranks", token_ranks(model.pieces)},
               {"fuse_unk", true},
               {"byte_fallback", model.byte_fallback}};
  if (const Piece* unknown = find_unknown(model.pieces)) json["unk_token"] = unknown->text;
  return json;
}

Json unigram_model(const SentencePieceModel& model) {
  Json vocabulary = Json::array();
  for (const Piece& piece : model.pieces) {
    vocabulary.push_back(Json::array({piece.text, piece.score}));
  }
  Json json = {{"type", "Unigram"},
               {"vocab", std::move(vocabulary)},
               {"byte_fallback", model.byte_fallback},
               {"unmatched", ids_of_types(model.pieces, {Type::kUnknown, Type::kControl,
                                                         Type::kUnused, Type::kByte})}};
  if (const Piece* unknown = find_unknown(model.pieces)) {
    json["unk_id"] = unknown - model.pieces.data();
  }
  return json;
}

Json sentencepiece_normalizer(const SentencePieceModel& model, bool prefix) {
  Json symbols = Json::array();
  for (const Piece& piece : model.pieces) {
    if (piece.type == Type::kUserDefined) symbols.push_back(piece.text);
  }
  Json json = {{"type", "SentencePiece"},
               {"add_dummy_prefix", prefix},
               {"remove_extra_whitespaces", model.remove_extra_spaces},
               {"escape_whitespaces", model.escape_spaces},
               {"treat_whitespace_as_suffix", model.space_as_suffix},
               {"user_defined_symbols", std::move(symbols)}};
  if (!model.character_map.empty()) {
    json["precompiled_charsmap"] = encode_base64(model.character_map);
  }
  return json;
}

void set_normalizer_and_decoder(const SentencePieceModel& model, const TokenizerConfig& config,
                                Json& json) {
  const bool prefix = model.add_dummy_prefix && config.add_prefix_space.value_or(true);
  // Most models of the Llama family only replace spaces, which the library's standard components
  // can do too.
  const bool plain = model.character_map.empty() && !model.remove_extra_spaces &&
                     model.escape_spaces && !model.space_as_suffix;
  if (plain && !config.legacy.value_or(true)) {
    json["pre_tokenizer"] = {{"type", "Metaspace"},
                             {"replacement", kVisibleSpace},
                             {"prepend_scheme", prefix ? "first" : "never"},
                             {"split", false}};
  } else if (plain) {
    set_spaces_visible(json, prefix);
  } else {
    json["normalizer"] = sentencepiece_normalizer(model, prefix);
  }
  json["decoder"] = visible_spaces_decoder(
      (prefix && !model.space_as_suffix) || model.remove_extra_spaces, model.byte_fallback);
}

// ChatGLM3's special tokens, which its own code numbers after the pieces. "sop" and "eop" also
// occur in words, such as "philosophy".
std::vector<std::string> add_chatglm_tokens(std::size_t first, std::map<TokenId, Json>& added) {
  for (const char* content : {"[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>",
                              "<|user|>", "<|assistant|>", "<|observation|>"}) {
    const auto id = static_cast<TokenId>(first++);
    Json token = added_token(id, content, true);
    token["single_word"] = content[0] != '[' && content[0] != '<';
    added[id] = std::move(token);
  }
  return {"[gMASK]", "sop"};
}

}  // namespace

Json to_tokenizer_json(SentencePieceModel model, const TokenizerConfig& config,
                       const std::string& place) {
  std::map<TokenId, Json> added;
  for (const auto& [id, token] : config.added_tokens) {
    added[id] = token;
    // The settings may rename a piece; it is then matched as a whole.
    const auto index = static_cast<std::size_t>(id);
    const auto content = token.find("content");
    if (index >= model.pieces.size() || content == token.end() || !content->is_string()) continue;
    Piece& piece = model.pieces[index];
    piece.text = content->get<std::string>();
    if (piece.type == Type::kUserDefined) piece.type = Type::kControl;
  }
  for (std::size_t id = 0; id < model.pieces.size(); ++id) {
    const Piece& piece = model.pieces[id];
    if (piece.type != Type::kControl && piece.type != Type::kUnknown) continue;
    const auto token = static_cast<TokenId>(id);
    if (!added.contains(token)) added[token] = added_token(token, piece.text, true);
  }
  Json json;
  Json vocabulary = checked_vocabulary(model.pieces, place);
  json["model"] = model.kind == SentencePieceModel::Kind::kBpe
                      ? bpe_model(model, std::move(vocabulary))
                      : unigram_model(model);
  json["model"]["user_defined_symbols"] = ids_of_types(model.pieces, {Type::kUserDefined});
  set_normalizer_and_decoder(model, config, json);

  const auto text_of = [&](const std::optional<std::string>& named, std::int64_t id) {
    if (named) return *named;
    const bool is_piece = id >= 0 && static_cast<std::size_t>(id) < model.pieces.size();
    return is_piece ? model.pieces[static_cast<std::size_t>(id)].text : std::string();
  };
  std::vector<std::string> before;
  std::vector<std::string> behind;
  if (config.tokenizer_class == "ChatGLMTokenizer" || config.model_type == "chatglm") {
    before = add_chatglm_tokens(model.pieces.size(), added);
  } else if (config.add_bos_token.value_or(true)) {
    before = {text_of(config.bos_token, model.bos_id)};
  }
  if (config.add_eos_token.value_or(false)) behind = {text_of(config.eos_token, model.eos_id)};
  set_added_tokens(json, added);
  set_around(json, added, before, behind);
  return json;
}

}  // namespace tandem
