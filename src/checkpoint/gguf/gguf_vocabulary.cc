// tokenizer.json and tokenizer_config.json translated to GGUF's keys.
#include <algorithm>
#include <array>
#include <optional>

#include "base/error.h"
#include "base/printable.h"
#include "checkpoint/gguf/gguf_end_tokens.h"
#include "checkpoint/gguf/gguf_export.h"
#include "checkpoint/gguf/gguf_token_type.h"

namespace tandem {
namespace {

constexpr std::int64_t kMaxVocabulary = std::int64_t{1} << 24;

// Patterns that tokenizer.json splits at, with llama.cpp's name for the equivalent pre-tokenizer.
struct Splitter {
  std::string_view pattern;
  std::string_view name;
};

constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr std::array kSplitters = {
    Splitter{
        R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
        "qwen2"},
    Splitter{R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
             "gpt-2"},
};

class VocabularyWriter {
 public:
  VocabularyWriter(GgufMetadata& metadata, const fs::path& folder, const JsonObject& config,
                   std::vector<std::int64_t> ends, Observer& observer)
      : metadata_(metadata),
        path_(folder / "tokenizer.json"),
        json_(read_json_file(path_)),
        tokenizer_(json_, path_.string()),
        model_(tokenizer_.child("model")),
        config_(config),
        settings_(fs::exists(folder / "tokenizer_config.json")
                      ? read_json_file(folder / "tokenizer_config.json")
                      : Json::object()),
        template_path_(folder / "chat_template.jinja"),
        ends_(std::move(ends)),
        observer_(observer) {}

  void write() {
    if (model_.get_string_or("type", "BPE") != "BPE") reject("a model of type BPE");
    byte_fallback_ = model_.get_bool_or("byte_fallback", false);
    read_tokens();
    if (byte_fallback_) {
      write_sentencepiece();
    } else {
      write_byte_level();
    }
    metadata_.add_strings("tokenizer.ggml.tokens", tokens_);
    metadata_.add_ints("tokenizer.ggml.token_type", types_);
    write_special_tokens();
    write_template();
  }

 private:
  [[noreturn]] void reject(const std::string& expected) const {
    fail(ErrorCode::kUnsupported, "[gguf] {}: has no form in GGUF: expected {}", path_.string(),
         expected);
  }

  void place(std::int64_t id, const std::string& token, std::int32_t type) {
    if (id >= static_cast<std::int64_t>(tokens_.size())) {
      // Ids without a token, such as padding of the table to a round size.
      for (auto unused = static_cast<std::int64_t>(tokens_.size()); unused <= id; ++unused) {
        tokens_.push_back(fmt::format("[PAD{}]", unused));
        types_.push_back(kUnused);
      }
    }
    tokens_[static_cast<std::size_t>(id)] = token;
    types_[static_cast<std::size_t>(id)] = type;
    ids_[token] = id;
  }

  static bool is_byte(std::string_view token) {
    return token.size() == 6 && token.starts_with("<0x") && token.ends_with('>');
  }

  void read_tokens() {
    const std::int64_t size = config_.get_int(
        config_.has("padded_vocab_size") ? "padded_vocab_size" : "vocab_size", 1, kMaxVocabulary);
    const JsonObject vocabulary = model_.child("vocab");
    for (const auto& [token, value] : vocabulary.json().items())
      place(vocabulary.get_int(token, 0, size - 1), token,
            byte_fallback_ && is_byte(token) ? kByte : kNormal);
    if (const std::string unknown = model_.get_string_or("unk_token", ""); ids_.contains(unknown))
      types_[static_cast<std::size_t>(ids_[unknown])] = kUnknown;
    if (tokenizer_.has("added_tokens")) {
      const Json& added = tokenizer_.at("added_tokens");
      if (!added.is_array()) reject("added_tokens to be an array");
      // As in Hugging Face's library, what is not in the vocabulary is numbered in the order of the
      // list, whatever id is listed with it.
      auto next = static_cast<std::int64_t>(vocabulary.json().size());
      for (const Json& entry : added) {
        const JsonObject token(entry, path_.string() + ": added_tokens");
        const std::string content = token.get_string("content");
        if (content.empty()) continue;
        const auto known = ids_.find(content);
        const std::int64_t id = tokenizer_.get_bool_or("added_tokens_keep_ids", false)
                                    ? token.get_int("id", 0, size - 1)
                                : known != ids_.end() ? known->second
                                                      : next++;
        if (id >= size)
          fail(ErrorCode::kFormat,
               "[gguf] {}: \"{}\": has id {}, expected less than vocab_size = {}", token.where(),
               printable(content), id, size);
        const bool unknown = id < static_cast<std::int64_t>(types_.size()) &&
                             types_[static_cast<std::size_t>(id)] == kUnknown;
        place(id, content,
              unknown                               ? kUnknown
              : token.get_bool_or("special", false) ? kControl
                                                    : kUserDefined);
      }
    }
    if (static_cast<std::int64_t>(tokens_.size()) < size)
      place(size - 1, fmt::format("[PAD{}]", size - 1), kUnused);
  }

