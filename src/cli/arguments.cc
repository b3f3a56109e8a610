// Aliases, spellings and suggestions, in one pass over the words of a command line.
#include "cli/arguments.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <optional>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/printable.h"
#include "cli/nearest.h"

namespace tandem::cli {
namespace {

// Other names of one of our flags. They count in those commands that have the flag and no flag of
// that other name.
struct Alias {
  std::string_view flag;
  std::vector<std::string_view> names;
  // Only in these commands; empty: in all.
  std::vector<std::string_view> commands = {};
};

// The names of llama.cpp's programs and of transformers' generation settings. The same name may
// stand for several flags, in different commands: -c is the context of a generation, and the
// window of a measurement or calibration.
const std::vector<Alias>& aliases() {
  static const std::vector<Alias> table = {
      {"--temperature", {"--temp"}},
      {"--tokens", {"--max-new-tokens", "--max-tokens", "--n-predict", "--predict"}},
      {"--generate", {"-n", "--n-gen", "--max-new-tokens", "--n-predict", "--tokens"}},
      {"--repetition-penalty", {"--repeat-penalty"}},
      {"--seed", {"-s"}},
      {"--logprobs", {"--n-probs", "--top-logprobs"}},
      {"--logit-bias", {"-l"}},
      {"--max-length", {"-c", "--ctx-size", "--n-ctx", "--context", "--limits"}, {"run"}},
      {"--endless", {"--context-shift"}, {"run"}},
      {"--sink", {"--keep"}, {"run"}},
      {"--lookup", {"--draft", "--draft-max", "--prompt-lookup-num-tokens"}, {"run"}},
      {"--stop", {"-r", "--reverse-prompt", "--stop-strings", "--stop-words"}, {"run"}},
      {"--frequency-penalty", {"--freq-penalty"}},
      {"--cache", {"--cache-dir"}},
      {"--output", {"--outfile", "--output-dir"}},
      {"--repetitions", {"--reps"}},
      {"--samples", {"--num-calib-data"}},
      {"--window", {"-c", "--ctx-size", "--seq-len"}, {"eval"}},
      {"--seq-len", {"-c", "--ctx-size", "--window"}, {"quantize"}},
      {"--max-windows", {"--chunks"}},
      {"--chat", {"-i", "--interactive", "-cnv", "--conversation"}},
      {"--system", {"-sys", "--system-prompt"}},
      {"--chat-template", {"--chat-template-file"}},
      {"--sample", {"--do-sample"}},
      {"--chunk", {"-b", "--batch-size", "-ub", "--ubatch-size"}},
      {"--text", {"-f", "--file"}},
      {"--calib", {"-f", "--file"}, {"quantize"}},
      {"--calib", {"--calibration", "--calib-data"}},
      {"--messages", {"-f", "--file"}},
      {"--prompt", {"--n-prompt"}, {"bench", "compare"}},
      {"--output_model", {"-o", "--outfile"}, {"convert"}},
  };
  return table;
}

// mllm's names for the model that writes answers and the one that reads prompts.
constexpr std::string_view kDecodingModel = "--decoding-model";
constexpr std::string_view kPromptModel = "--qnn-model";

std::string with_hyphens(std::string_view name) {
  std::string text(name);
  std::ranges::replace(text, '_', '-');
  return text;
}

bool takes_value(const CLI::Option& option) { return option.get_items_expected_max() > 0; }

// The name by which the parser is told an option.
std::string full_name(const CLI::Option& option) {
  return option.get_lnames().empty() ? "-" + option.get_snames().front()
                                     : "--" + option.get_lnames().front();
}

// The names of arguments that are no models, where they are the only one.
constexpr std::array<std::string_view, 2> kNoModels = {"shell", "trace"};

// The options of a subcommand, or of the program where there is none yet, and the other names.
class Flags {
 public:
  Flags(const CLI::App& app, const CLI::App* command)
      : command_(command == nullptr ? "" : command->get_name()) {
    if (command != nullptr) add(*command);
    add(app);
  }

  const std::vector<const CLI::Option*>& positionals() const { return positionals_; }

  // True for -m, --model and --model-dir where the only argument without a flag is the model, and for
  // --decoding-model where there is another one beside it.
  bool is_model(std::string_view name) const {
    const std::string hyphened = with_hyphens(name);
    if (hyphened == kDecodingModel) return find(kPromptModel) != nullptr;
    return (name == "-m" || hyphened == "--model" || hyphened == "--model-dir") &&
           positionals_.size() == 1 &&
           std::ranges::find(kNoModels, positionals_.front()->get_name()) == kNoModels.end();
  }

