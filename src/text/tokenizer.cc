// The pipeline: added tokens, normalizer, pre-tokenizer, model, post-processor; and the decoder
// back.
#include "text/tokenizer.h"

#include <algorithm>
#include <system_error>

#include "base/error.h"
#include "text/tokenizer_json.h"
#include "text/tokenizer_stages.h"

namespace tandem {
namespace {

// Places in a text and counts of its symbols are kept in 32 bits here and there, with room for
// stages that make it longer.
constexpr std::size_t kMaxTextBytes = std::size_t{256} << 20;

template <typename Make>
auto make_if_present(const JsonObject& root, std::string_view key, Make make)
    -> decltype(make(root)) {
  if (!root.has(key)) return nullptr;
  return make(root.child(key));
}

// One encode() call: working memory, and the ids so far.
class Encoding {
 public:
  Encoding(const TokenizerStages& stages, bool parse_special)
      : stages_(stages), parse_special_(parse_special), encoder_(stages.model->start()) {}

  std::vector<TokenId> run(std::string_view text) {
    for (const AddedTokenPart& part : stages_.added.split(text, false, parse_special_)) {
      if (part.token) {
        ids_.push_back(*part.token);
      } else {
        add_raw(part.range.of(text), part.range.begin == 0);
      }
    }
    return std::move(ids_);
  }

 private:
  // Text between added tokens, not yet normalized.
  void add_raw(std::string_view text, bool at_start) {
    std::string normalized(text);
    if (stages_.normalizer) stages_.normalizer->apply(normalized);
    for (const AddedTokenPart& part : stages_.added.split(normalized, true, parse_special_)) {
      if (part.token) {
        ids_.push_back(*part.token);
      } else {
        add_normalized(part.range.of(normalized), at_start && part.range.begin == 0);
      }
    }
  }

  void add_normalized(std::string_view text, bool at_start) {
    PieceList list{std::string(text), {{0, text.size()}}, at_start};
    if (stages_.pre_tokenizer) stages_.pre_tokenizer->apply(list);
    for (const TextRange& piece : list.pieces) encoder_->encode(piece.of(list.text), ids_);
  }

  const TokenizerStages& stages_;
  bool parse_special_;
  std::unique_ptr<PieceEncoder> encoder_;
  std::vector<TokenId> ids_;
};

// The end of a decoder's chain.
class StringSink : public TokenSink {
 public:
  void text(std::string_view part) override { out.append(part); }
  void end_token() override {}
  void finish() override {}
  std::string out;
};

}  // namespace

// "truncation" and "padding" of the file are not read: they are settings of the program that saved
// it, and the reference's callers override them too.
TokenizerStages::TokenizerStages(const JsonObject& root)
    : normalizer(make_if_present(root, "normalizer", make_normalizer)),
      pre_tokenizer(make_if_present(root, "pre_tokenizer", make_pre_tokenizer)),
      model(make_token_model(root.child("model"))),
      added(root, model->vocabulary(), normalizer.get()),
      size(std::max(model->vocabulary().highest_id(), added.highest_id()) + std::int64_t{1}),
      post_processor(make_if_present(
          root, "post_processor",
          [&](const JsonObject& config) { return make_post_processor(config, size); })),
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
  // A model's output may be wider than its vocabulary; such ids say nothing, as in the reference.
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

Tokenizer Tokenizer::open(const fs::path& path) {
  std::error_code ignored;
  const fs::path file = fs::is_directory(path, ignored) ? path / "tokenizer.json" : path;
  const Json json = read_json_file(file);
  return Tokenizer(std::make_unique<const Impl>(JsonObject(json, file.string())));
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  if (text.size() > kMaxTextBytes) {
    fail(ErrorCode::kInvalidArgument, "[tokenizer] text of {} bytes, expected at most {}",
         text.size(), kMaxTextBytes);
  }
  std::string repaired;
  if (!is_valid_utf8(text)) {
    repaired = replace_invalid_utf8(text);
    text = repaired;
  }
  std::vector<TokenId> ids = Encoding(*impl_, options.parse_special_tokens).run(text);
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
