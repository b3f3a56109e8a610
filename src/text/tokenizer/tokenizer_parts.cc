// Builds components in the format of the Hugging Face library.
#include "text/tokenizer/tokenizer_parts.h"

#include <utility>

#include "text/tokenizer/tokenizer_json.h"

namespace tandem {
namespace {

const char* const kVisibleSpace = "\xE2\x96\x81";

}  // namespace

Json added_token(TokenId id, const std::string& content, bool special) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

void set_byte_level(Json& tokenizer, const std::vector<std::string_view>& expressions) {
  Json parts = Json::array();
  for (const std::string_view expression : expressions) {
    parts.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", expression}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  }
  const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  parts.push_back(bytes);
  tokenizer["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", std::move(parts)}};
  tokenizer["decoder"] = bytes;
}

void set_spaces_visible(Json& tokenizer, bool prefix) {
  Json parts = Json::array();
  if (prefix) parts.push_back({{"type", "Prepend"}, {"prepend", kVisibleSpace}});
  parts.push_back(
      {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kVisibleSpace}});
  tokenizer["normalizer"] = {{"type", "Sequence"}, {"normalizers", std::move(parts)}};
}

Json visible_spaces_decoder(bool prefix, bool byte_fallback) {
  Json parts = Json::array();
  parts.push_back(
      {{"type", "Replace"}, {"pattern", {{"String", kVisibleSpace}}}, {"content", " "}});
  if (byte_fallback) parts.push_back({{"type", "ByteFallback"}});
  parts.push_back({{"type", "Fuse"}});
  if (prefix) {
    parts.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  return {{"type", "Sequence"}, {"decoders", std::move(parts)}};
}

void set_added_tokens(Json& tokenizer, const std::map<TokenId, Json>& tokens) {
  tokenizer[std::string(kKeepAddedIds)] = true;
  Json& list = tokenizer["added_tokens"] = Json::array();
  for (const auto& [id, token] : tokens) list.push_back(token);
}

void set_around(Json& tokenizer, const std::map<TokenId, Json>& added,
                const std::vector<std::string>& before, const std::vector<std::string>& behind) {
  Json single = Json::array();
  Json tokens = Json::object();
  const auto append = [&](const std::vector<std::string>& contents) {
    for (const std::string& content : contents) {
      const std::optional<TokenId> id = find_added(added, content);
      if (!id) continue;
      single.push_back({{"SpecialToken", {{"id", content}, {"type_id", 0}}}});
      tokens[content] = {{"id", content}, {"ids", {*id}}, {"tokens", {content}}};
    }
  };
  append(before);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  append(behind);
  if (tokens.empty()) return;
  tokenizer["post_processor"] = {{"type", "TemplateProcessing"},
                                 {"single", std::move(single)},
                                 {"special_tokens", std::move(tokens)}};
}

std::optional<TokenId> find_added(const std::map<TokenId, Json>& added, std::string_view content) {
  for (const auto& [id, token] : added) {
    const auto it = token.find("content");
    if (it != token.end() && it->is_string() && it->get_ref<const std::string&>() == content) {
      return id;
    }
  }
  return std::nullopt;
}

void merge_added_tokens(const TokenizerConfig& config, std::map<TokenId, Json>& added,
                        Json& vocabulary) {
  std::map<TokenId, std::string> renamed;
  for (const auto& [id, token] : config.added_tokens) {
    added[id] = token;
    renamed[id] = token.value("content", Json("")).is_string() ? token.value("content", "") : "";
  }
  // One pass over the vocabulary, whatever the number of tokens to rename.
  std::vector<std::pair<std::string, std::string>> changes;
  for (const auto& [text, id] : vocabulary.items()) {
    const auto it = renamed.find(id.is_number_integer() ? id.get<TokenId>() : -1);
    if (it != renamed.end() && it->second != text) changes.emplace_back(text, it->second);
  }
  for (const auto& [from, to] : changes) {
    Json id = std::move(vocabulary[from]);
    vocabulary.erase(from);
    if (!to.empty() && !vocabulary.contains(to)) vocabulary[to] = std::move(id);
  }
}

}  // namespace tandem