  // By its whole name, with its hyphens; null if there is none.
  const CLI::Option* find(std::string_view name) const {
    const std::string wanted = with_hyphens(name);
    for (const CLI::Option* option : options_) {
      for (const std::string& known : option->get_lnames())
        if ("--" + with_hyphens(known) == wanted) return option;
      for (const std::string& known : option->get_snames())
        if ("-" + known == name) return option;
    }
    for (const Alias& alias : aliases()) {
      if (!holds(alias) || std::ranges::find(alias.names, wanted) == alias.names.end()) continue;
      for (const CLI::Option* option : options_)
        if (full_name(*option) == alias.flag) return option;
    }
    return nullptr;
  }

  // Every long name, for suggestions; ours first.
  std::vector<std::string> long_names() const {
    std::vector<std::string> names;
    for (const CLI::Option* option : options_)
      for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    const std::size_t own = names.size();
    for (const Alias& alias : aliases()) {
      if (!holds(alias)) continue;
      const auto end = names.begin() + static_cast<std::ptrdiff_t>(own);
      if (std::find(names.begin(), end, alias.flag) == end) continue;
      for (const std::string_view name : alias.names)
        if (name.starts_with("--")) names.emplace_back(name);
    }
    if (is_model("-m")) names.emplace_back("--model");
    if (is_model(kDecodingModel)) names.emplace_back(kDecodingModel);
    return names;
  }

 private:
  void add(const CLI::App& app) {
    for (const CLI::Option* option : app.get_options({})) {
      if (option->get_positional()) positionals_.push_back(option);
      if (option->nonpositional()) options_.push_back(option);
    }
  }
  bool holds(const Alias& alias) const {
    return alias.commands.empty() ||
           std::ranges::find(alias.commands, command_) != alias.commands.end();
  }

  std::string command_;
  std::vector<const CLI::Option*> options_;
  std::vector<const CLI::Option*> positionals_;
};

// What the programs of other projects call one of our commands.
constexpr std::array kElsewhere = {
    std::pair{"chat", "run --chat"},  std::pair{"generate", "run"},
    std::pair{"complete", "run"},     std::pair{"main", "run"},
    std::pair{"perplexity", "eval"},  std::pair{"evaluate", "eval"},
    std::pair{"export", "convert"},   std::pair{"show", "inspect"},
    std::pair{"info", "inspect"},     std::pair{"encode", "tokenize"},
    std::pair{"decode", "detokenize"}};

// Flags of llama.cpp for what is done without being asked.
constexpr std::array kUnneeded = {std::pair{"-ngl", "--mode chooses the devices"},
                                  std::pair{"--n-gpu-layers", "--mode chooses the devices"},
                                  std::pair{"--gpu-layers", "--mode chooses the devices"},
                                  std::pair{"-fa", "attention never stores its matrix"},
                                  std::pair{"--flash-attn", "attention never stores its matrix"},
                                  std::pair{"-no-cnv", "a conversation needs --chat"},
                                  std::pair{"--no-conversation", "a conversation needs --chat"},
                                  std::pair{"--mmap", "models are always mapped"},
                                  std::pair{"--no-mmap", "models are always mapped"},
                                  std::pair{"--mlock", "models are always mapped"}};

// Null for any other flag.
const char* why_unneeded(std::string_view name) {
  const auto* found =
      std::ranges::find_if(kUnneeded, [&](const auto& flag) { return name == flag.first; });
  return found == kUnneeded.end() ? nullptr : found->second;
}

// mllm's "quantize IN.mllm OUT.mllm Q4_K" is a conversion here; any other line stays as it is. A flag
// behind the type is for packing to Arm's KleidiAI, or does nothing there, either.
std::vector<std::string> in_our_words(std::vector<std::string> words) {
  const auto is_mllm = [](const std::string& word) { return word.ends_with(".mllm"); };
  const auto at = std::ranges::find(words, "quantize");
  const auto count = words.end() - at;
  const bool has_flag = count == 5 && (at[4] == "vl" || at[4] == "eager" || at[4] == "qw3");
  const bool fits =
      (count == 4 || has_flag) && is_mllm(at[1]) && is_mllm(at[2]) && !at[3].starts_with('-');
  if (!fits) return words;
  if (has_flag) words.pop_back();
  *at = "convert";
  std::ranges::transform(at[3], at[3].begin(), [](unsigned char c) { return std::tolower(c); });
  words.insert(at + 3, "--dtype");
  words.emplace_back("--mllm-types");
  return words;
}

std::string did_you_mean_command(std::string_view word, const std::vector<std::string>& known) {
  for (const auto& [theirs, ours] : kElsewhere)
    if (word == theirs) return fmt::format("; did you mean '{}'?", ours);
  return did_you_mean(word, known);
}

std::string pointer(const std::string& command) {
  return fmt::format("(see tandem {}--help)", command.empty() ? "" : command + " ");
}

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands({})) names.push_back(command->get_name());
  return names;
}

