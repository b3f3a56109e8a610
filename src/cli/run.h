// tandem run: its flags, and its two modes, a completion or a conversation.
#pragma once

#include <string>

#include "cli/commands.h"
#include "runtime/search.h"

namespace tandem::cli {

struct RunFlags {
  ModelFlags model;
  std::string prompt;
  std::string prompt_file;
  // True even for an empty prompt.
  bool prompt_given = false;
  std::int64_t tokens = 256;
  SearchOptions search;
  bool sample = false;
  bool chat = false;
  std::string system;
  std::string chat_template;
  bool parse_special = false;
  bool ignore_eos = false;
  bool placement = false;
  bool json = false;

  ChatOptions chat_options() const {
    ChatOptions options;
    options.parse_special_tokens = parse_special;
    return options;
  }
};

// A conversation on standard input and output, until the input ends.
void run_chat(LocalModel& model, const RunFlags& flags);

}  // namespace tandem::cli