  // Each merge as its two halves.
  std::vector<std::pair<std::string, std::string>> read_merges() const {
    const Json& list = model_.at("merges");
    std::vector<std::pair<std::string, std::string>> merges;
    for (const Json& merge : list) {
      if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
        continue;
      }
      const std::string text = merge.is_string() ? merge.get<std::string>() : "";
      const std::size_t space = text.find(' ', 1);
      if (space == std::string::npos)
        fail(ErrorCode::kFormat, "[gguf] {}: merges: entry {}: expected two tokens", path_.string(),
             merges.size());
      merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    }
    return merges;
  }

  void write_byte_level() {
    metadata_.add_string("tokenizer.ggml.model", "gpt2");
    metadata_.add_string("tokenizer.ggml.pre", find_splitter());
    std::vector<std::string> merges;
    for (const auto& [left, right] : read_merges())
      merges.push_back(fmt::format("{} {}", left, right));
    metadata_.add_strings("tokenizer.ggml.merges", merges);
  }

  // llama.cpp merges the pair whose result has the highest score: the negated rank of the merge.
  // Merging starts from single characters, so their scores don't matter.
  void write_sentencepiece() {
    metadata_.add_string("tokenizer.ggml.model", "llama");
    metadata_.add_string("tokenizer.ggml.pre", "default");
    std::vector<float> scores(tokens_.size(), 0);
    const auto merges = read_merges();
    for (std::size_t id = 0; id < tokens_.size(); ++id)
      if (types_[id] == kNormal) scores[id] = -static_cast<float>(merges.size() + id);
    for (std::size_t rank = merges.size(); rank-- > 0;) {
      const auto merged = ids_.find(merges[rank].first + merges[rank].second);
      if (merged != ids_.end())
        scores[static_cast<std::size_t>(merged->second)] = -static_cast<float>(rank);
    }
    metadata_.add_floats("tokenizer.ggml.scores", scores);
    metadata_.add_bool("tokenizer.ggml.add_space_prefix", adds_space());
  }

  // Whether a "▁" is put before the text: by a normalizer in old files, by a pre-tokenizer in new
  // ones.
  bool adds_space() const {
    bool found = false;
    for (const char* stage : {"normalizer", "pre_tokenizer"}) {
      for_each_stage(stage, [&](const JsonObject& part) {
        const std::string type = part.get_string_or("type", "");
        const std::string scheme = part.get_string_or("prepend_scheme", "");
        found = found || type == "Prepend" ||
                (type == "Metaspace" && (scheme == "first" || scheme == "always" ||
                                         part.get_bool_or("add_prefix_space", false)));
      });
    }
    return found;
  }

  template <typename Visit>
  void for_each_stage(const char* key, Visit visit) const {
    if (!tokenizer_.has(key)) return;
    const JsonObject stage = tokenizer_.child(key);
    for (const char* list : {"pretokenizers", "normalizers", "processors"}) {
      if (!stage.has(list) || !stage.at(list).is_array()) continue;
      for (const Json& part : stage.at(list)) visit(JsonObject(part, path_.string()));
    }
    visit(stage);
  }

  std::string find_splitter() const {
    std::string pattern;
    bool digits = false;
    bool byte_level = false;
    bool own_pattern = false;
    for_each_stage("pre_tokenizer", [&](const JsonObject& part) {
      const std::string type = part.get_string_or("type", "");
      if (type == "Split" && part.has("pattern"))
        pattern = part.child("pattern").get_string_or("Regex", "");
      digits = digits || (type == "Digits" && part.get_bool_or("individual_digits", false));
      byte_level = byte_level || type == "ByteLevel";
      own_pattern = own_pattern || (type == "ByteLevel" && part.get_bool_or("use_regex", true));
    });
    if (!byte_level) reject("byte-level or SentencePiece BPE");
    if (pattern.empty() && own_pattern) return digits ? "smollm" : "gpt-2";
    if (pattern == kLlama3Pattern)
      return model_.get_bool_or("ignore_merges", false) ? "llama-bpe" : "smaug-bpe";
    for (const Splitter& splitter : kSplitters)
      if (splitter.pattern == pattern) return std::string(splitter.name);
    reject(fmt::format("a pattern that llama.cpp knows, got \"{}\"", printable(pattern)));
  }

