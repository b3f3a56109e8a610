// The words of a command line, in the one spelling that the parser knows.
#pragma once

#include <CLI/CLI.hpp>

#include <string>
#include <vector>

namespace tandem::cli {

struct CommandLine {
  // An argument, or the value of a flag.
  struct Value {
    std::string text;
    // The name by which it is asked for, such as "--text" or "model".
    std::string name;
    // The first words of its help text.
    std::string meaning;
  };

  // The subcommand's name; empty if there is none.
  std::string command;
  // What the parser gets.
  std::vector<std::string> words;
  std::vector<Value> values;
};

// Rewrites the words after the program's name:
//   - "_" is the same as "-" in long flags;
//   - the names that llama.cpp and Hugging Face use for a flag of the same meaning become ours;
//   - "-m MODEL" becomes the model's place among the arguments;
//   - mllm's "quantize IN.mllm OUT.mllm TYPE" becomes a conversion;
//   - "help", "help COMMAND", "COMMAND help" and "version" become --help and --version;
//   - an argument called like a command stays an argument.
// Values of flags stay as they are. Throws kInvalidArgument for an unknown command or flag, with
// the nearest known one, and for an argument too many.
CommandLine spell_out(const CLI::App& app, const std::vector<std::string>& words);

// Of a flag with one value that is given several times the last counts, as in llama.cpp.
void let_the_last_win(CLI::App& app);

// Adds the other names of each flag to its help text. Call once all subcommands are added.
void describe_aliases(CLI::App& app);

// What to add to the message of an error about a path that does not exist: what is expected there,
// and the nearest name that exists. Empty if the message names none of the line's values.
std::string hint_for_missing(const std::string& message, const CommandLine& line);

// A parser's message as one line that says where to look: "run: --mode: expected one of hybrid, cpu
// or float, got 'hybird'; did you mean 'hybrid'? (see tandem run --help)".
std::string describe_parse_error(const std::string& message, const std::string& command);

}  // namespace tandem::cli
