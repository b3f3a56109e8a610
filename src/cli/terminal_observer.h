// Shows the library's progress and messages on standard error: progress as one line that is redrawn
// on a terminal, or a line every few seconds elsewhere; messages through the log.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "base/observer.h"

namespace tandem::cli {

// "8 s", "3 min 20 s", "2 h 05 min".
std::string spell_duration(double seconds);

class TerminalObserver : public Observer {
 public:
  TerminalObserver();

  // Progress reads "tandem: task  34 % (12 of 35 blocks), 8 s left", the rest of the time at the
  // speed so far. It is not shown in quiet mode, nor for a task that ends before any unit is done;
  // of one that ends early it says that it was stopped.
  void begin(std::string_view task, std::int64_t total, std::string_view unit) override;
  void advance(std::int64_t count) override;
  void end() override;
  void warn(std::string_view message) override;
  void inform(std::string_view message) override;
  // True after Ctrl-C, in commands that catch it.
  bool cancelled() const override;

 private:
  struct Drawn {
    std::string task;
    std::string unit;
    std::int64_t total;
    std::int64_t done;
    // As last drawn; -1 before.
    std::int64_t drawn_done;
    std::chrono::steady_clock::time_point start;
    std::chrono::steady_clock::time_point drawn;
  };
  void draw(const Drawn& task, bool ended) const;

  // Whether standard error is a terminal.
  bool terminal_;
  // Innermost last.
  std::vector<Drawn> tasks_;
};

}  // namespace tandem::cli
