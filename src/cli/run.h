// tandem run: its flags, and the two ways it goes on.
#pragma once

#include <string>

#include "cli/commands.h"
#include "runtime/search.h"

namespace tandem::cli {

struct RunFlags {
  ModelFlags model;
  std::string prompt;
  std::string prompt_file;
  bool prompt_given = false;  // if only an empty one
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

// A conversation on standard input and output, until that ends.
void run_chat(LoadedModel& model, const RunFlags& flags);

}  // namespace tandem::cli
