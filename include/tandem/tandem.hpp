// The public C++ API of tandem.
//
//   tandem::Model model("out/demo");
//   auto answer = model.generate("Once upon a time", {}, [](std::string_view text) { std::cout <<
//   text; return true; });
//
// Errors are exceptions derived from std::runtime_error whose message names the file or argument,
// the place and what was expected. A Model belongs to one thread at a time; several models may run
// in several threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

// Version of the library, such as "0.1.0".
const char* version() noexcept;

struct ModelOptions {
  std::string
      mode;  // "hybrid" (default for a package), "cpu", or "float" (default for a checkpoint)
  int threads = 0;    // 0: one per core
  std::string cache;  // folder of packed weights; empty: ~/.cache/tandem, or $TANDEM_CACHE
};

struct GenerateOptions {
  std::int64_t max_tokens = 256;
  bool chat = false;        // send the prompt as a user's turn through the model's chat template
  std::string system;       // system line of the chat
  bool sample = false;      // false: greedy; the five below apply when true
  float temperature = 1;    // > 0
  std::int64_t top_k = 50;  // 0: all
  float top_p = 1;          // (0, 1]
  std::int64_t seed = -1;   // -1: a new one each time
  float repetition_penalty = 1;  // > 0; applies to greedy search too
};

struct GenerateResult {
  std::string text;
  std::int64_t prompt_tokens = 0;
  std::int64_t tokens = 0;  // chosen, an end token included
  bool complete = false;    // ended by an end token, not by max_tokens or the callback
  double ttft_ms = 0;       // time to first token
  double decode_tokens_per_s = 0;
};

class Model {
 public:
  // A folder with a package (see `tandem quantize`) or a Hugging Face checkpoint.
  explicit Model(const std::string& folder, const ModelOptions& options = {});
  ~Model();
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;

  // Continues a prompt. `on_text` gets whole UTF-8 characters as they come; returning false ends
  // the answer.
  GenerateResult generate(std::string_view prompt, const GenerateOptions& options = {},
                          const std::function<bool(std::string_view)>& on_text = {});

  std::vector<std::int32_t> tokenize(std::string_view text);
  std::string detokenize(const std::vector<std::int32_t>& ids);

  // Float32 logits of every token, [ids.size(), vocabulary()], read on the mode's prefill device.
  std::vector<float> logits(const std::vector<std::int32_t>& ids);
  std::int64_t vocabulary() const noexcept;
  std::int64_t context_length() const noexcept;  // tokens

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem
