// The pipeline: added tokens, normalizer, pre-tokenizer, model, post-processor; and the decoder for
// the reverse.
#include "text/tokenizer/tokenizer.h"

#include <algorithm>

#include "base/error.h"
#include "text/tokenizer/tokenizer_files.h"
#include "text/tokenizer/tokenizer_json.h"
#include "text/tokenizer/tokenizer_stages.h"

namespace tandem {
namespace {

// Some stages store positions and symbol counts in 32 bits; leaves room for stages that make the
// text longer.
constexpr std::size_t kMaxTextBytes = std::size_t{256} << 20;

template <typename Make>
auto make_if_present(const JsonObject& root, std::string_view key, Make make)
    -> decltype(make(root)) {
  if (!root.has(key)) return nullptr;
  return make(root.child(key));
}

// The parts of `spans` within `range`, relative to its beginning.
std::vector<TextSpan> spans_within(std::span<const TextSpan> spans, const TextSpan& range) {
  std::vector<TextSpan> within;
  for (const TextSpan& span : spans) {
    const TextSpan part{std::max(span.begin, range.begin), std::min(span.end, range.end)};
    if (part.begin < part.end) within.push_back({part.begin - range.begin, part.end - range.begin});
  }
  return within;
}

// One encode() call: working memory, and the ids so far.
class Encoding {
 public:
  Encoding(const TokenizerStages& stages, const AddedTokenRules& rules)
      : stages_(stages), rules_(rules), encoder_(stages.model->start()) {}

  std::vector<TokenId> run(std::string_view text) {
    for (const AddedTokenPart& part : stages_.added.split(text, false, rules_)) {
      if (part.token) {
        ids_.push_back(*part.token);
      } else {
        add_raw(part.range.of(text), part.range);
      }
    }
    return std::move(ids_);
  }

 private:
  // Adds text between added tokens, not yet normalized; `range` is its position in the whole text.
  void add_raw(std::string_view text, const TextSpan& range) {
    std::string normalized(text);
    if (stages_.normalizer) stages_.normalizer->apply(normalized);
    AddedTokenRules rules{rules_.parse_special, {}};
    std::vector<TextSpan> plain;
    if (!rules_.plain.empty() && stages_.added.normalizes_control()) {
      plain = normalized_spans(text, spans_within(rules_.plain, range), normalized);
      rules.plain = plain;
    }
    for (const AddedTokenPart& part : stages_.added.split(normalized, true, rules)) {
      if (part.token) {
        ids_.push_back(*part.token);
      } else {
        add_normalized(part.range.of(normalized), range.begin == 0 && part.range.begin == 0);
      }
    }
  }

  // Maps the spans of `text` to their positions after normalization: if the normalized text before
  // a boundary is a prefix of the whole normalized text, its end is the boundary. Otherwise (a
  // combining mark that joins a character across the boundary) all of the text counts as untrusted,
  // to be safe.
  std::vector<TextSpan> normalized_spans(std::string_view text, std::vector<TextSpan> spans,
                                         const std::string& normalized) const {
    if (!stages_.normalizer) return spans;
    bool certain = true;
    const auto moved = [&](std::size_t border) {
      std::string before(text.substr(0, border));
      stages_.normalizer->apply(before);
      certain = certain && normalized.starts_with(before);
      return before.size();
    };
    for (TextSpan& span : spans) span = {moved(span.begin), moved(span.end)};
    if (!certain) return {{0, normalized.size()}};
    std::erase_if(spans, [](const TextSpan& span) { return span.size() == 0; });
    return spans;
  }

  void add_normalized(std::string_view text, bool at_start) {
    PieceList list{std::string(text), {{0, text.size()}}, at_start};
    if (stages_.pre_tokenizer) stages_.pre_tokenizer->apply(list);
    for (const TextSpan& piece : list.pieces) encoder_->encode(piece.of(list.text), ids_);
  }

  const TokenizerStages& stages_;
  const AddedTokenRules& rules_;
  std::unique_ptr<PieceEncoder> encoder_;
  std::vector<TokenId> ids_;
};

// Drops empty spans. Throws kInvalidArgument unless they are ascending, disjoint and within a text
// of `size` bytes.
std::vector<TextSpan> checked_spans(std::span<const TextSpan> spans, std::size_t size) {
  std::vector<TextSpan> checked;
  std::size_t done = 0;
  for (const TextSpan& span : spans) {
    if (span.begin < done || span.end < span.begin || span.end > size) {
      fail(ErrorCode::kInvalidArgument,
           "[tokenizer] plain text at bytes {} to {}: expected spans in order within {} bytes",
           span.begin, span.end, size);
    }
    done = span.end;
    if (span.size() > 0) checked.push_back(span);
  }
  return checked;
}

// Returns `text` with invalid UTF-8 replaced, and moves `spans` accordingly.
std::string repair(std::string_view text, std::vector<TextSpan>& spans) {
  std::string repaired;
  std::size_t done = 0;
  const auto append = [&](std::size_t end) {
    repaired += replace_invalid_utf8(text.substr(done, end - done));
    done = end;
    return repaired.size();
  };
  for (TextSpan& span : spans) {
    const std::size_t begin = append(span.begin);
    span = {begin, append(span.end)};
  }
  append(text.size());
  return repaired;
}

// The end of a decoder chain.
class StringSink : public TokenSink {
 public:
  void text(std::string_view part) override { out.append(part); }
  void end_token() override {}
  void finish() override {}
  std::string out;
};

}  // namespace

// "truncation" and "padding" of the file are ignored: they are settings of the program that saved
// it, and callers of the reference override them too.
TokenizerStages::TokenizerStages(const JsonObject& root)
    : normalizer(make_if_present(root, "normalizer", make_normalizer)),
      pre_tokenizer(make_if_present(root, "pre_tokenizer", make_pre_tokenizer)),
      model(make_token_model(root.child("model"))),
      added(root, model->vocabulary(), normalizer.get()),
      size(std::max(model->vocabulary().highest_id(), added.highest_id()) + std::int64_t{1}),
      post_processor(make_if_present(
          root, "post_processor",
          [&](const JsonObject& config) {
            // A template adds the ids that it lists, which may be those of tokens with another id.
            return make_post_processor(config,
                                       std::max(size, added.highest_listed_id() + std::int64_t{1}));
          })),
      decoder(make_if_present(root, "decoder", make_decoder)) {
  if (!decoder) decoder = make_joining_decoder();
}

std::optional<std::string_view> TokenizerStages::token_text(TokenId id) const noexcept {
  if (const AddedToken* token = added.find(id)) return token->content;
  return model->vocabulary().token(id);
}

void TokenizerStages::put(TokenId id, bool skip_special_tokens, TokenSink& sink) const {
  const AddedToken* token = added.find(id);
  if (token != nullptr && token->special && skip_special_tokens) return;
  // A model's output may be wider than its vocabulary; ids beyond it decode to nothing, as in the
  // reference.
  const std::optional<std::string_view> text = token_text(id);
  if (!text) return;
  sink.text(*text);
  sink.end_token();
}

struct Tokenizer::Impl : TokenizerStages {
  using TokenizerStages::TokenizerStages;
};

Tokenizer::Tokenizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::open(const fs::path& path, Observer& observer, const fs::path& merges) {
  const fs::path file = find_tokenizer(path);
  const Json json = read_tokenizer(file, observer, merges);
  return Tokenizer(std::make_unique<const Impl>(JsonObject(json, file.string())));
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  if (text.size() > kMaxTextBytes) {
    fail(ErrorCode::kInvalidArgument, "[tokenizer] text of {} bytes, expected at most {}",
         text.size(), kMaxTextBytes);
  }
  std::vector<TextSpan> plain = checked_spans(options.plain, text.size());
  std::string repaired;
  if (!is_valid_utf8(text)) {
    repaired = repair(text, plain);
    text = repaired;
  }
  const AddedTokenRules rules{options.parse_special_tokens, plain};
  std::vector<TokenId> ids = Encoding(*impl_, rules).run(text);
  if (options.add_special_tokens && impl_->post_processor) {
    impl_->post_processor->add_special_tokens(ids);
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special_tokens) const {
  StringSink sink;
  const std::unique_ptr<TokenSink> decoder = impl_->decoder->start(sink);
  for (const TokenId id : ids) impl_->put(id, skip_special_tokens, *decoder);
  decoder->finish();
  return std::move(sink.out);
}

std::int64_t Tokenizer::vocabulary_size() const noexcept { return impl_->size; }

std::optional<TokenId> Tokenizer::token_to_id(std::string_view token) const {
  if (const AddedToken* added = impl_->added.find(token)) return added->id;
  return impl_->model->vocabulary().find(token);
}

std::string Tokenizer::id_to_token(TokenId id) const {
  if (id < 0 || id >= impl_->size) {
    fail(ErrorCode::kInvalidArgument, "[tokenizer] token id {}, expected one in [0, {})", id,
         impl_->size);
  }
  return std::string(impl_->token_text(id).value_or(""));
}

bool Tokenizer::is_special(TokenId id) const noexcept {
  const AddedToken* token = impl_->added.find(id);
  return token != nullptr && token->special;
}

struct TokenStream::State {
  State(const TokenizerStages& tokenizer, bool skip)
      : stages(tokenizer), skip_special_tokens(skip), decoder(tokenizer.decoder->start(sink)) {}

  std::string take() { return std::exchange(sink.out, {}); }

  const TokenizerStages& stages;
  bool skip_special_tokens;
  StringSink sink;
  std::unique_ptr<TokenSink> decoder;
};

TokenStream::TokenStream(const Tokenizer& tokenizer, bool skip_special_tokens)
    : state_(std::make_unique<State>(*tokenizer.impl_, skip_special_tokens)) {}
TokenStream::~TokenStream() = default;

std::string TokenStream::put(TokenId id) {
  state_->stages.put(id, state_->skip_special_tokens, *state_->decoder);
  return state_->take();
}

std::string TokenStream::finish() {
  state_->decoder->finish();
  return state_->take();
}

}  // namespace tandem
