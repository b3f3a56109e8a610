// Mapping, reading and replacing files.
#include "base/files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/staged_file.h"
#include "support.h"

namespace tandem {
namespace {

using testing::error_of;

std::size_t entries(const fs::path& folder) {
  return static_cast<std::size_t>(
      std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

ErrorCode code_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "expected a tandem::Error";
  return ErrorCode::kInternal;
}

TEST(MappedFile, GivesTheBytes) {
  const testing::ScratchFolder folder;
  const std::string text(100000, 'x');
  write_text_file(folder / "a", text);
  const auto file = MappedFile::open(folder / "a");
  EXPECT_EQ(file->path(), folder / "a");
  ASSERT_EQ(file->bytes().size(), text.size());
  EXPECT_TRUE(std::ranges::all_of(file->bytes(), [](std::byte b) { return b == std::byte{'x'}; }));
}

TEST(MappedFile, OutlivesReplacementOfTheFile) {
  const testing::ScratchFolder folder;
  write_text_file(folder / "a", "old");
  const auto file = MappedFile::open(folder / "a");
  write_text_file(folder / "a", "");
  EXPECT_EQ(file->bytes()[0], std::byte{'o'});
  EXPECT_TRUE(MappedFile::open(folder / "a")->bytes().empty());
}

TEST(MappedFile, RefusesWhatIsNoFile) {
  const testing::ScratchFolder folder;
  EXPECT_EQ(code_of([&] { MappedFile::open(folder / "absent"); }), ErrorCode::kNotFound);
  EXPECT_EQ(code_of([&] { MappedFile::open(folder.path()); }), ErrorCode::kIo);
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(code_of([&] { MappedFile::open(folder / "pipe"); }),
            ErrorCode::kIo);  // and does not wait
  EXPECT_NE(
      error_of([&] { MappedFile::open(folder / "absent"); }).find((folder / "absent").string()),
      std::string::npos);
}

TEST(MappedFile, IsKnownByItsStampOrTheNameItWasGiven) {
  const testing::ScratchFolder folder;
  write_text_file(folder / "a", "one");
  write_text_file(folder / "b", "one");
  const auto file = MappedFile::open(folder / "a");
  EXPECT_EQ(file->identity(), file_stamp(folder / "a"));
  EXPECT_EQ(file->identity(), MappedFile::open(folder / "a")->identity());
  EXPECT_NE(file->identity(), file_stamp(folder / "b"));
  EXPECT_EQ(MappedFile::open(folder / "a", "hash")->identity(), "hash");
  EXPECT_EQ(code_of([&] { file_stamp(folder / "absent"); }), ErrorCode::kNotFound);
}

// Writes into the file where it lies, at a time that every file system tells from the one before.
void write_in_place(const fs::path& path, std::string_view text) {
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  std::fstream(path, std::ios::in | std::ios::out) << text << std::flush;
}

TEST(FileStamp, ChangesWithEveryWayToChangeAFile) {
  const testing::ScratchFolder folder;
  write_text_file(folder / "a", "one");
  const auto written = fs::last_write_time(folder / "a");
  std::set<std::string> stamps = {file_stamp(folder / "a")};
  write_in_place(folder / "a", "two");  // same size
  EXPECT_TRUE(stamps.insert(file_stamp(folder / "a")).second);
  fs::last_write_time(folder / "a", written);  // as copies that keep times do
  EXPECT_TRUE(stamps.insert(file_stamp(folder / "a")).second);
  write_text_file(folder / "a", "two");  // another file
  EXPECT_TRUE(stamps.insert(file_stamp(folder / "a")).second);
  fs::resize_file(folder / "a", 2);
  EXPECT_TRUE(stamps.insert(file_stamp(folder / "a")).second);
}

TEST(MappedFile, SeesThatItIsWrittenToButNotThatItIsReplaced) {
  const testing::ScratchFolder folder;
  for (const char* name : {"written", "cut", "dated", "replaced", "removed"})
    write_text_file(folder / name, "one");
  const auto written = MappedFile::open(folder / "written", "a name of its own");
  const auto cut = MappedFile::open(folder / "cut");
  const auto dated = MappedFile::open(folder / "dated");
  const auto replaced = MappedFile::open(folder / "replaced");
  const auto removed = MappedFile::open(folder / "removed");
  for (const auto& file : {written, cut, dated, replaced, removed}) EXPECT_TRUE(file->unchanged());
  write_in_place(folder / "written", "two");
  fs::resize_file(folder / "cut", 1);
  const auto time = fs::last_write_time(folder / "dated");
  write_in_place(folder / "dated", "two");
  fs::last_write_time(folder / "dated", time);
  write_text_file(folder / "replaced", "another");
  fs::remove(folder / "removed");
  EXPECT_FALSE(written->unchanged());
  EXPECT_FALSE(cut->unchanged());
  EXPECT_FALSE(dated->unchanged());
  EXPECT_TRUE(replaced->unchanged());
  EXPECT_TRUE(removed->unchanged());
  EXPECT_EQ(replaced->bytes()[0], std::byte{'o'});
  EXPECT_EQ(removed->bytes()[0], std::byte{'o'});
}

TEST(MappedFile, LooksAtItsOwnFileWhateverTheFolder) {
  const testing::ScratchFolder folder;
  const fs::path before = fs::current_path();
  write_text_file(folder / "a", "one");
  fs::current_path(folder.path());
  const auto file = MappedFile::open("a");
  fs::current_path(before);
  EXPECT_TRUE(file->unchanged());
  write_in_place(folder / "a", "two");
  EXPECT_FALSE(file->unchanged());
}

TEST(ReadTextFile, ReadsWholeFilesWithinTheBound) {
  const testing::ScratchFolder folder;
  const std::string text(3000001, 'y');
  write_text_file(folder / "a", text);
  EXPECT_EQ(read_text_file(folder / "a"), text);
  EXPECT_EQ(read_text_file(folder / "a", text.size()), text);
  EXPECT_EQ(code_of([&] { read_text_file(folder / "a", text.size() - 1); }), ErrorCode::kFormat);
  EXPECT_EQ(code_of([&] { read_text_file("/dev/zero", 5000000); }), ErrorCode::kFormat);
  EXPECT_EQ(code_of([&] { read_text_file(folder.path()); }), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code_of([&] { read_text_file(folder / "absent"); }), ErrorCode::kNotFound);
  EXPECT_FALSE(read_text_file("/proc/self/status").empty());  // announces no size
}

TEST(WriteTextFile, ReplacesAndLeavesNothingBehind) {
  const testing::ScratchFolder folder;
  write_text_file(folder / "a", "one");
  write_text_file(folder / "a", "two");
  EXPECT_EQ(read_text_file(folder / "a"), "two");
  EXPECT_EQ(entries(folder.path()), 1u);
}

TEST(WriteTextFile, FollowsLinksAndRefusesWhatItWouldDestroy) {
  const testing::ScratchFolder folder;
  write_text_file(folder / "a", "one");
  fs::create_symlink("a", folder / "link");
  write_text_file(folder / "link", "two");
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(read_text_file(folder / "a"), "two");
  EXPECT_EQ(code_of([&] { write_text_file(folder.path(), "x"); }), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code_of([&] { write_text_file("/dev/null", "x"); }), ErrorCode::kIo);
  EXPECT_EQ(code_of([&] { write_text_file(folder / "absent/a", "x"); }), ErrorCode::kNotFound);
  EXPECT_EQ(entries(folder.path()), 2u);
}

TEST(WriteTextFile, WritersOfOneFileLeaveOneOfTheirTexts) {
  const testing::ScratchFolder folder;
  std::vector<std::thread> writers;
  for (char c = 'a'; c < 'e'; ++c) {
    writers.emplace_back([&, c] {
      for (int i = 0; i < 10; ++i) write_text_file(folder / "f", std::string(5000, c));
    });
  }
  for (std::thread& writer : writers) writer.join();
  const std::string text = read_text_file(folder / "f");
  EXPECT_EQ(text, std::string(5000, text.at(0)));
  EXPECT_EQ(entries(folder.path()), 1u);
}

TEST(StagedFile, DisappearsUnlessCommitted) {
  const testing::ScratchFolder folder;
  write_text_file(folder / "a", "old");
  {
    StagedFile file(folder / "a");
    file.write_at(2, std::as_bytes(std::span("xyz", 3)));
    EXPECT_EQ(read_text_file(folder / "a"), "old");
    EXPECT_EQ(entries(folder.path()), 2u);
  }
  EXPECT_EQ(read_text_file(folder / "a"), "old");
  EXPECT_EQ(entries(folder.path()), 1u);
}

TEST(StagedFile, CommitsWithoutFlushingToDisk) {
  const testing::ScratchFolder folder;
  write_text_file(folder / "a", "old");
  StagedFile file(folder / "a", Durability::kNone);
  file.write_at(0, std::as_bytes(std::span("new", 3)));
  file.commit();
  EXPECT_EQ(read_text_file(folder / "a"), "new");
  EXPECT_EQ(entries(folder.path()), 1u);
}

}  // namespace
}  // namespace tandem
