// One class per normalizer of tokenizer.json, and the table of their names.
#include "text/normalizer.h"

#include <utility>
#include <vector>

#include "text/pattern.h"
#include "text/tokenizer_json.h"
#include "text/unicode_forms.h"

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
  if (type == "Sequence") return std::make_unique<SequenceNormalizer>(config);
  fail_unknown_component(config, "normalizer");
}

}  // namespace tandem