const CLI::App* find_command(const CLI::App& app, std::string_view name) {
  for (const CLI::App* command : app.get_subcommands({}))
    if (command->get_name() == name) return command;
  return nullptr;
}

class Pass {
 public:
  Pass(const CLI::App& app, const std::vector<std::string>& words)
      : app_(app), words_(words), flags_(app, nullptr) {}

  CommandLine run() {
    while (at_ < words_.size()) {
      const std::string& word = words_[at_++];
      if (word == "--") {
        take_rest();
      } else if (word.starts_with("--")) {
        take_long(word);
      } else if (word.size() > 1 && word[0] == '-') {
        take_short(word);
      } else if (command_ == nullptr) {
        take_command(word);
      } else {
        take_argument(word);
      }
    }
    return std::move(line_);
  }

 private:
  // After "--" nothing is a flag.
  void take_rest() {
    if (command_ == nullptr) return;
    line_.words.emplace_back("--");
    while (at_ < words_.size()) take_argument(words_[at_++]);
  }

  void take_command(const std::string& word) {
    const bool more = at_ < words_.size();
    if (word == "version") {
      line_.words.emplace_back("--version");
      return;
    }
    if (word == "help") {
      line_.words.emplace_back("--help");
      if (more && !words_[at_].starts_with('-')) choose(words_[at_++]);
      return;
    }
    choose(word);
    std::error_code ignored;
    if (more && words_[at_] == "help" && at_ + 1 == words_.size() &&
        !std::filesystem::exists("help", ignored)) {
      ++at_;
      line_.words.emplace_back("--help");
    }
  }

  void choose(const std::string& word) {
    command_ = find_command(app_, word);
    if (command_ == nullptr) {
      fail(ErrorCode::kInvalidArgument, "unknown command '{}'{} {}", printable(word),
           did_you_mean_command(word, command_names(app_)), pointer(""));
    }
    flags_ = Flags(app_, command_);
    line_.command = word;
    line_.words.push_back(word);
  }

  void take_argument(const std::string& word) {
    if (++arguments_ > flags_.positionals().size()) {
      fail(ErrorCode::kInvalidArgument, "{}: unexpected argument '{}' {}", line_.command,
           printable(word), pointer(line_.command));
    }
    const CLI::Option& option = *flags_.positionals()[arguments_ - 1];
    add_value(word, option.get_name(true), option);
    // The parser takes the name of a command for the command, wherever it stands, and a word with a
    // hyphen for a flag.
    const bool mistaken =
        find_command(app_, word) != nullptr || (word.size() > 1 && word[0] == '-');
    line_.words.push_back(mistaken ? "./" + word : word);
  }

  void take_long(const std::string& word) {
    const std::size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    if (flags_.is_model(name)) {
      take_model(equals == std::string::npos ? std::nullopt
                                             : std::optional(word.substr(equals + 1)));
      return;
    }
    const CLI::Option* option = flags_.find(name);
    if (option == nullptr) unknown_flag(name);
    if (equals != std::string::npos) {
      line_.words.push_back(full_name(*option) + word.substr(equals));
      add_value(word.substr(equals + 1), full_name(*option), *option);
    } else {
      line_.words.push_back(full_name(*option));
      if (takes_value(*option)) take_value(*option);
    }
  }

  // Short flags as mllm's demos have them, in a line with --decoding-model; null for any other.
  const CLI::Option* find_of_mllm(const std::string& word) const {
    const bool of_mllm = std::ranges::any_of(words_, [](const std::string& each) {
      return with_hyphens(each.substr(0, each.find('='))) == kDecodingModel;
    });
    for (const auto& [name, flag] :
         {std::pair{"-m", kPromptModel}, {"-v", "--vocab"}, {"-e", "--merge"}})
      if (of_mllm && word == name) return flags_.find(flag);
    return nullptr;
  }

