// Output on standard error: messages by level, progress as lines.
#include "cli/terminal_observer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "cli/log.h"

namespace tandem::cli {
namespace {

class Messages : public ::testing::Test {
 protected:
  void TearDown() override { set_up_log(LogLevel::kNormal); }

  // What `action` writes to standard error with a log of that level.
  template <typename Action>
  static std::string captured(LogLevel level, Action action) {
    ::testing::internal::CaptureStderr();
    set_up_log(level);
    action();
    return ::testing::internal::GetCapturedStderr();
  }
};

TEST_F(Messages, LevelsDecideWhatIsSaid) {
  const auto speak = [] {
    TerminalObserver observer;
    spdlog::debug("d");
    observer.inform("i {}");
    observer.warn("w {}");
    spdlog::error("e");
  };
  EXPECT_EQ(captured(LogLevel::kQuiet, speak), "tandem: warning: w {}\ntandem: error: e\n");
  EXPECT_EQ(captured(LogLevel::kNormal, speak),
            "tandem: i {}\ntandem: warning: w {}\ntandem: error: e\n");
  EXPECT_EQ(captured(LogLevel::kVerbose, speak),
            "tandem: d\ntandem: i {}\ntandem: warning: w {}\ntandem: error: e\n");
}

TEST_F(Messages, ProgressSaysHowFarItCame) {
  const std::string text = captured(LogLevel::kNormal, [] {
    TerminalObserver observer;
    Task task(observer, "calibrating", 35, "blocks");
    task.advance(12);
  });
  EXPECT_TRUE(text.starts_with("tandem: calibrating  34 % (12 of 35 blocks), stopped after "))
      << text;
}

TEST_F(Messages, TasksWithinTasksAreShownEach) {
  const std::string text = captured(LogLevel::kNormal, [] {
    TerminalObserver observer;
    Task outer(observer, "compare", 3, "modes");
    {
      Task inner(observer, "bench", 4, "runs");
      inner.advance(4);
    }
    outer.advance();
  });
  EXPECT_EQ(text.find("tandem: bench  100 % (4 of 4 runs), 0 s\n"
                      "tandem: compare  33 % (1 of 3 modes), "),
            0u)
      << text;
}

// Elsewhere than on a terminal a line is drawn every few seconds; the last one may be the end.
TEST_F(Messages, TheLastLineIsNotRepeated) {
  const std::string text = captured(LogLevel::kNormal, [] {
    TerminalObserver observer;
    Task task(observer, "compare", 1, "modes");
    std::this_thread::sleep_for(std::chrono::milliseconds(5100));
    task.advance();
  });
  EXPECT_EQ(text, "tandem: compare  100 % (1 of 1 modes), 5 s\n");
}

TEST_F(Messages, ProgressIsSilentWhenTheLogIsOrNothingIsDone) {
  const auto work = [](std::int64_t done) {
    TerminalObserver observer;
    Task task(observer, "calibrating", 3, "blocks");
    if (done > 0) task.advance(done);
  };
  EXPECT_EQ(captured(LogLevel::kQuiet, [&] { work(1); }), "");
  EXPECT_EQ(captured(LogLevel::kNormal, [&] { work(0); }), "");
  EXPECT_NE(captured(LogLevel::kNormal, [&] { work(1); }), "");
}

TEST_F(Messages, NothingIsCancelledWithoutCtrlC) { EXPECT_FALSE(TerminalObserver().cancelled()); }

}  // namespace
}  // namespace tandem::cli
