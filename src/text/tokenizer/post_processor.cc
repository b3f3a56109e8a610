// One class per post-processor of tokenizer.json, and the table of their names. Only single texts
// are encoded here, so the templates for pairs are not read.
#include "text/tokenizer/post_processor.h"

#include <optional>

#include "base/error.h"
#include "text/tokenizer/tokenizer_json.h"

namespace tandem {
namespace {

// The maximum number of tokens added to one text; templates in use add one or two.
constexpr std::size_t kMaxAdded = 1024;

TokenId get_known_id(const Json& json, const std::string& place, std::int64_t vocabulary_size) {
  const TokenId id = expect_token_id(json, place);
  if (id >= vocabulary_size) {
    fail(ErrorCode::kFormat,
         "[tokenizer] {}: expected an id below {}, the size of the vocabulary, got {}", place,
         vocabulary_size, id);
  }
  return id;
}

// ByteLevel only trims offsets, which are not reported here.
class NoPostProcessor : public PostProcessor {
 public:
  void add_special_tokens(std::vector<TokenId>&) const override {}
};

// Tokens before and after the text.
class AroundPostProcessor : public PostProcessor {
 public:
  AroundPostProcessor(std::vector<TokenId> before, std::vector<TokenId> behind)
      : before_(std::move(before)), behind_(std::move(behind)) {}

  void add_special_tokens(std::vector<TokenId>& ids) const override {
    ids.insert(ids.begin(), before_.begin(), before_.end());
    ids.insert(ids.end(), behind_.begin(), behind_.end());
  }

 private:
  std::vector<TokenId> before_;
  std::vector<TokenId> behind_;
};

class SequencePostProcessor : public PostProcessor {
 public:
  explicit SequencePostProcessor(std::vector<std::unique_ptr<PostProcessor>> parts)
      : parts_(std::move(parts)) {}
  void add_special_tokens(std::vector<TokenId>& ids) const override {
    for (const auto& part : parts_) part->add_special_tokens(ids);
  }

 private:
  std::vector<std::unique_ptr<PostProcessor>> parts_;
};

// {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}, …}
void append_template_token(const JsonObject& config, const std::string& name,
                           std::int64_t vocabulary_size, std::vector<TokenId>& ids) {
  const JsonObject token = config.child("special_tokens").child(name);
  const Json& values = token.at("ids");
  const std::string place = key_place(token, "ids");
  if (!values.is_array() || values.size() > kMaxAdded) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: expected an array of at most {} token ids, got {}",
         place, kMaxAdded, describe(values));
  }
  for (const Json& value : values) ids.push_back(get_known_id(value, place, vocabulary_size));
}

std::unique_ptr<PostProcessor> make_template(const JsonObject& config,
                                             std::int64_t vocabulary_size) {
  std::vector<TokenId> around[2];
  bool text_seen = false;
  for (const JsonObject& piece : get_objects(config, "single")) {
    if (piece.has("SpecialToken")) {
      const std::string name = piece.child("SpecialToken").get_string("id");
      append_template_token(config, name, vocabulary_size, around[text_seen ? 1 : 0]);
    } else if (piece.has("Sequence") && piece.child("Sequence").get_string("id") == "A" &&
               !text_seen) {
      text_seen = true;
    } else {
      fail(ErrorCode::kFormat, "[tokenizer] {}: expected a SpecialToken, or Sequence \"A\" once",
           piece.where());
    }
    if (around[0].size() + around[1].size() > kMaxAdded) {
      fail(ErrorCode::kFormat, "[tokenizer] {}: expected at most {} special tokens", piece.where(),
           kMaxAdded);
    }
  }
  if (!text_seen) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: expected a Sequence \"A\"",
         key_place(config, "single"));
  }
  return std::make_unique<AroundPostProcessor>(std::move(around[0]), std::move(around[1]));
}

// "cls": ["<s>", 0]
TokenId get_named_id(const JsonObject& config, std::string_view key, std::int64_t vocabulary_size) {
  const Json& json = config.at(key);
  if (!json.is_array() || json.size() != 2) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: expected [token, id], got {}", key_place(config, key),
         describe(json));
  }
  return get_known_id(json[1], key_place(config, key), vocabulary_size);
}

std::unique_ptr<PostProcessor> make_sequence(const JsonObject& config,
                                             std::int64_t vocabulary_size) {
  std::vector<std::unique_ptr<PostProcessor>> parts;
  for (const JsonObject& part : get_objects(config, "processors")) {
    parts.push_back(make_post_processor(part, vocabulary_size));
  }
  return std::make_unique<SequencePostProcessor>(std::move(parts));
}

}  // namespace

std::unique_ptr<PostProcessor> make_post_processor(const JsonObject& config,
                                                   std::int64_t vocabulary_size) {
  const std::string type = component_type(config);
  if (type == "ByteLevel") return std::make_unique<NoPostProcessor>();
  if (type == "TemplateProcessing") return make_template(config, vocabulary_size);
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    return std::make_unique<AroundPostProcessor>(
        std::vector<TokenId>{get_named_id(config, "cls", vocabulary_size)},
        std::vector<TokenId>{get_named_id(config, "sep", vocabulary_size)});
  }
  if (type == "Sequence") return make_sequence(config, vocabulary_size);
  fail_unknown_component(config, "post-processor");
}

}  // namespace tandem
