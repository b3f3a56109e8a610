// One class per normalizer of tokenizer.json, and the table of their names.
#include "text/tokenizer/normalizer.h"

#include <utility>
#include <vector>

#include "text/tokenizer/byte_level.h"
#include "text/tokenizer/normalizer_sentencepiece.h"
#include "text/tokenizer/pattern.h"
#include "text/tokenizer/tokenizer_json.h"
#include "text/tokenizer/unicode.h"
#include "text/tokenizer/unicode_forms.h"

namespace tandem {
namespace {

class FormNormalizer : public Normalizer {
 public:
  explicit FormNormalizer(UnicodeForm form) : form_(form) {}
  void apply(std::string& text) const override { normalize_unicode(text, form_); }

 private:
  UnicodeForm form_;
};

class PrependNormalizer : public Normalizer {
 public:
  explicit PrependNormalizer(std::string prefix) : prefix_(std::move(prefix)) {}
  void apply(std::string& text) const override {
    if (!text.empty()) text.insert(0, prefix_);
  }

 private:
  std::string prefix_;
};

class StripNormalizer : public Normalizer {
 public:
  explicit StripNormalizer(const JsonObject& config)
      : left_(config.get_bool("strip_left")), right_(config.get_bool("strip_right")) {}
  void apply(std::string& text) const override {
    if (right_) text.resize(skip_white_space_back(text, 0, text.size()));
    if (left_) text.erase(0, skip_white_space(text, 0));
  }

 private:
  bool left_;
  bool right_;
};

// Rewrites a text character by character: `Append` is void(char32_t, std::string& out).
template <auto kAppend>
class CharacterNormalizer : public Normalizer {
 public:
  void apply(std::string& text) const override {
    std::string out;
    out.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) kAppend(next_character(text, at), out);
    text = std::move(out);
  }
};

void append_unless_mark(char32_t code, std::string& out) {
  if (!is_mark(code)) append_utf8(code, out);
}

// What the trainer of translation models treats as white space, and what it removes.
void append_nmt(char32_t code, std::string& out) {
  const auto between = [&](char32_t low, char32_t high) { return code >= low && code <= high; };
  if (between(0x01, 0x08) || code == 0x0B || between(0x0E, 0x1F) || code == 0x7F || code == 0x8F ||
      code == 0x9F) {
    return;
  }
  const bool space = code == 0x09 || code == 0x0A || code == 0x0C || code == 0x0D ||
                     code == 0x1680 || between(0x200B, 0x200F) || code == 0x2028 ||
                     code == 0x2029 || code == 0x2581 || code == 0xFEFF || code == 0xFFFD;
  append_utf8(space ? U' ' : code, out);
}

class ByteLevelNormalizer : public Normalizer {
 public:
  void apply(std::string& text) const override {
    std::string out;
    append_byte_level(text, out);
    text = std::move(out);
  }
};

class ReplaceNormalizer : public Normalizer {
 public:
  ReplaceNormalizer(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(std::string& text) const override { replace_all(pattern_, content_, text); }

 private:
  Pattern pattern_;
  std::string content_;
};

class SequenceNormalizer : public Normalizer {
 public:
  explicit SequenceNormalizer(const JsonObject& config) {
    for (const JsonObject& part : get_objects(config, "normalizers")) {
      parts_.push_back(make_normalizer(part));
    }
  }
  void apply(std::string& text) const override {
    for (const auto& part : parts_) part->apply(text);
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> parts_;
};

}  // namespace

std::unique_ptr<Normalizer> make_normalizer(const JsonObject& config) {
  const std::string type = component_type(config);
  if (type == "NFC") return std::make_unique<FormNormalizer>(UnicodeForm::kNfc);
  if (type == "NFD") return std::make_unique<FormNormalizer>(UnicodeForm::kNfd);
  if (type == "NFKC") return std::make_unique<FormNormalizer>(UnicodeForm::kNfkc);
  if (type == "NFKD") return std::make_unique<FormNormalizer>(UnicodeForm::kNfkd);
  if (type == "Prepend") return std::make_unique<PrependNormalizer>(config.get_string("prepend"));
  if (type == "Replace") {
    return std::make_unique<ReplaceNormalizer>(Pattern::from_json(config, "pattern"),
                                               config.get_string("content"));
  }
  if (type == "Strip") return std::make_unique<StripNormalizer>(config);
  if (type == "StripAccents") return std::make_unique<CharacterNormalizer<append_unless_mark>>();
  if (type == "Lowercase") return std::make_unique<CharacterNormalizer<append_lower>>();
  if (type == "Nmt") return std::make_unique<CharacterNormalizer<append_nmt>>();
  if (type == "ByteLevel") return std::make_unique<ByteLevelNormalizer>();
  if (type == "Precompiled") return make_precompiled_normalizer(config);
  if (type == "SentencePiece") return make_sentencepiece_normalizer(config);
  if (type == "Sequence") return std::make_unique<SequenceNormalizer>(config);
  fail_unknown_component(config, "normalizer");
}

}  // namespace tandem
