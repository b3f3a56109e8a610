// tandem run: its flags, and its two modes, a completion or a conversation.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "runtime/complete.h"
#include "runtime/search.h"

namespace tandem::cli {

// Of --lookup; docs/performance.md has what was measured.
inline constexpr std::int64_t kDefaultLookup = 0;

struct RunFlags {
  ModelFlags model;
  // mllm's words: a checkpoint in static int8 that reads the prompts for the model, which then
  // writes the answers, and the tokenizer of both.
  std::string qnn_model;
  std::string vocabulary;
  std::string merges;
  std::string prompt;
  std::string prompt_file;
  // True even for an empty prompt.
  bool prompt_given = false;
  std::int64_t tokens = 256;
  // What was given; all else is as the model's generation_config.json recommends.
  SearchSettings settings;
  std::int64_t min_length = 0;
  std::int64_t max_length = 0;
  std::int64_t lookup = kDefaultLookup;
  bool endless = false;
  // Of an endless text: with max_length as its context.
  Eviction eviction;
  // As they were typed.
  std::vector<std::string> logit_bias;
  std::optional<std::int64_t> logprobs;
  std::vector<std::string> stop;
  bool sample = false;
  bool greedy = false;
  bool raw = false;
  bool chat = false;
  std::string system;
  std::string chat_template;
  bool parse_special = false;
  bool ignore_eos = false;
  bool placement = false;
  // A file; empty: none.
  std::string trace;
  bool json = false;

  ChatOptions chat_options() const {
    ChatOptions options;
    options.parse_special_tokens = parse_special;
    return options;
  }
  // The search that the flags ask for, on top of the one that the model recommends.
  SearchOptions search(const LoadedModel& loaded) const;
};

// What is left to say behind an answer's speed, such as "; 64 old tokens dropped"; mostly nothing.
std::string notes(const Completion& completion);
// Of an answer with log-probabilities.
OrderedJson logprobs_to_json(const std::vector<ChosenToken>& tokens);
// One line a token on standard error; nothing without tokens.
void print_logprobs(const std::vector<ChosenToken>& tokens);

// A conversation on standard input and output, until the input ends.
void run_chat(LocalModel& model, const RunFlags& flags);

}  // namespace tandem::cli
