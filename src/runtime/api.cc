// The public C++ API, built on LocalModel and complete().
#include "base/version.h"
#include "runtime/complete.h"
#include "runtime/local_model.h"
#include "tandem/tandem.hpp"

namespace tandem {

const char* version() noexcept { return build_version().data(); }

struct Model::Impl {
  std::unique_ptr<LocalModel> model;

  GenerateResult complete_ids(const std::vector<TokenId>& ids, const GenerateOptions& options,
                              const OnText& on_text) const {
    SearchOptions search = with_settings(model->model->recommended_search(),
                                         {.do_sample = options.sample,
                                          .temperature = options.temperature,
                                          .top_k = options.top_k,
                                          .top_p = options.top_p,
                                          .min_p = options.min_p,
                                          .seed = options.seed,
                                          .repetition_penalty = options.repetition_penalty,
                                          .no_repeat_ngram_size = options.no_repeat_ngram_size,
                                          .presence_penalty = options.presence_penalty,
                                          .frequency_penalty = options.frequency_penalty});
    search.logit_bias = options.logit_bias;
    search.logprobs = options.logprobs;
    search.stop = options.stop;
    if (options.endless) search.eviction.emplace();
    search.lookup = options.lookup;
    Completion completion = complete(*model, ids, search, options.max_tokens, on_text);
    const bool ended = completion.finish_reason == FinishReason::kEndToken ||
                       completion.finish_reason == FinishReason::kStopText;
    return {.text = std::move(completion.text),
            .prompt_tokens = completion.prompt_tokens,
            .tokens = completion.tokens,
            .logprobs = std::move(completion.logprobs),
            .complete = ended,
            .ttft_ms = completion.ttft_ms,
            .decode_tokens_per_s = completion.decode_tokens_per_s};
  }
};

Model::Model(const std::string& folder, const ModelOptions& options)
    : impl_(std::make_unique<Impl>()) {
  LoadOptions load;
  if (!options.mode.empty()) load.mode = mode_from_string(options.mode);
  load.engine.threads = options.threads;
  if (!options.cache.empty()) load.cache = options.cache;
  impl_->model = LocalModel::open(folder, load);
}
Model::~Model() = default;
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;

GenerateResult Model::generate(std::string_view prompt, const GenerateOptions& options,
                               const OnText& on_text) {
  TextModel& text = impl_->model->text;
  return impl_->complete_ids(
      options.chat ? text.encode_chat(prompt, options.system) : text.encode_prompt(prompt), options,
      on_text);
}

GenerateResult Model::chat(const std::vector<Message>& messages, const GenerateOptions& options,
                           const OnText& on_text) {
  OrderedJson list = OrderedJson::array();
  for (const Message& message : messages)
    list.push_back({{"role", message.role}, {"content", message.content}});
  return impl_->complete_ids(impl_->model->text.encode_messages(list), options, on_text);
}

std::vector<std::int32_t> Model::tokenize(std::string_view text) {
  return impl_->model->text.tokenizer().encode(text);
}

std::string Model::detokenize(const std::vector<std::int32_t>& ids) {
  return impl_->model->text.tokenizer().decode(ids);
}

std::vector<float> Model::logits(const std::vector<std::int32_t>& ids) {
  std::vector<float> all;
  KvSequence sequence = impl_->model->engine.new_sequence();
  impl_->model->engine.prefill_all(sequence, ids, [&](std::int64_t, std::span<const float> rows) {
    all.insert(all.end(), rows.begin(), rows.end());
  });
  return all;
}

std::int64_t Model::vocabulary() const noexcept { return impl_->model->info().vocabulary; }
std::int64_t Model::context_length() const noexcept { return impl_->model->info().context_length; }

}  // namespace tandem
