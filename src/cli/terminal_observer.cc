// Draws the progress of long-running work.
#include "cli/terminal_observer.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "cli/interrupt.h"
#include "cli/log.h"

namespace tandem::cli {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr Seconds kTerminalInterval{0.1};
constexpr Seconds kLineInterval{5.0};

bool is_quiet() { return !spdlog::default_logger_raw()->should_log(spdlog::level::info); }

}  // namespace

std::string spell_duration(double seconds) {
  const auto whole = std::llround(seconds);
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
}

TerminalObserver::TerminalObserver() : terminal_(::isatty(STDERR_FILENO) == 1) {}

void TerminalObserver::begin(std::string_view task, std::int64_t total, std::string_view unit) {
  const auto now = Clock::now();
  tasks_.push_back(
      {std::string(task), std::string(unit), std::max<std::int64_t>(total, 0), 0, -1, now, now});
}

void TerminalObserver::advance(std::int64_t count) {
  if (tasks_.empty()) return;
  Drawn& task = tasks_.back();
  task.done += count;
  if (is_quiet()) return;
  const auto now = Clock::now();
  if (now - task.drawn < (terminal_ ? kTerminalInterval : kLineInterval)) return;
  task.drawn = now;
  task.drawn_done = task.done;
  draw(task, false);
}

void TerminalObserver::end() {
  if (tasks_.empty()) return;
  const Drawn& task = tasks_.back();
  if (!is_quiet() && (task.done > 0 || task.total == 0)) {
    // A line that stands there already is not repeated.
    const bool finished = task.done >= task.total;
    if (terminal_ || !finished || task.drawn_done != task.done) draw(task, true);
    if (terminal_) std::fputc('\n', stderr);
  }
  tasks_.pop_back();
}

void TerminalObserver::warn(std::string_view message) { spdlog::warn("{}", message); }

void TerminalObserver::inform(std::string_view message) { spdlog::info("{}", message); }

bool TerminalObserver::cancelled() const { return interrupted(); }

void TerminalObserver::draw(const Drawn& task, bool ended) const {
  const double seconds = Seconds(Clock::now() - task.start).count();
  const double share =
      task.total > 0 ? static_cast<double>(task.done) / static_cast<double>(task.total) : 1.0;
  std::string line = fmt::format("{}  {:.0f} % ({} of {} {})", task.task, 100 * share, task.done,
                                 task.total, task.unit);
  if (task.done >= task.total) {
    line += ", " + spell_duration(seconds);
  } else if (ended) {
    line += ", stopped after " + spell_duration(seconds);
  } else if (task.done > 0) {
    line += ", " + spell_duration(seconds * (1 / share - 1)) + " left";
  }
  // "\x1b[K" clears the rest of a longer previous line.
  fmt::print(stderr, "{}tandem: {}{}", terminal_ ? "\r" : "", line, terminal_ ? "\x1b[K" : "\n");
  std::fflush(stderr);
}

}  // namespace tandem::cli
