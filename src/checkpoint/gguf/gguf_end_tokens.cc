// The keys and the spellings that llama.cpp's vocabulary loader knows.
#include "checkpoint/gguf/gguf_end_tokens.h"

#include <algorithm>
#include <array>
#include <string>

namespace tandem {
namespace {

constexpr std::int64_t kMostIds = std::int64_t{1} << 40;  // the model's reader sets a closer bound

// After the first, the end of a text, those for the end of a turn, of a message, and of the parts
// of a repository in models that complete code.
constexpr std::array kKeys = {"eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep"};

constexpr std::array<std::string_view, 34> kSpellings = {"</s>",
                                                         "<EOT>",
                                                         "<PAD>",
                                                         "<REPO>",
                                                         "<end_of_turn>",
                                                         "<end_of_utterance>",
                                                         "<eos>",
                                                         "<fim-pad>",
                                                         "<fim-repo>",
                                                         "<fim_pad>",
                                                         "<reponame>",
                                                         "<turn|>",
                                                         "<|call|>",
                                                         "<|calls|>",
                                                         "<|end_of_text|>",
                                                         "<|end|>",
                                                         "<|endoftext|>",
                                                         "<|eom_id|>",
                                                         "<|eot_id|>",
                                                         "<|file_sep|>",
                                                         "<|fim_pad|>",
                                                         "<|fim_repo|>",
                                                         "<|flush|>",
                                                         "<|im_end|>",
                                                         "<|repo_name|>",
                                                         "<|return|>",
                                                         "<|tool_response>",
                                                         "[EOS]",
                                                         "[EOT]",
                                                         "[PAD]",
                                                         "[e~[",
                                                         "_<EOT>",
                                                         "\xE2\x96\x81<EOT>",
                                                         "<\xEF\xBD\x9C"
                                                         "end\xE2\x96\x81of\xE2\x96\x81sentence"
                                                         "\xEF\xBD\x9C>"};

class EndTokens {
 public:
  explicit EndTokens(const JsonObject& metadata) : metadata_(metadata) {}

  std::vector<std::int64_t> find() {
    for (const char* name : kKeys) {
      const std::string key = std::string("tokenizer.ggml.") + name + "_token_id";
      if (!metadata_.has(key)) continue;
      // -1, in any width, is no token; the model's reader says so.
      add(is_minus_one(metadata_.at(key)) ? -1 : metadata_.get_int(key, 0, kMostIds));
    }
    add_by_name();
    // Harmony's "<|end|>" ends a message of several in one answer, and so does Solar's.
    if ((has("<|call|>") || has("<|calls|>")) && (has("<|return|>") || has("<|flush|>")))
      drop("<|end|>");
    // Gemma 4 has this token from its predecessors, for the markup "</s>".
    if (has("<|tool_response>")) drop("</s>");
    return ids_;
  }

 private:
  void add(std::int64_t id) {
    if (std::ranges::find(ids_, id) == ids_.end()) ids_.push_back(id);
  }

  void add_by_name() {
    if (!metadata_.has("tokenizer.ggml.tokens")) return;
    tokens_ = &metadata_.at("tokenizer.ggml.tokens");
    if (!tokens_->is_array()) return;
    for (std::size_t id = 0; id < tokens_->size(); ++id) {
      const Json& token = (*tokens_)[id];
      // Of whatever type: files are found that call them ordinary tokens.
      if (token.is_string() && is_end_by_name(token.get_ref<const std::string&>()))
        add(static_cast<std::int64_t>(id));
    }
  }

  std::vector<std::int64_t>::iterator find(std::string_view spelling) {
    return std::ranges::find_if(ids_, [&](std::int64_t id) {
      if (tokens_ == nullptr || !tokens_->is_array()) return false;
      if (id < 0 || id >= static_cast<std::int64_t>(tokens_->size())) return false;
      return (*tokens_)[static_cast<std::size_t>(id)] == spelling;
    });
  }
  bool has(std::string_view spelling) { return find(spelling) != ids_.end(); }
  void drop(std::string_view spelling) {
    if (const auto found = find(spelling); found != ids_.end()) ids_.erase(found);
  }

  const JsonObject& metadata_;
  const Json* tokens_ = nullptr;
  std::vector<std::int64_t> ids_;
};

}  // namespace

bool is_minus_one(const Json& value) {
  if (!value.is_number_integer()) return false;
  return value.is_number_unsigned() ? value.get<std::uint64_t>() == UINT64_MAX
                                    : value.get<std::int64_t>() == -1;
}

bool is_end_by_name(std::string_view token) {
  return std::ranges::find(kSpellings, token) != kSpellings.end();
}

std::optional<std::vector<std::int64_t>> gguf_end_tokens(const JsonObject& metadata) {
  if (metadata.has("tokenizer.ggml.eos_token_ids"))
    return metadata.get_ints("tokenizer.ggml.eos_token_ids");
  std::vector<std::int64_t> ids = EndTokens(metadata).find();
  if (ids.empty()) return std::nullopt;
  return ids;
}

}  // namespace tandem
