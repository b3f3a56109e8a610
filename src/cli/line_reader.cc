// Lines from the editor or from standard input. Not by std::getline, because that continues reading
// after Ctrl-C.
#include "cli/line_reader.h"

#include <unistd.h>

#include <cerrno>
#include <iostream>
#include <utility>

#include "base/error.h"
#include "cli/interrupt.h"

namespace tandem::cli {
namespace {

constexpr std::size_t kMaxLine = std::size_t{16} << 20;
constexpr const char* kContinued = ". ";

}  // namespace

LineReader::LineReader() : terminal_(::isatty(STDIN_FILENO) == 1) {
  if (terminal_ && ::isatty(STDERR_FILENO) == 1) editor_ = LineEditor::create();
}

LineReader::Result LineReader::read(std::string& line, const std::string& prompt) {
  Result result = read_line(line, prompt);
  while (terminal_ && result == Result::kLine && line.ends_with('\\')) {
    line.back() = '\n';
    std::string more;
    result = read_line(more, kContinued);
    if (result == Result::kEnd) return Result::kLine;
    line += more;
  }
  if (editor_ && result == Result::kLine && !line.empty()) editor_->remember(line);
  return result;
}

LineReader::Result LineReader::read_line(std::string& line, const std::string& prompt) {
  if (!editor_) {
    if (terminal_) std::cerr << prompt << std::flush;
    return read_plain(line);
  }
  if (auto edited = editor_->read(prompt)) {
    line = std::move(*edited);
    return Result::kLine;
  }
  return interrupted() ? Result::kInterrupted : Result::kEnd;
}

LineReader::Result LineReader::read_plain(std::string& line) {
  for (;;) {
    if (const auto end = pending_.find('\n'); end != std::string::npos) {
      line = pending_.substr(0, end);
      pending_.erase(0, end + 1);
      return Result::kLine;
    }
    if (pending_.size() > kMaxLine)
      fail(ErrorCode::kInvalidArgument, "[chat] a line of more than {} bytes", kMaxLine);
    char buffer[4096];
    const ssize_t count = ::read(STDIN_FILENO, buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) {
      if (interrupted()) return Result::kInterrupted;
      continue;
    }
    if (count < 0) fail(ErrorCode::kIo, "[chat] cannot read standard input");
    if (count == 0) {  // a last line may lack its end
      line = std::exchange(pending_, {});
      return line.empty() ? Result::kEnd : Result::kLine;
    }
    pending_.append(buffer, static_cast<std::size_t>(count));
  }
}

}  // namespace tandem::cli