  // The id of a token named in tokenizer_config.json, as a string or as an object with "content";
  // else the first id given in config.json.
  std::optional<std::int64_t> special(const char* token_key, const char* id_key) const {
    if (settings_.is_object() && settings_.contains(token_key)) {
      const Json& value = settings_[token_key];
      const Json* content =
          value.is_object() && value.contains("content") ? &value["content"] : &value;
      if (content->is_string()) {
        const auto found = ids_.find(content->get<std::string>());
        if (found != ids_.end()) return found->second;
      }
    }
    if (!config_.has(id_key)) return std::nullopt;
    const auto ids = config_.get_ints(id_key);
    if (ids.empty() || ids[0] < 0 || ids[0] >= static_cast<std::int64_t>(tokens_.size()))
      return std::nullopt;
    return ids[0];
  }

  void write_special_tokens() {
    const auto put = [&](std::string_view key, std::optional<std::int64_t> id) {
      if (id) metadata_.add_uint32(key, static_cast<std::uint32_t>(*id));
    };
    const auto bos = special("bos_token", "bos_token_id");
    put("tokenizer.ggml.bos_token_id", bos);
    write_end_tokens();
    put("tokenizer.ggml.padding_token_id", special("pad_token", "pad_token_id"));
    if (const auto unknown = special("unk_token", ""); unknown && byte_fallback_)
      put("tokenizer.ggml.unknown_token_id", unknown);
    metadata_.add_bool("tokenizer.ggml.add_bos_token", adds_bos(bos));
    metadata_.add_bool("tokenizer.ggml.add_eos_token", false);
  }

  // The list is this library's and Ollama's, and exact. llama.cpp ends an answer at eos_token_id,
  // which chat templates read too, at two keys more, and at spellings that it knows.
  void write_end_tokens() {
    const auto eos = special("eos_token", "eos_token_id");
    if (eos) metadata_.add_uint32("tokenizer.ggml.eos_token_id", static_cast<std::uint32_t>(*eos));
    std::vector<std::int32_t> list;
    std::vector<std::string_view> keys = {"tokenizer.ggml.eom_token_id",
                                          "tokenizer.ggml.eot_token_id"};
    for (const std::int64_t id : ends_) {
      if (id < 0 || id >= static_cast<std::int64_t>(tokens_.size())) continue;
      list.push_back(static_cast<std::int32_t>(id));
      const std::string& token = tokens_[static_cast<std::size_t>(id)];
      if (id == eos || is_end_by_name(token)) continue;
      if (keys.empty()) {
        observer_.warn(fmt::format(
            "[gguf] llama.cpp will not end an answer at token {} (\"{}\"): it reads three end "
            "tokens from a file",
            id, printable(token)));
        continue;
      }
      metadata_.add_uint32(keys.back(), static_cast<std::uint32_t>(id));
      keys.pop_back();
    }
    metadata_.add_ints("tokenizer.ggml.eos_token_ids", list);
  }

  // True if the post-processor's template starts with the token.
  bool adds_bos(const std::optional<std::int64_t>& bos) const {
    bool found = false;
    for_each_stage("post_processor", [&](const JsonObject& part) {
      if (!part.has("single") || !part.at("single").is_array() || part.at("single").empty()) return;
      const Json& first = part.at("single").front();
      if (!first.is_object() || !first.contains("SpecialToken")) return;
      const auto id =
          ids_.find(JsonObject(first, path_.string()).child("SpecialToken").get_string("id"));
      found = found || (bos && id != ids_.end() && id->second == *bos);
    });
    return found;
  }

  void write_template() {
    std::string text;
    if (fs::exists(template_path_)) {
      text = read_text_file(template_path_);
    } else if (settings_.is_object() && settings_.contains("chat_template")) {
      const Json& value = settings_["chat_template"];
      if (value.is_string()) text = value.get<std::string>();
      // Several templates by name; chats use "default".
      if (value.is_array()) {
        for (const Json& entry : value)
          if (entry.is_object() && entry.contains("name") && entry["name"] == "default" &&
              entry.contains("template") && entry["template"].is_string())
            text = entry["template"].get<std::string>();
      }
    }
    if (!text.empty()) metadata_.add_string("tokenizer.chat_template", text);
  }

  GgufMetadata& metadata_;
  const fs::path path_;
  const Json json_;
  const JsonObject tokenizer_;
  const JsonObject model_;
  const JsonObject& config_;
  const Json settings_;
  const fs::path template_path_;
  const std::vector<std::int64_t> ends_;
  Observer& observer_;
  bool byte_fallback_ = false;
  std::vector<std::string> tokens_;
  std::vector<std::int32_t> types_;
  std::map<std::string, std::int64_t> ids_;
};

}  // namespace

void add_gguf_vocabulary(GgufMetadata& metadata, const fs::path& folder, const JsonObject& config,
                         std::vector<std::int64_t> ends, Observer& observer) {
  VocabularyWriter(metadata, folder, config, std::move(ends), observer).write();
}

}  // namespace tandem
