// tandem run --chat without a prompt: a conversation, one line per turn.
#include "runtime/chat.h"

#include <cctype>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <span>
#include <utility>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/line_reader.h"
#include "cli/log.h"
#include "cli/nearest.h"
#include "cli/run.h"

namespace tandem::cli {
namespace {

std::string trimmed(std::string_view line) {
  const auto first = line.find_first_not_of(" \t\r");
  return first == std::string_view::npos
             ? std::string()
             : std::string(line.substr(first, line.find_last_not_of(" \t\r") - first + 1));
}

// "/save a file" is ("/save", "a file"). Nothing for a text that is no command: a path, or a slash
// on its own.
std::optional<std::pair<std::string, std::string>> parse_command(const std::string& text) {
  const std::string word = text.substr(0, text.find_first_of(" \t\n"));
  if (word.size() < 2 || word[0] != '/') return std::nullopt;
  for (const char c : word.substr(1))
    if (std::isalpha(static_cast<unsigned char>(c)) == 0) return std::nullopt;
  return std::pair(word, trimmed(std::string_view(text).substr(word.size())));
}

// As a shell reads it: "~/" is the home folder.
fs::path expanded(const std::string& file) {
  const char* home = std::getenv("HOME");
  if (!file.starts_with("~/") || home == nullptr) return file;
  return fs::path(home) / file.substr(2);
}

OrderedJson read_messages(const fs::path& file) {
  OrderedJson messages = read_json_list("chat", file.string(), "messages");
  require_messages(messages, file.string());
  return messages;
}

// A conversation may be written over; anything else was a slip of the fingers.
void require_new_or_conversation(const fs::path& file) {
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return;
  try {
    read_messages(file);
  } catch (const Error&) {
    fail(ErrorCode::kInvalidArgument,
         "[chat] {}: expected a new name, this exists and is no saved conversation", file.string());
  }
}

OrderedJson to_json(const ChatTurn& turn) {
  OrderedJson json = {{"prompt_tokens", turn.prompt_tokens},
                      {"read_tokens", turn.read_tokens},
                      {"tokens", turn.tokens},
                      {"dropped_tokens", turn.dropped_tokens},
                      {"decode_runs", turn.lookup.runs},
                      {"drafted_tokens", turn.lookup.drafted},
                      {"accepted_tokens", turn.lookup.accepted},
                      {"text", turn.text},
                      {"ended", to_string(turn.finish_reason)},
                      {"ttft_ms", turn.ttft_ms},
                      {"decode_tokens_per_s", turn.decode_tokens_per_s}};
  if (!turn.logprobs.empty()) json["logprobs"] = logprobs_to_json(turn.logprobs);
  return json;
}

class Conversation {
 public:
  Conversation(LocalModel& model, const RunFlags& flags)
      : model_(model),
        flags_(flags),
        chat_(model, flags.search(*model.model), flags.system, flags.chat_options()),
        terminal_(reader_.at_terminal()) {}

  void run() {
    if (terminal_)
      std::cerr << fmt::format("{}, {}, {} tokens of context. /help lists what can be typed.\n",
                               flags_.model.model, mode_text(model_), chat_.most_tokens());
    std::string line;
    while (!left_) {
      reset_interrupt();
      switch (reader_.read(line, "> ")) {
        case LineReader::Result::kEnd:
          return;
        case LineReader::Result::kInterrupted:
          std::cerr << "\n/exit leaves.\n";
          continue;
        case LineReader::Result::kLine:
          take(trimmed(line));
      }
    }
  }

 private:
  struct Command {
    const char* name;
    // Of the argument, in /help; null if there is none.
    const char* argument;
    const char* help;
    void (Conversation::*run)(const std::string& argument);
  };
  static std::span<const Command> commands();

  // At a terminal the user can try again with the next line; a program's input ends here.
  void take(const std::string& text) {
    try {
      const auto command = parse_command(text);
      if (command) {
        obey(command->first, command->second);
      } else if (!text.empty()) {
        report(chat_.say(text, flags_.tokens, printer()));
      }
    } catch (const Error& error) {
      const bool mended = error.code() == ErrorCode::kInvalidArgument ||
                          error.code() == ErrorCode::kFormat || error.code() == ErrorCode::kIo ||
                          error.code() == ErrorCode::kNotFound;
      if (!terminal_ || !mended || !std::cout) throw;
      spdlog::error("{}", error.what());
    }
  }

