// Replacing folders atomically, even when the writer is killed at any moment.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/files.h"
#include "support.h"

namespace tandem {
namespace {

using testing::error_of;

std::vector<std::string> names(const fs::path& folder) {
  std::vector<std::string> result;
  for (const auto& entry : fs::directory_iterator(folder))
    result.push_back(entry.path().filename().string());
  std::ranges::sort(result);
  return result;
}

std::string staging_name(pid_t pid) { return fmt::format(".out.tmp-{}", pid); }

// The id of a process that no longer exists.
pid_t dead_process() {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
  return child;
}

std::string file_name(int i) { return fmt::format("{}f{}", i % 2 == 0 ? "" : "below/", i); }

// `files` files that all hold the same number, some of them in a folder below.
void fill(const fs::path& folder, int number, int files) {
  fs::create_directory(folder / "below");
  for (int i = 0; i < files; ++i) std::ofstream(folder / file_name(i)) << number;
}

// The number that all files of the folder hold; fails if one is missing or differs.
std::string read_back(const fs::path& folder, int files) {
  std::string number;
  for (int i = 0; i < files; ++i) {
    const std::string text = read_text_file(folder / file_name(i));
    if (i == 0) number = text;
    EXPECT_EQ(text, number);
  }
  return number;
}

TEST(StagedFolder, CreatesAndReplaces) {
  const testing::ScratchFolder scratch;
  const fs::path target = scratch / "deep/er/out";
  for (int number = 1; number <= 3; ++number) {
    StagedFolder folder(target);
    fill(folder.path(), number, 4);
    EXPECT_EQ(fs::exists(target), number > 1);
    folder.commit();
    EXPECT_EQ(read_back(target, 4), std::to_string(number));
  }
  EXPECT_EQ(names(scratch / "deep/er"), std::vector<std::string>{"out"});
}

TEST(StagedFolder, ReplacesAsAWhole) {
  const testing::ScratchFolder scratch;
  fs::create_directory(scratch / "out");
  write_text_file(scratch / "out/stale", "x");
  StagedFolder folder(scratch.path() / "out/");  // as a shell completes it
  write_text_file(folder.path() / "fresh", "y");
  folder.commit();
  EXPECT_EQ(names(scratch / "out"), std::vector<std::string>{"fresh"});
}

TEST(StagedFolder, LeavesTheTargetAloneWithoutCommit) {
  const testing::ScratchFolder scratch;
  fs::create_directory(scratch / "out");
  write_text_file(scratch / "out/kept", "x");
  {
    StagedFolder folder(scratch / "out");
    write_text_file(folder.path() / "lost", "y");
  }
  EXPECT_EQ(names(scratch / "out"), std::vector<std::string>{"kept"});
  EXPECT_EQ(names(scratch.path()), std::vector<std::string>{"out"});
}

TEST(StagedFolder, CommittedWriterDoesNotTouchItsSuccessor) {
  const testing::ScratchFolder scratch;
  auto first = std::make_unique<StagedFolder>(scratch / "out");
  first->commit();
  StagedFolder second(scratch / "out");
  first.reset();
  EXPECT_TRUE(fs::exists(second.path()));
  second.commit();
  EXPECT_NE(error_of([&] { second.commit(); }).find("committed already"), std::string::npos);
}

TEST(StagedFolder, RefusesWhatItCannotReplace) {
  const testing::ScratchFolder scratch;
  write_text_file(scratch / "file", "x");
  EXPECT_FALSE(error_of([&] { StagedFolder folder(scratch / "file"); }).empty());
  EXPECT_FALSE(error_of([&] { StagedFolder folder(scratch / "file/out"); }).empty());
  EXPECT_FALSE(error_of([&] { StagedFolder folder("/"); }).empty());
  StagedFolder first(scratch / "out");
  EXPECT_NE(error_of([&] { StagedFolder second(scratch / "out"); }).find("writing it already"),
            std::string::npos);
  EXPECT_TRUE(fs::exists(first.path()));
}

TEST(StagedFolder, FollowsALinkToTheFolder) {
  const testing::ScratchFolder scratch;
  fs::create_directory(scratch / "real");
  fs::create_directory_symlink("real", scratch / "link");
  StagedFolder folder(scratch / "link");
  write_text_file(folder.path() / "a", "x");
  folder.commit();
  EXPECT_TRUE(fs::is_symlink(scratch / "link"));
  EXPECT_EQ(names(scratch / "real"), std::vector<std::string>{"a"});
}

TEST(StagedFolder, RemovesOnlyWhatDeadWritersLeft) {
  const testing::ScratchFolder scratch;
  const std::string dead = staging_name(dead_process());
  const std::string own = staging_name(::getpid());
  // Process 1 lives, but is not the one that wrote this: another container's was.
  const std::string living = staging_name(1);
  const std::string other = fmt::format(".outer.tmp-{}", dead_process());
  const std::vector<std::string> kept = {".out.tmp-", ".out.tmp-12x", ".out.tmp--5", other};
  for (const std::string& name : kept) fs::create_directory(scratch / name);
  for (const std::string& name : {dead, own, living}) {
    fs::create_directory(scratch / name);
    write_text_file(scratch / name / "part", "x");
  }
  // A link with such a name is not ours, and what it points to even less.
  fs::create_directory_symlink(other, scratch / staging_name(dead_process()));
  StagedFolder folder(scratch / "out");
  EXPECT_FALSE(fs::exists(scratch / dead));
  EXPECT_FALSE(fs::exists(scratch / living));
  EXPECT_TRUE(fs::is_empty(scratch / own));  // this writer's, new
  for (const std::string& name : kept) EXPECT_TRUE(fs::exists(scratch / name)) << name;
}

TEST(StagedFolder, LeavesAloneWhatAWriterHoldsWhateverItsNumber) {
  const testing::ScratchFolder scratch;
  const fs::path held = scratch / staging_name(dead_process());
  StagedFolder writer(scratch / "out");
  // As a writer in another container, whose process does not exist in this one.
  fs::rename(writer.path(), held);
  {
    StagedFolder folder(scratch / "out");
    EXPECT_TRUE(fs::exists(held));
  }
  EXPECT_TRUE(fs::exists(held));
}

TEST(StagedFolder, FinishesAWriterKilledAfterTheExchange) {
  const testing::ScratchFolder scratch;
  fs::create_directory(scratch / "out");
  write_text_file(scratch / "out/new", "x");
  const std::string dead = staging_name(dead_process());
  fs::create_directory(scratch / dead);
  write_text_file(scratch / dead / "old", "x");
  {
    StagedFolder folder(scratch / "out");
  }
  EXPECT_EQ(names(scratch.path()), std::vector<std::string>{"out"});
  EXPECT_EQ(names(scratch / "out"), std::vector<std::string>{"new"});
}

TEST(StagedFolder, TargetIsWholeWheneverTheWriterIsKilled) {
  constexpr int kFiles = 4;
  const testing::ScratchFolder scratch;
  const fs::path target = scratch / "out";
  std::mt19937 random(7);
  int replaced = 0;
  std::string last;
  // How long two replacements take here is a first guess at when to kill. It grows with each
  // child that was killed before it replaced anything and shrinks with each other one, so that
  // every stage is hit however long a fork takes.
  const auto start = std::chrono::steady_clock::now();
  const auto replace = [&](int number) {
    StagedFolder folder(target);
    fill(folder.path(), number, kFiles);
    folder.commit();
  };
  for (int i = 0; i < 4; ++i) replace(i);
  auto span = (std::chrono::steady_clock::now() - start) / 2;

  for (int round = 0; round < 40; ++round) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      for (int i = 0;; ++i) replace(round * 1000000 + i);
    }
    std::this_thread::sleep_for(span * static_cast<int>(random() % 1000) / 1000);
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    const std::string number = read_back(target, kFiles);
    if (number != last) ++replaced;
    span = number == last ? span * 5 / 4 : span * 4 / 5;
    last = number;
    {
      StagedFolder folder(target);
    }
    ASSERT_EQ(names(scratch.path()), std::vector<std::string>{"out"})
        << "left over after " << round;
  }
  EXPECT_GT(replaced, 3);
}

}  // namespace
}  // namespace tandem
