// Temporary files left by killed writers, and those held by live ones.
#include "base/staging.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "base/staged_file.h"
#include "support.h"

namespace tandem {
namespace {

void put(const fs::path& path) { std::ofstream(path) << "x"; }

// An open, locked file, as a writer holds it.
class Held {
 public:
  explicit Held(const fs::path& path)
      : file_(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666)) {
    EXPECT_EQ(lock_staging(file_), LockResult::kLocked);
  }
  ~Held() { ::close(file_); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

 private:
  int file_;
};

TEST(Staging, LocksDecideAndWhereThereAreNoneAge) {
  using std::chrono::hours;
  EXPECT_TRUE(is_abandoned(LockResult::kLocked, hours(0)));
  EXPECT_FALSE(is_abandoned(LockResult::kBusy, hours(1000)));
  EXPECT_FALSE(is_abandoned(LockResult::kNoLocks, hours(23)));
  EXPECT_FALSE(is_abandoned(LockResult::kNoLocks, hours(-23)));
  EXPECT_TRUE(is_abandoned(LockResult::kNoLocks, hours(25)));
}

TEST(Staging, WhatCannotBeLockedAtAllHasNoLocks) {
  EXPECT_EQ(lock_staging(-1), LockResult::kNoLocks);
}

TEST(Staging, RemovesWhatNobodyHoldsOfTheTargetsWanted) {
  const testing::ScratchFolder folder;
  const std::vector<std::string> removed = {".a.tmp-1", ".a.tmp-1-0", ".a.tmp-99999999-12"};
  const std::vector<std::string> kept = {"a",          "a.tmp-1",      ".a.tmp-",   ".a.tmp-1-",
                                         ".a.tmp-1x",  ".a.tmp-1-2-3", ".a.tmp--1", ".b.tmp-1",
                                         ".a.tmp-1.b", ".tmp-1",       "..tmp-1-1"};
  for (const std::string& name : removed) put(folder / name);
  for (const std::string& name : kept) put(folder / name);
  const Held held(folder / ".a.tmp-2-0");
  ASSERT_EQ(::mkfifo((folder / ".a.tmp-3-0").c_str(), 0600), 0);
  remove_abandoned(folder.path(), [](std::string_view target) { return target == "a"; });
  for (const std::string& name : removed) EXPECT_FALSE(fs::exists(folder / name)) << name;
  for (const std::string& name : kept) EXPECT_TRUE(fs::exists(folder / name)) << name;
  EXPECT_TRUE(fs::exists(folder / ".a.tmp-2-0"));
  EXPECT_TRUE(fs::exists(folder / ".a.tmp-3-0"));
  remove_abandoned(folder / "absent", [](std::string_view) { return true; });
}

TEST(Staging, TellsTheTarget) {
  const testing::ScratchFolder folder;
  put(folder / ".key.panels.tmp-7-0");
  put(folder / ".a.tmp-5.tmp-7-0");
  std::vector<std::string> targets;
  remove_abandoned(folder.path(), [&](std::string_view target) {
    targets.emplace_back(target);
    return target.ends_with(".panels");
  });
  std::ranges::sort(targets);
  EXPECT_EQ(targets, (std::vector<std::string>{"a.tmp-5", "key.panels"}));
  EXPECT_FALSE(fs::exists(folder / ".key.panels.tmp-7-0"));
  EXPECT_TRUE(fs::exists(folder / ".a.tmp-5.tmp-7-0"));
}

TEST(StagedFile, RemovesAbandonedFilesOfItsTargetOnly) {
  const testing::ScratchFolder folder;
  // Numbers of living processes: this one's and the first one's.
  const std::string own = fmt::format(".a.tmp-{}-0", ::getpid());
  for (const std::string& name : {own, std::string(".a.tmp-1-3"), std::string(".b.tmp-1-0")})
    put(folder / name);
  StagedFile file(folder / "a");
  EXPECT_FALSE(fs::exists(folder / ".a.tmp-1-3"));
  EXPECT_TRUE(fs::exists(folder / ".b.tmp-1-0"));
  file.commit();
  EXPECT_FALSE(fs::exists(folder / own));
}

TEST(StagedFile, HoldsItsTemporaryFileAgainstOtherWriters) {
  const testing::ScratchFolder folder;
  StagedFile first(folder / "a");
  first.write_at(0, std::as_bytes(std::span("first", 5)));
  {
    StagedFile second(folder / "a");
    second.write_at(0, std::as_bytes(std::span("second", 6)));
    second.commit();
  }
  EXPECT_EQ(read_text_file(folder / "a"), "second");
  first.commit();
  EXPECT_EQ(read_text_file(folder / "a"), "first");
}

TEST(StagedFile, FilesOfAKilledWriterGoWithTheNextOne) {
  const testing::ScratchFolder folder;
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const StagedFile file(folder / "a");
    ::kill(::getpid(), SIGKILL);
  }
  ::waitpid(child, nullptr, 0);
  const fs::path left = folder / fmt::format(".a.tmp-{}-0", child);
  EXPECT_TRUE(fs::exists(left));
  write_text_file(folder / "a", "x");
  EXPECT_FALSE(fs::exists(left));
}

// Every writer cleans up before it writes; none may lose its file to another's clean-up.
TEST(StagedFile, WritersAndCleanersDoNotMeet) {
  const testing::ScratchFolder folder;
  std::vector<std::thread> writers;
  for (int i = 0; i < 4; ++i) {
    writers.emplace_back([&] {
      for (int round = 0; round < 300; ++round) {
        StagedFile file(folder / "a", Durability::kNone);
        file.write_at(0, std::as_bytes(std::span("text", 4)));
        file.commit();
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(read_text_file(folder / "a"), "text");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace tandem