  void obey(std::string name, const std::string& argument) {
    // As other programs call it.
    if (name == "/quit" || name == "/bye" || name == "/q") name = "/exit";
    for (const Command& command : commands()) {
      if (name != command.name) continue;
      if (argument.empty() != (command.argument == nullptr))
        fail(ErrorCode::kInvalidArgument, "[chat] {}: expected {}{}", name,
             command.argument == nullptr ? "nothing after it" : command.argument,
             argument.empty() ? "" : fmt::format(", got \"{}\"", argument));
      (this->*command.run)(argument);
      return;
    }
    std::vector<std::string> names;
    for (const Command& command : commands()) names.emplace_back(command.name);
    fail(ErrorCode::kInvalidArgument, "[chat] {}: no such command; /help lists them{}", name,
         did_you_mean(name, names));
  }

  std::function<bool(std::string_view)> printer() const {
    return [this](std::string_view piece) {
      if (!flags_.json) std::cout << piece << std::flush;
      return !interrupted();
    };
  }

  void regenerate(const std::string&) { report(chat_.regenerate(flags_.tokens, printer())); }

  void undo(const std::string&) {
    if (!chat_.undo()) fail(ErrorCode::kInvalidArgument, "[chat] /undo: there is no turn yet");
  }

  void clear(const std::string&) { chat_.clear(); }

  void leave(const std::string&) { left_ = true; }

  void save(const std::string& file) {
    refuse_standard_stream(file, "/save", "the answers are written there");
    const fs::path path = expanded(file);
    require_new_or_conversation(path);
    write_text_file(path, chat_.messages().dump(2) + "\n");
    spdlog::info("{}: {} messages", path.string(), chat_.messages().size());
  }

  void load(const std::string& file) {
    refuse_standard_stream(file, "/load", "the turns are read from there");
    const fs::path path = expanded(file);
    chat_.set_messages(read_messages(path));
    spdlog::info("{}: {} messages", path.string(), chat_.messages().size());
  }

  void info(const std::string&) {
    const std::size_t messages = chat_.messages().size();
    // A conversation from a file is read with its next turn.
    const bool unread = chat_.tokens() == 0 && messages > 0;
    std::cerr << fmt::format(
        "model     {}\nmode      {}\ncontext   {} of {} tokens used, {} messages{}\nsearch    {}\n",
        flags_.model.model, mode_text(model_), used_tokens(), chat_.most_tokens(), messages,
        unread ? ", read with the next turn" : "", tandem::to_json(chat_.options()).dump());
  }

  void help(const std::string&) {
    for (const Command& command : commands())
      std::cerr << fmt::format(
          "{:<13}{}\n",
          fmt::format("{} {}", command.name, command.argument == nullptr ? "" : command.argument),
          command.help);
    std::cerr << "Ctrl-C       stop the answer\n"
                 "A \\ at the end of a line continues it on the next one.\n";
  }

  std::int64_t used_tokens() const { return chat_.tokens() - chat_.dropped_tokens(); }

  void report(const ChatTurn& turn) const {
    if (flags_.json) {  // one line a turn, so that a program can read along
      std::cout << to_json(turn).dump(-1, ' ', false, OrderedJson::error_handler_t::replace) << '\n'
                << std::flush;
    } else {
      std::cout << '\n' << std::flush;
      print_logprobs(turn.logprobs);
      spdlog::info(
          "{} of {} tokens of context used, {} read now, first token after {:.1f} ms; {} tokens "
          "written, {:.1f} tokens/s{}",
          used_tokens(), chat_.most_tokens(), turn.read_tokens, turn.ttft_ms, turn.tokens,
          turn.decode_tokens_per_s, notes(turn));
    }
    if (turn.finish_reason == FinishReason::kLength && turn.tokens < flags_.tokens)
      spdlog::warn("[chat] the context is full: the answer was cut short");
    if (!std::cout) fail(ErrorCode::kIo, "[chat] cannot write to standard output");
  }

  LocalModel& model_;
  const RunFlags& flags_;
  Chat chat_;
  LineReader reader_;
  bool terminal_;
  bool left_ = false;
};

std::span<const Conversation::Command> Conversation::commands() {
  static constexpr Command kCommands[] = {
      {"/regen", nullptr, "answer the last turn anew", &Conversation::regenerate},
      {"/undo", nullptr, "take the last turn and its answer back", &Conversation::undo},
      {"/clear", nullptr, "forget the conversation", &Conversation::clear},
      {"/save", "FILE", "write the conversation, as a JSON list of messages", &Conversation::save},
      {"/load", "FILE", "go on from a conversation that was saved", &Conversation::load},
      {"/info", nullptr, "the model, the context used and the settings", &Conversation::info},
      {"/help", nullptr, "this list", &Conversation::help},
      {"/exit", nullptr, "leave (so does the end of the input, Ctrl-D)", &Conversation::leave},
  };
  return kCommands;
}

}  // namespace

void run_chat(LocalModel& model, const RunFlags& flags) {
  catch_interrupt_in_reads();
  Conversation(model, flags).run();
}

}  // namespace tandem::cli
