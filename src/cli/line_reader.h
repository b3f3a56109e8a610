// The lines of a conversation: edited at a terminal, as they come from a pipe or a file.
#pragma once

#include <memory>
#include <string>

#include "cli/line_editor.h"

namespace tandem::cli {

class LineReader {
 public:
  enum class Result { kLine, kEnd, kInterrupted };

  // Lines are edited if standard input and standard error are a terminal that can do it.
  LineReader();

  // At a terminal `prompt` is shown, and a line that ends in a backslash continues on the next one,
  // as one text with a line break. Throws kIo, or kInvalidArgument for a line without bounds.
  Result read(std::string& line, const std::string& prompt);

  bool at_terminal() const noexcept { return terminal_; }

 private:
  Result read_line(std::string& line, const std::string& prompt);
  Result read_plain(std::string& line);

  bool terminal_;
  std::unique_ptr<LineEditor> editor_;
  // Read, but not yet asked for.
  std::string pending_;
};

}  // namespace tandem::cli
