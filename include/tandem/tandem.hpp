// The public C++ API of tandem.
//
//   tandem::Model model("out/demo");
//   auto answer = model.generate("Once upon a time", {}, [](std::string_view text) {
//     std::cout << text;
//     return true;
//   });
//
// Errors are tandem::Error, whose code() tells their kind; the message names the file or argument,
// the location in it and what was expected. A Model is not thread-safe: use it from one thread at a
// time. Different models may run in different threads.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <tandem/error.hpp>
#include <tandem/logprobs.hpp>

namespace tandem {

// Version of the library, such as "0.1.0".
const char* version() noexcept;

struct ModelOptions {
  // "hybrid" (default for a package), "npu", "cpu", or "float" (default for a checkpoint).
  std::string mode;
  // 0: one per physical core.
  int threads = 0;
  // Folder of the packed-weight cache; empty: $TANDEM_CACHE or ~/.cache/tandem.
  std::string cache;
};

struct GenerateOptions {
  std::int64_t max_tokens = 256;
  // Send the prompt as a user turn through the model's chat template.
  bool chat = false;
  // System message of the chat.
  std::string system;
  // What is not set is as the model's generation_config.json recommends, else as in brackets.
  // Draw from the distribution (no, unless one of the next five is set), else choose the likeliest.
  std::optional<bool> sample;
  // 0: choose the likeliest (1).
  std::optional<float> temperature;
  // 0 or -1: no limit (50).
  std::optional<std::int64_t> top_k;
  // In [0, 1] (1).
  std::optional<float> top_p;
  // In [0, 1]: draw only from tokens at least this part as likely as the likeliest (0).
  std::optional<float> min_p;
  // -1: a new seed each time (-1).
  std::optional<std::int64_t> seed;
  // Above 0 (1).
  std::optional<float> repetition_penalty;
  // Write no run of so many tokens twice; 0: no limit (0).
  std::optional<std::int64_t> no_repeat_ngram_size;
  // In [-2, 2], as in the OpenAI API: subtracted once from the score of every token that the answer
  // holds already, and once for each time (0).
  std::optional<float> presence_penalty;
  std::optional<float> frequency_penalty;
  // Added to the scores of tokens: in [-100, 100], or -infinity, which rules a token out.
  std::map<std::int32_t, float> logit_bias;
  // When the context is full, drop an eighth of it behind the first four tokens and go on.
  bool endless = false;
  // Draft up to so many tokens (0 to 64) from what followed the last ones earlier in the text, and
  // check them in one run. Changes nothing but the time.
  std::int64_t lookup = 0;
  // Report the log-probabilities of the answer's tokens, each beside so many of the likeliest (0 to
  // 20).
  std::optional<std::int64_t> logprobs;
  // Texts that end the answer, of which they are no part. What may be the beginning of one is held
  // back from the callback.
  std::vector<std::string> stop;
};

// One turn of a conversation.
struct Message {
  // "system", "user" or "assistant", or another that the model's chat template knows.
  std::string role;
  std::string content;
};

// Receives whole UTF-8 characters as they are generated; returning false ends the answer.
using OnText = std::function<bool(std::string_view)>;

struct GenerateResult {
  std::string text;
  std::int64_t prompt_tokens = 0;
  // Generated tokens, including the end token.
  std::int64_t tokens = 0;
  // Of all tokens but an end token, if requested.
  std::vector<ChosenToken> logprobs;
  // True if the answer ended with an end token or a stop text, not at max_tokens or by the
  // callback.
  bool complete = false;
  // Time to first token.
  double ttft_ms = 0;
  double decode_tokens_per_s = 0;
};

class Model {
 public:
  // A package folder (see `tandem quantize`) or a Hugging Face checkpoint.
  explicit Model(const std::string& folder, const ModelOptions& options = {});
  ~Model();
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;

  // Continues a prompt. Throws kInvalidArgument for options out of range and for a prompt that
  // leaves no room in the context.
  GenerateResult generate(std::string_view prompt, const GenerateOptions& options = {},
                          const OnText& on_text = {});

  // The next turn of a conversation, through the model's chat template; options.chat and
  // options.system are not used. Throws kNotFound if the model has no template.
  GenerateResult chat(const std::vector<Message>& messages, const GenerateOptions& options = {},
                      const OnText& on_text = {});

  std::vector<std::int32_t> tokenize(std::string_view text);
  std::string detokenize(const std::vector<std::int32_t>& ids);

  // Float32 logits of every token, [ids.size(), vocabulary()], computed on the mode's prefill
  // device.
  std::vector<float> logits(const std::vector<std::int32_t>& ids);
  std::int64_t vocabulary() const noexcept;
  // In tokens.
  std::int64_t context_length() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem
