// A mapped file that is truncated while in use: one line and status 1, in a forked process.
#include "base/mapping_fault.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <vector>

#include "base/files.h"
#include "support.h"

namespace tandem {
namespace {

struct End {
  // As returned by waitpid.
  int status = 0;
  std::string said;
};

// Runs `action` in a process with the handler; returns its exit status (77 if it survives) and its
// output on standard error.
End end_of(const std::function<void()>& action) {
  int ends[2];
  EXPECT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  EXPECT_GE(child, 0);
  if (child == 0) {
    ::dup2(ends[1], STDERR_FILENO);
    ::close(ends[0]);
    ::close(ends[1]);
    const rlimit no_core{0, 0};
    ::setrlimit(RLIMIT_CORE, &no_core);
    install_mapping_fault_handler();
    action();
    ::_exit(77);
  }
  ::close(ends[1]);
  End end;
  char buffer[4096];
  for (ssize_t got = 0; (got = ::read(ends[0], buffer, sizeof buffer)) > 0;)
    end.said.append(buffer, static_cast<std::size_t>(got));
  ::close(ends[0]);
  ::waitpid(child, &end.status, 0);
  return end;
}

constexpr std::size_t kBytes = std::size_t{1} << 20;

// Reads a byte of every page.
void touch(std::span<const std::byte> bytes) {
  for (std::size_t at = 0; at < bytes.size(); at += 4096) [[maybe_unused]]
    const volatile std::byte value = bytes[at];
}

TEST(MappingFault, FileCutShortIsNamedAndEndsTheProcess) {
  const testing::ScratchFolder folder;
  write_text_file(folder / "whole", std::string(kBytes, 'x'));
  write_text_file(folder / "cut", std::string(kBytes, 'x'));
  const End end = end_of([&] {
    const auto whole = MappedFile::open(folder / "whole");
    const auto cut = MappedFile::open(folder / "cut");
    const auto also_whole = MappedFile::open(folder / "whole");
    fs::resize_file(folder / "cut", 10000);
    touch(whole->bytes());
    touch(also_whole->bytes());
    touch(cut->bytes().first(10000));
    touch(cut->bytes());
  });
  EXPECT_TRUE(WIFEXITED(end.status) && WEXITSTATUS(end.status) == 1) << end.status;
  EXPECT_EQ(end.said,
            fmt::format("tandem: error: [files] {}: was cut short or could not be read while it "
                        "was in use\n",
                        (folder / "cut").string()));
}

TEST(MappingFault, LongestPathsStillEndInAWholeLine) {
  const testing::ScratchFolder folder;
  const fs::path deep = folder / std::string(200, 'd') / std::string(200, 'e');
  fs::create_directories(deep);
  write_text_file(deep / "cut", std::string(kBytes, 'x'));
  // The longest name that the system takes: "/./././" before the same file.
  const std::string name = (deep / "cut").string();
  const std::string path = std::string(4095 - name.size(), '/') + name;
  const End end = end_of([&] {
    const auto cut = MappedFile::open(path);
    fs::resize_file(deep / "cut", 0);
    touch(cut->bytes());
  });
  EXPECT_TRUE(WIFEXITED(end.status) && WEXITSTATUS(end.status) == 1) << end.status;
  EXPECT_EQ(end.said.size(), path.size() + std::string("tandem: error: [files] : was cut short or "
                                                       "could not be read while it was in use\n")
                                               .size());
  EXPECT_TRUE(end.said.ends_with("in use\n"));
}

TEST(MappingFault, AnyOtherFaultEndsAsByDefault) {
  const testing::ScratchFolder folder;
  write_text_file(folder / "mapped", std::string(kBytes, 'x'));
  write_text_file(folder / "foreign", std::string(kBytes, 'x'));
  const End end = end_of([&] {
    const auto mapped = MappedFile::open(folder / "mapped");
    const int file = ::open((folder / "foreign").c_str(), O_RDONLY);
    void* memory = ::mmap(nullptr, kBytes, PROT_READ, MAP_SHARED, file, 0);
    fs::resize_file(folder / "foreign", 0);
    touch({static_cast<const std::byte*>(memory), kBytes});
  });
  EXPECT_TRUE(WIFSIGNALED(end.status) && WTERMSIG(end.status) == SIGBUS) << end.status;
  EXPECT_EQ(end.said, "");
}

TEST(MappingFault, SignalThatWasSentEndsAsByDefault) {
  const End end = end_of([] { ::kill(::getpid(), SIGBUS); });
  EXPECT_TRUE(WIFSIGNALED(end.status) && WTERMSIG(end.status) == SIGBUS) << end.status;
  EXPECT_EQ(end.said, "");
}

TEST(MappingFault, ForgetsMappingsThatEnd) {
  const testing::ScratchFolder folder;
  write_text_file(folder / "a", std::string(kBytes, 'x'));
  const End end = end_of([&] {
    // More than the table has room for, one after the other.
    for (int i = 0; i < 5000; ++i) MappedFile::open(folder / "a");
    const std::byte* gone = MappedFile::open(folder / "a")->bytes().data();
    const int file = ::open((folder / "a").c_str(), O_RDONLY);
    void* memory =
        ::mmap(const_cast<std::byte*>(gone), kBytes, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0);
    fs::resize_file(folder / "a", 0);
    touch({static_cast<const std::byte*>(memory), kBytes});
  });
  EXPECT_TRUE(WIFSIGNALED(end.status) && WTERMSIG(end.status) == SIGBUS) << end.status;
  EXPECT_EQ(end.said, "");
}

TEST(MappingFault, FullTableLeavesTheRestUnnamed) {
  const testing::ScratchFolder folder;
  write_text_file(folder / "a", std::string(kBytes, 'x'));
  const End end = end_of([&] {
    std::vector<std::shared_ptr<const MappedFile>> files;
    for (int i = 0; i < 4200; ++i) files.push_back(MappedFile::open(folder / "a"));
    touch(files.back()->bytes());
    fs::resize_file(folder / "a", 0);
    touch(files.back()->bytes());
  });
  EXPECT_TRUE(WIFSIGNALED(end.status) && WTERMSIG(end.status) == SIGBUS) << end.status;
}

}  // namespace
}  // namespace tandem
