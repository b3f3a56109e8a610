// tandem run --chat without a prompt: a conversation, one line per turn.
#include "runtime/chat.h"

#include <iostream>
#include <optional>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/line_reader.h"
#include "cli/log.h"
#include "cli/run.h"

namespace tandem::cli {
namespace {

constexpr const char* kHelp =
    "/clear    forget the conversation\n"
    "/exit     leave (so does the end of the input, Ctrl-D)\n"
    "/help     this list\n"
    "Ctrl-C    stop the answer\n"
    "A \\ at the end of a line continues it on the next one.\n";

std::string trimmed(const std::string& line) {
  const auto first = line.find_first_not_of(" \t\r");
  return first == std::string::npos
             ? std::string()
             : line.substr(first, line.find_last_not_of(" \t\r") - first + 1);
}

OrderedJson to_json(const ChatTurn& turn) {
  return {{"prompt_tokens", turn.prompt_tokens},
          {"read_tokens", turn.read_tokens},
          {"tokens", turn.tokens},
          {"text", turn.text},
          {"ended", to_string(turn.finish_reason)},
          {"ttft_ms", turn.ttft_ms},
          {"decode_tokens_per_s", turn.decode_tokens_per_s}};
}

class Conversation {
 public:
  Conversation(LocalModel& model, const RunFlags& flags)
      : flags_(flags),
        chat_(model, flags.search(*model.model), flags.system, flags.chat_options()),
        terminal_(reader_.at_terminal()) {}

  void run() {
    if (terminal_) std::cerr << "/help lists what else can be typed.\n";
    std::string line;
    for (;;) {
      reset_interrupt();
      switch (reader_.read(line, "> ")) {
        case LineReader::Result::kEnd:
          return;
        case LineReader::Result::kInterrupted:
          std::cerr << "\n/exit leaves.\n";
          continue;
        case LineReader::Result::kLine:
          break;
      }
      const std::string text = trimmed(line);
      if (text == "/exit") return;
      if (text == "/clear") {
        chat_.clear();
      } else if (text == "/help") {
        std::cerr << kHelp;
      } else if (text.starts_with('/') && text.find_first_of(" /", 1) == std::string::npos) {
        refuse(fmt::format("[chat] {}: expected /clear, /exit or /help", text));
      } else if (!text.empty()) {
        turn(text);
      }
    }
  }

 private:
  void turn(const std::string& text) {
    try {
      const ChatTurn turn = chat_.say(text, flags_.tokens, [&](std::string_view piece) {
        if (!flags_.json) std::cout << piece << std::flush;
        return !interrupted();
      });
      report(turn);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kInvalidArgument) throw;
      refuse(terminal_ ? fmt::format("{}; /clear begins anew", error.what()) : error.what());
    }
  }

  void report(const ChatTurn& turn) const {
    if (flags_.json) {  // one line a turn, so that a program can read along
      std::cout << to_json(turn).dump(-1, ' ', false, OrderedJson::error_handler_t::replace)
                << std::endl;
    } else {
      std::cout << std::endl;
      spdlog::info(
          "{} tokens of conversation, {} read now, first token after {:.1f} ms; {} tokens written, "
          "{:.1f} tokens/s",
          turn.prompt_tokens, turn.read_tokens, turn.ttft_ms, turn.tokens,
          turn.decode_tokens_per_s);
    }
    if (turn.finish_reason == FinishReason::kLength && turn.tokens < flags_.tokens)
      spdlog::warn("[chat] the context is full: the answer was cut short");
    if (!std::cout) fail(ErrorCode::kIo, "[chat] cannot write to standard output");
  }

  // At a terminal the user can try again with the next line; a program's input ends here.
  void refuse(const std::string& message) const {
    if (!terminal_) fail(ErrorCode::kInvalidArgument, "{}", message);
    spdlog::error("{}", message);
  }

  const RunFlags& flags_;
  Chat chat_;
  LineReader reader_;
  bool terminal_;
};

}  // namespace

void run_chat(LocalModel& model, const RunFlags& flags) {
  catch_interrupt_in_reads();
  Conversation(model, flags).run();
}

}  // namespace tandem::cli
