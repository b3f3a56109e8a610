// One sink per decoder of tokenizer.json, and the table of their names.
#include "text/tokenizer/decoder.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>
#include <vector>

#include "text/tokenizer/byte_level.h"
#include "text/tokenizer/metaspace.h"
#include "text/tokenizer/pattern.h"
#include "text/tokenizer/tokenizer_json.h"
#include "text/tokenizer/unicode.h"

namespace tandem {
namespace {

// A decoder whose sinks are of type Sink, constructed from the decoder's settings and the next
// sink.
template <typename Sink, typename... Settings>
class SinkDecoder : public Decoder {
 public:
  explicit SinkDecoder(Settings... settings) : settings_(std::move(settings)...) {}
  std::unique_ptr<TokenSink> start(TokenSink& next) const override {
    return std::apply(
        [&](const auto&... settings) { return std::make_unique<Sink>(next, settings...); },
        settings_);
  }

 private:
  std::tuple<Settings...> settings_;
};

// Collects the parts of a token.
class WholeTokenSink : public TokenSink {
 public:
  explicit WholeTokenSink(TokenSink& next) : next_(next) {}
  void text(std::string_view part) override { token_.append(part); }
  void end_token() override {
    take(token_);
    token_.clear();
  }
  void finish() override { next_.finish(); }

 protected:
  virtual void take(std::string& token) = 0;
  void pass_token(std::string_view token) {
    next_.text(token);
    next_.end_token();
  }
  TokenSink& next_;

 private:
  std::string token_;
};

// Joins all tokens into one token of the bytes they represent.
class ByteLevelSink : public WholeTokenSink {
 public:
  using WholeTokenSink::WholeTokenSink;
  void finish() override {
    std::string out;
    utf8_.finish(out);
    next_.text(out);
    next_.end_token();
    next_.finish();
  }

 protected:
  void take(std::string& token) override {
    std::string bytes;
    append_byte_level_decoded(token, bytes);
    std::string out;
    utf8_.put(bytes, out);
    if (!out.empty()) next_.text(out);
  }

 private:
  LossyUtf8 utf8_;
};

class FuseSink : public TokenSink {
 public:
  explicit FuseSink(TokenSink& next) : next_(next) {}
  void text(std::string_view part) override { next_.text(part); }
  void end_token() override {}
  void finish() override {
    next_.end_token();
    next_.finish();
  }

 private:
  TokenSink& next_;
};

class JoiningSink : public TokenSink {
 public:
  explicit JoiningSink(TokenSink& next) : next_(next) {}
  void text(std::string_view part) override {
    if (std::exchange(space_due_, false)) next_.text(" ");
    next_.text(part);
  }
  void end_token() override {
    if (std::exchange(space_due_, true)) next_.text(" ");  // that token was empty
    next_.end_token();
  }
  void finish() override { next_.finish(); }

 private:
  TokenSink& next_;
  bool space_due_ = false;
};

class ReplaceSink : public WholeTokenSink {
 public:
  ReplaceSink(TokenSink& next, const std::shared_ptr<const Pattern>& pattern,
              std::string_view content)
      : WholeTokenSink(next), pattern_(*pattern), content_(content) {}

 protected:
  void take(std::string& token) override {
    replace_all(pattern_, content_, token);
    pass_token(token);
  }

 private:
  const Pattern& pattern_;
  std::string_view content_;
};

// Replaces the end-of-word suffix, usually "</w>", by a space; in the last token it is removed.
class SuffixSink : public WholeTokenSink {
 public:
  SuffixSink(TokenSink& next, const std::string& suffix)
      : WholeTokenSink(next), suffix_(Pattern::literal(suffix)) {}
  void finish() override {
    if (held_) pass("");
    next_.finish();
  }

 protected:
  void take(std::string& token) override {
    if (held_) pass(" ");
    held_ = std::move(token);
  }

 private:
  void pass(std::string_view replacement) {
    replace_all(suffix_, replacement, *held_);
    pass_token(*held_);
  }

  Pattern suffix_;
  // The token before the current one.
  std::optional<std::string> held_;
};

// Replaces "<0xE4>" by a byte. A run of bytes becomes text if it is entirely valid UTF-8, otherwise
// one U+FFFD per byte, so nothing of a run is certain before it ends.
class ByteFallbackSink : public WholeTokenSink {
 public:
  using WholeTokenSink::WholeTokenSink;
  void finish() override {
    flush();
    next_.finish();
  }

 protected:
  void take(std::string& token) override {
    unsigned byte = 0;
    if (token.size() == 6 && token.starts_with("<0x") && token.ends_with('>')) {
      const char* end = token.data() + 5;
      const auto result = std::from_chars(token.data() + 3, end, byte, 16);
      if (result.ec == std::errc() && result.ptr == end) {
        bytes_.push_back(static_cast<char>(byte));
        return;
      }
    }
    flush();
    pass_token(token);
  }

 private:
  void flush() {
    if (bytes_.empty()) return;
    if (is_valid_utf8(bytes_)) {
      pass_token(bytes_);
    } else {
      for (std::size_t i = 0; i < bytes_.size(); ++i) pass_token("\xEF\xBF\xBD");
    }
    bytes_.clear();
  }

  std::string bytes_;
};

// Removes up to `start` and `stop` occurrences of a character from the ends of every token.
class StripSink : public TokenSink {
 public:
  StripSink(TokenSink& next, char32_t content, std::size_t start, std::size_t stop)
      : next_(next), start_(start), stop_(stop), left_(start) {
    append_utf8(content, content_);
  }

