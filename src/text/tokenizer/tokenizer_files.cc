// The search order, and format detection by the first bytes.
#include "text/tokenizer/tokenizer_files.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "base/hub_cache.h"
#include "checkpoint/gguf/gguf.h"
#include "checkpoint/gguf/gguf_parts.h"
#include "text/tokenizer/foreign_tokenizers.h"
#include "text/tokenizer/tokenizer_config.h"

namespace tandem {
namespace {

// The files of a folder whose names end with `suffix`, in order.
std::vector<fs::path> files_ending(const fs::path& folder, std::string_view suffix) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().filename().string().ends_with(suffix)) files.push_back(it->path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

bool is_there(const fs::path& file) {
  std::error_code ignored;
  return fs::exists(file, ignored);
}

// 32 bits, the start of mllm's vocabularies.
constexpr std::string_view kMllmMagic("\x25\x5B\x00\x00", 4);

bool begins_as_json(std::string_view bytes) {
  if (bytes.starts_with("\xEF\xBB\xBF")) bytes.remove_prefix(3);
  const std::size_t at = bytes.find_first_not_of(" \t\r\n");
  return at != std::string_view::npos && bytes[at] == '{';
}

// Base64, a space and a number.
bool begins_as_tiktoken(std::string_view bytes) {
  const std::string_view line = bytes.substr(0, bytes.find('\n'));
  const std::size_t space = line.find(' ');
  constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";
  return space != std::string_view::npos && space > 0 && space + 1 < line.size() &&
         line.substr(0, space).find_first_not_of(kAlphabet) == std::string_view::npos &&
         line.substr(space + 1).find_first_not_of("0123456789\r") == std::string_view::npos;
}

// A message whose first field is a piece: field 1 with a length, containing a field 1 with a
// length.
bool begins_as_sentencepiece(std::string_view bytes) {
  if (bytes.size() < 4 || bytes[0] != '\n') return false;
  std::size_t at = 1;
  while (at < 5 && at < bytes.size() && (bytes[at] & 0x80) != 0) ++at;
  return at + 1 < bytes.size() && bytes[at + 1] == '\n';
}

// Adds the tokens that tokenizer_config.json lists and tokenizer.json does not, as transformers
// does: what stands in tokenizer.json holds, and new tokens are numbered there.
void add_tokens_of_config(Json& tokenizer, const fs::path& file) {
  const TokenizerConfig config = TokenizerConfig::beside(file);
  if (config.added_tokens.empty() || !tokenizer.is_object()) return;
  Json& list = tokenizer["added_tokens"];
  if (list.is_null()) list = Json::array();
  if (!list.is_array()) return;  // for its own reader to refuse
  std::set<Json> known;
  for (const Json& token : list)
    if (token.is_object()) known.insert(token.value("content", Json()));
  for (const auto& [id, token] : config.added_tokens)
    if (known.insert(token.value("content", Json())).second) list.push_back(token);
}

}  // namespace

fs::path find_tokenizer(const fs::path& name) {
  std::error_code ignored;
  const fs::path path = find_model(name);
  if (!fs::is_directory(path, ignored)) return path;
  for (const char* file : {"tokenizer.json", "tokenizer.model", "vocab.json"}) {
    if (is_there(path / file)) return path / file;
  }
  for (const char* suffix : {".tiktoken", "vocab.mllm"}) {
    const std::vector<fs::path> files = files_ending(path, suffix);
    if (!files.empty()) return files[0];
  }
  std::vector<fs::path> ggufs = files_ending(path, ".gguf");
  std::erase_if(ggufs, [](const fs::path& file) { return first_gguf_part(file) != file; });
  if (ggufs.size() > 1) {
    fail(ErrorCode::kInvalidArgument,
         "[tokenizer] {}: the folder holds several models ({}, {}, …); name one of the files",
         path.string(), ggufs[0].filename().string(), ggufs[1].filename().string());
  }
  if (ggufs.size() == 1) return ggufs[0];
  fail(ErrorCode::kNotFound,
       "[tokenizer] {}: expected tokenizer.json, tokenizer.model, vocab.json with merges.txt, "
       "*.tiktoken, *vocab.mllm or *.gguf in this folder",
       path.string());
}

Json read_tokenizer(const fs::path& file, Observer& observer, const fs::path& merges) {
  const auto refuse_merges = [&] {
    if (!merges.empty())
      fail(ErrorCode::kInvalidArgument,
           "[tokenizer] {}: holds its merges: expected {} with a vocab.json or *vocab.mllm",
           file.string(), merges.string());
  };
  if (is_gguf(file)) {
    refuse_merges();
    return read_gguf_vocabulary(file, observer);
  }
  const std::shared_ptr<const MappedFile> mapped = MappedFile::open(file);
  const std::string_view bytes(reinterpret_cast<const char*>(mapped->bytes().data()),
                               mapped->bytes().size());
  if (bytes.starts_with(kMllmMagic)) return read_mllm_vocabulary(file, bytes, merges);
  if (begins_as_sentencepiece(bytes)) {
    refuse_merges();
    return read_sentencepiece_model(file, bytes);
  }
  if (begins_as_tiktoken(bytes)) {
    refuse_merges();
    return read_tiktoken(file, bytes);
  }
  if (!begins_as_json(bytes) && file.extension() != ".json") {
    fail(ErrorCode::kFormat,
         "[tokenizer] {}: expected JSON, a SentencePiece model, tiktoken's lines, mllm's "
         "vocabulary or GGUF; it begins as none of them",
         file.string());
  }
  Json json = read_json_file(file);
  const bool is_plain_vocabulary =
      json.is_object() && !json.empty() &&
      std::all_of(json.begin(), json.end(), [](const Json& id) { return id.is_number_integer(); });
  if (is_plain_vocabulary) return read_vocabulary_with_merges(file, std::move(json), merges);
  refuse_merges();
  add_tokens_of_config(json, file);
  return json;
}

}  // namespace tandem