  // "-n 5", "-n5", several flags at once such as "-qv", or a word such as "-cnv".
  void take_short(const std::string& word) {
    if (const CLI::Option* option = find_of_mllm(word)) {
      line_.words.push_back(full_name(*option));
      take_value(*option);
      return;
    }
    if (flags_.is_model(word)) {
      take_model(std::nullopt);
      return;
    }
    if (const CLI::Option* option = flags_.find(word)) {
      line_.words.push_back(full_name(*option));
      if (takes_value(*option)) take_value(*option);
      return;
    }
    if (why_unneeded(word) != nullptr) unknown_flag(word);
    // "-prompt" would be read as "-p rompt", which nobody means.
    if (word.size() > 2 && flags_.find("-" + word) != nullptr) {
      fail(ErrorCode::kInvalidArgument, "{}: unknown flag '{}'; did you mean '-{}'? {}",
           line_.command, printable(word), word, pointer(line_.command));
    }
    for (std::size_t i = 1; i < word.size(); ++i) {
      const std::string name = {'-', word[i]};
      if (flags_.is_model(name)) {
        take_model(word.substr(i + 1));
        return;
      }
      const CLI::Option* option = flags_.find(name);
      if (option == nullptr) unknown_flag(i == 1 ? word : name);
      line_.words.push_back(full_name(*option));
      if (!takes_value(*option)) continue;
      if (i + 1 < word.size()) {
        line_.words.push_back(word.substr(i + 1));
        add_value(line_.words.back(), full_name(*option), *option);
      } else {
        take_value(*option);
      }
      return;
    }
  }

  void take_model(std::optional<std::string> value) {
    if (!value) {
      if (at_ == words_.size()) {
        fail(ErrorCode::kInvalidArgument, "{}: --model: expected a model {}", line_.command,
             pointer(line_.command));
      }
      value = words_[at_++];
    }
    take_argument(*value);
  }

  // The value of a flag, whatever it looks like; the parser says if there is none. Of a flag with
  // any number of values, all words up to the next flag.
  void take_value(const CLI::Option& option) {
    const bool takes_list = option.get_expected_min() == 0;
    for (int left = option.get_type_size_max(); at_ < words_.size(); --left) {
      if (takes_list ? words_[at_].starts_with('-') : left == 0) return;
      add_value(words_[at_], full_name(option), option);
      line_.words.push_back(words_[at_++]);
    }
  }

  void add_value(const std::string& text, std::string name, const CLI::Option& option) {
    const std::string& help = option.get_description();
    line_.values.push_back({text, std::move(name), help.substr(0, help.find_first_of(";("))});
    std::string& meaning = line_.values.back().meaning;
    meaning.erase(meaning.find_last_not_of(' ') + 1);
  }

  [[noreturn]] void unknown_flag(const std::string& name) const {
    const std::string command = line_.command.empty() ? "" : line_.command + ": ";
    if (const char* why = why_unneeded(name))
      fail(ErrorCode::kInvalidArgument, "{}unknown flag '{}', which is not needed here: {} {}",
           command, name, why, pointer(line_.command));
    fail(ErrorCode::kInvalidArgument, "{}unknown flag '{}'{} {}", command, printable(name),
         did_you_mean(with_hyphens(name), flags_.long_names()), pointer(line_.command));
  }

  const CLI::App& app_;
  const std::vector<std::string>& words_;
  std::size_t at_ = 0;
  std::size_t arguments_ = 0;
  const CLI::App* command_ = nullptr;
  Flags flags_;
  CommandLine line_;
};

}  // namespace

CommandLine spell_out(const CLI::App& app, const std::vector<std::string>& words) {
  return Pass(app, in_our_words(words)).run();
}

void let_the_last_win(CLI::App& app) {
  for (CLI::App* command : app.get_subcommands({}))
    for (CLI::Option* option : command->get_options({}))
      if (option->nonpositional() && option->get_items_expected_max() == 1)
        option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
}

