// Editing of a line at a terminal, with a history of the lines before it. There are two versions of
// it, of which the build has one: with libedit, and one that leaves lines to the terminal.
#pragma once

#include <memory>
#include <optional>
#include <string>

namespace tandem::cli {

class LineEditor {
 public:
  // Null where lines cannot be edited: without libedit, or at a terminal that cannot move its
  // cursor. Standard input and standard error must be a terminal.
  static std::unique_ptr<LineEditor> create();
  virtual ~LineEditor() = default;

  // Shows `prompt` and reads a line, without its end; nullopt at the end of the input, and after
  // Ctrl-C (see interrupted()).
  virtual std::optional<std::string> read(const std::string& prompt) = 0;
  // What read() can give back by the arrow keys from now on.
  virtual void remember(const std::string& line) = 0;
};

}  // namespace tandem::cli