  void text(std::string_view part) override {
    while (left_ > 0 && !part.empty()) {
      if (!part.starts_with(content_)) {
        left_ = 0;
        break;
      }
      part.remove_prefix(content_.size());
      --left_;
    }
    if (part.empty()) return;
    // Characters at the end of the token that may have to be removed are held back.
    std::size_t run = 0;
    std::string_view body = part;
    for (; body.ends_with(content_); ++run) body.remove_suffix(content_.size());
    if (!body.empty()) {
      release(held_);
      next_.text(body);
    }
    held_ += run;
    if (held_ > stop_) release(held_ - stop_);
  }

  void end_token() override {
    held_ = 0;
    left_ = start_;
    next_.end_token();
  }
  void finish() override { next_.finish(); }

 private:
  void release(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) next_.text(content_);
    held_ -= count;
  }

  TokenSink& next_;
  std::string content_;
  std::size_t start_;
  std::size_t stop_;
  // Still to be removed at the start of this token.
  std::size_t left_;
  // Number of such characters at the end of the token so far.
  std::size_t held_ = 0;
};

// Replaces the replacement character, usually U+2581, by a space; in the first token it is removed
// if one was prepended to the text.
class MetaspaceSink : public TokenSink {
 public:
  MetaspaceSink(TokenSink& next, char32_t replacement, bool prepended)
      : next_(next), drops_(prepended) {
    append_utf8(replacement, replacement_);
  }
  void text(std::string_view part) override {
    std::string out;
    for (std::size_t at = 0; at < part.size();) {
      if (part.substr(at).starts_with(replacement_)) {
        if (!drops_) out.push_back(' ');
        at += replacement_.size();
      } else {
        const std::size_t begin = at;
        next_character(part, at);
        out.append(part, begin, at - begin);
      }
    }
    next_.text(out);
  }
  void end_token() override {
    drops_ = false;
    next_.end_token();
  }
  void finish() override { next_.finish(); }

 private:
  TokenSink& next_;
  std::string replacement_;
  bool drops_;
};

// A chain of sinks as a single one.
class ChainSink : public TokenSink {
 public:
  ChainSink(TokenSink& last, const std::vector<std::unique_ptr<Decoder>>& parts) : first_(&last) {
    for (auto it = parts.rbegin(); it != parts.rend(); ++it) {
      sinks_.push_back((*it)->start(*first_));
      first_ = sinks_.back().get();
    }
  }
  void text(std::string_view part) override { first_->text(part); }
  void end_token() override { first_->end_token(); }
  void finish() override { first_->finish(); }

 private:
  std::vector<std::unique_ptr<TokenSink>> sinks_;
  TokenSink* first_;
};

class SequenceDecoder : public Decoder {
 public:
  explicit SequenceDecoder(const JsonObject& config) {
    for (const JsonObject& part : get_objects(config, "decoders"))
      parts_.push_back(make_decoder(part));
  }
  std::unique_ptr<TokenSink> start(TokenSink& next) const override {
    return std::make_unique<ChainSink>(next, parts_);
  }

 private:
  std::vector<std::unique_ptr<Decoder>> parts_;
};

std::unique_ptr<Decoder> make_replace(const JsonObject& config) {
  using Shared = std::shared_ptr<const Pattern>;
  return std::make_unique<SinkDecoder<ReplaceSink, Shared, std::string>>(
      std::make_shared<const Pattern>(Pattern::from_json(config, "pattern")),
      config.get_string("content"));
}

std::unique_ptr<Decoder> make_strip(const JsonObject& config) {
  constexpr std::int64_t kMost = 1 << 20;
  return std::make_unique<SinkDecoder<StripSink, char32_t, std::size_t, std::size_t>>(
      get_character(config, "content"), static_cast<std::size_t>(config.get_int("start", 0, kMost)),
      static_cast<std::size_t>(config.get_int("stop", 0, kMost)));
}

std::unique_ptr<Decoder> make_metaspace(const JsonObject& config) {
  const Metaspace settings = Metaspace::from_json(config);
  return std::make_unique<SinkDecoder<MetaspaceSink, char32_t, bool>>(
      settings.replacement, settings.prepend != Metaspace::Prepend::kNever);
}

}  // namespace

std::unique_ptr<Decoder> make_decoder(const JsonObject& config) {
  const std::string type = component_type(config);
  if (type == "ByteLevel") return std::make_unique<SinkDecoder<ByteLevelSink>>();
  if (type == "Fuse") return std::make_unique<SinkDecoder<FuseSink>>();
  if (type == "ByteFallback") return std::make_unique<SinkDecoder<ByteFallbackSink>>();
  if (type == "Replace") return make_replace(config);
  if (type == "Strip") return make_strip(config);
  if (type == "Metaspace") return make_metaspace(config);
  if (type == "BPEDecoder") {
    return std::make_unique<SinkDecoder<SuffixSink, std::string>>(
        config.get_string_or("suffix", "</w>"));
  }
  if (type == "Sequence") return std::make_unique<SequenceDecoder>(config);
  fail_unknown_component(config, "decoder");
}

std::unique_ptr<Decoder> make_joining_decoder() {
  return std::make_unique<SinkDecoder<JoiningSink>>();
}

}  // namespace tandem