void describe_aliases(CLI::App& app) {
  for (CLI::App* command : app.get_subcommands({})) {
    const Flags flags(app, command);
    for (CLI::Option* option : command->get_options({})) {
      std::vector<std::string_view> names;
      for (const Alias& alias : aliases()) {
        if (!option->nonpositional() || full_name(*option) != alias.flag) continue;
        for (const std::string_view name : alias.names)
          if (flags.find(name) == option) names.push_back(name);
      }
      if (flags.is_model("-m") && option->get_positional()) names = {"-m", "--model"};
      if (names.empty()) continue;
      option->description(
          fmt::format("{} (also {})", option->get_description(), fmt::join(names, ", ")));
    }
  }
}

namespace {

// True for an argument or a flag whose value is a path, by its help.
bool names_path(const CommandLine::Value& value) {
  for (const char* word : {"file", "folder", "package", "checkpoint", "model", "text to score",
                           "JSON array", "output"})
    if (value.meaning.find(word) != std::string::npos) return true;
  return false;
}

// True if `message` is about `text`: as a path, or the end of one, and not as a part of a word.
bool is_named_in(const std::string& message, const std::string& text) {
  const auto continues = [&](std::size_t at) {
    return at < message.size() && (std::isalnum(static_cast<unsigned char>(message[at])) != 0 ||
                                   message[at] == '_' || message[at] == '-');
  };
  for (std::size_t at = text.empty() ? std::string::npos : message.find(text);
       at != std::string::npos; at = message.find(text, at + 1))
    if ((at == 0 || !continues(at - 1)) && !continues(at + text.size())) return true;
  return false;
}

}  // namespace

std::string hint_for_missing(const std::string& message, const CommandLine& line) {
  const CommandLine::Value* missing = nullptr;
  for (const CommandLine::Value& value : line.values) {
    std::error_code ignored;
    if (!names_path(value) || !is_named_in(message, value.text) ||
        std::filesystem::exists(value.text, ignored))
      continue;
    // Of "a" and "data/a.txt" the message is about the longer.
    if (missing == nullptr || value.text.size() > missing->text.size()) missing = &value;
  }
  if (missing == nullptr) return {};
  return fmt::format(" ({}: {}){}", missing->name, missing->meaning,
                     did_you_mean_path(missing->text));
}

std::string describe_parse_error(const std::string& message, const std::string& command) {
  // The parser's own words for a value that is not in a list: "--mode: x not in {hybrid,cpu}".
  constexpr std::string_view kNotIn = " not in {";
  std::string text = message;
  const std::size_t colon = text.find(": "), list = text.rfind(kNotIn);
  if (colon < list && list != std::string::npos && text.ends_with('}')) {
    const std::string value = text.substr(colon + 2, list - colon - 2);
    const std::size_t first = list + kNotIn.size();
    const std::vector<std::string> known =
        CLI::detail::split(text.substr(first, text.size() - 1 - first), ',');
    text = fmt::format("{}: expected one of {}, got '{}'{}", text.substr(0, colon),
                       fmt::join(known, ", "), printable(value), did_you_mean(value, known));
  }
  // "--threads: Value 100 not in range 1 to 64".
  constexpr std::string_view kValue = ": Value ", kNotInRange = " not in range ";
  if (const std::size_t value = text.find(kValue), range = text.rfind(kNotInRange);
      value != std::string::npos && range != std::string::npos && value < range) {
    const std::string got = text.substr(value + kValue.size(), range - value - kValue.size());
    text = fmt::format("{}: expected a number from {}, got '{}'", text.substr(0, value),
                       text.substr(range + kNotInRange.size()), printable(got));
  }
  // "Could not convert: --seed = x".
  constexpr std::string_view kConvert = "Could not convert: ", kEquals = " = ";
  if (const std::size_t equals = text.find(kEquals);
      text.starts_with(kConvert) && equals != std::string::npos) {
    text = fmt::format("{}: expected a number, got '{}'",
                       text.substr(kConvert.size(), equals - kConvert.size()),
                       printable(text.substr(equals + kEquals.size())));
  }
  // "--seed: 1 required INT missing".
  constexpr std::string_view kMissing = " missing";
  if (const std::size_t at = text.find(": 1 required ");
      text.ends_with(kMissing) && at < text.size())
    text = text.substr(0, at) + ": expected a value";
  std::ranges::replace(text, '\n', ' ');
  const std::string prefix = command.empty() ? "" : command + ": ";
  return fmt::format("{}{} {}", text.starts_with(prefix) ? "" : prefix, text, pointer(command));
}

}  // namespace tandem::cli
