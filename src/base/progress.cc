// Draws the progress of long work.
#include "base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "base/log.h"

namespace tandem {
namespace {

using Seconds = std::chrono::duration<double>;

constexpr Seconds kTerminalInterval{0.1};
constexpr Seconds kLineInterval{5.0};

// "8 s", "3 min 20 s", "2 h 05 min".
std::string spell_duration(double seconds) {
  const auto whole = std::llround(seconds);
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
}

bool silent() { return !spdlog::default_logger_raw()->should_log(spdlog::level::info); }

}  // namespace

Progress::Progress(std::string label, std::int64_t total, std::string unit)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      total_(std::max<std::int64_t>(total, 0)),
      start_(std::chrono::steady_clock::now()),
      drawn_(start_),
      terminal_(::isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (silent()) return;
  draw();
  if (terminal_) std::fputc('\n', stderr);
}

void Progress::advance(std::int64_t count) {
  done_ += count;
  if (silent()) return;
  const auto now = std::chrono::steady_clock::now();
  if (now - drawn_ < (terminal_ ? kTerminalInterval : kLineInterval)) return;
  drawn_ = now;
  draw();
}

void Progress::draw() {
  const double seconds = Seconds(std::chrono::steady_clock::now() - start_).count();
  const double share = total_ > 0 ? static_cast<double>(done_) / static_cast<double>(total_) : 1.0;
  std::string line =
      fmt::format("{}  {:.0f} % ({} of {} {})", label_, 100 * share, done_, total_, unit_);
  if (done_ >= total_) {
    line += ", " + spell_duration(seconds);
  } else if (done_ > 0) {
    line += ", " + spell_duration(seconds * (1 / share - 1)) + " left";
  }
  // "\x1b[K" clears what a longer line left behind.
  fmt::print(stderr, "{}{}{}", terminal_ ? "\r" : "", line, terminal_ ? "\x1b[K" : "\n");
  std::fflush(stderr);
}

}  // namespace tandem
