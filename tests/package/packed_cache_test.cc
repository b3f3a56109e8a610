// The cache of packed weights: what a second start finds, and what it must not trust.
#include "package/packed_cache.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "package/package_fixture.h"

namespace tandem {
namespace {

using testing::names_in;
using testing::read_bytes;
using testing::ScratchFolder;
using testing::write_bytes;

const std::string kKey(32, 'a');
constexpr std::int64_t kBytes = 1000;

void fill(std::byte* data) {
  for (std::int64_t i = 0; i < kBytes; ++i) data[i] = static_cast<std::byte>(i * 7);
}

bool is_filled(const Tensor& tensor) {
  if (tensor.dtype() != DType::kU8 || tensor.shape() != Shape{kBytes}) return false;
  std::vector<std::byte> expected(static_cast<std::size_t>(kBytes));
  fill(expected.data());
  return std::ranges::equal(tensor.bytes(), expected);
}

class FilePackedCacheTest : public ::testing::Test {
 protected:
  // Packs of one start of the program; what it returns must be right in any case.
  int start(const std::string& key = kKey) {
    FilePackedCache cache(folder_, pool_);
    const Tensor panels = cache.get_or_pack([&] { return key; }, kBytes, fill);
    EXPECT_TRUE(is_filled(panels));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(panels.bytes().data()) % 64, 0u);
    return cache.packed();
  }

  ScratchFolder scratch_;
  fs::path folder_ = scratch_ / "deep/cache";
  fs::path file_ = folder_ / (kKey + ".panels");
  ThreadPool pool_{2};
};

TEST_F(FilePackedCacheTest, SecondStartPacksNothing) {
  EXPECT_EQ(start(), 1);
  EXPECT_EQ(start(), 0);
  EXPECT_EQ(names_in(folder_), std::vector<std::string>{kKey + ".panels"});
  EXPECT_EQ(start(std::string(32, 'b')), 1);
  EXPECT_EQ(names_in(folder_).size(), 2u);
}

TEST_F(FilePackedCacheTest, OneStartPacksAKeyOnce) {
  FilePackedCache cache(folder_, pool_);
  for (int i = 0; i < 3; ++i)
    EXPECT_TRUE(is_filled(cache.get_or_pack([] { return kKey; }, kBytes, fill)));
  EXPECT_EQ(cache.packed(), 1);
}

TEST_F(FilePackedCacheTest, DamagedFilesArePackedAnew) {
  EXPECT_EQ(start(), 1);
  const std::string good = read_bytes(file_);
  const auto expect_anew = [&](const std::string& bytes) {
    fs::remove(file_);
    write_bytes(file_, bytes);
    EXPECT_EQ(start(), 1) << bytes.size();
    EXPECT_EQ(read_bytes(file_), good);
    EXPECT_EQ(start(), 0);
  };
  for (const std::size_t at : {std::size_t{0}, std::size_t{20}, std::size_t{50}, std::size_t{90},
                               std::size_t{128}, good.size() / 2, good.size() - 1}) {
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ 4);
    expect_anew(bytes);
  }
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{64}, std::size_t{128}, good.size() - 1})
    expect_anew(good.substr(0, size));
  expect_anew(good + "x");
  expect_anew("somebody else's file");
  // As after a power failure: the size is right, the content never came.
  expect_anew(std::string(good.size(), '\0'));
}

TEST_F(FilePackedCacheTest, FileOfAnotherKeyIsNotTaken) {
  EXPECT_EQ(start(), 1);
  const std::string other(32, 'b');
  fs::copy_file(file_, folder_ / (other + ".panels"));
  EXPECT_EQ(start(other), 1);
}

TEST_F(FilePackedCacheTest, ClearsAwayWhatKilledWritersLeft) {
  fs::create_directories(folder_);
  const pid_t gone = ::fork();
  if (gone == 0) ::_exit(0);
  ASSERT_EQ(::waitpid(gone, nullptr, 0), gone);
  const std::string dead = "." + kKey + ".panels.tmp-" + std::to_string(gone) + "-0";
  const std::string alive = "." + kKey + ".panels.tmp-" + std::to_string(::getppid()) + "-0";
  write_bytes(folder_ / dead, "half");
  write_bytes(folder_ / alive, "half");
  write_bytes(folder_ / "notes.panels.tmp-1", "mine");
  EXPECT_EQ(start(), 1);
  EXPECT_EQ(names_in(folder_),
            (std::vector<std::string>{alive, kKey + ".panels", "notes.panels.tmp-1"}));
}

TEST_F(FilePackedCacheTest, UnwritableFolderOnlyWarns) {
  // A file where the folder should be refuses even root.
  write_bytes(scratch_ / "deep", "");
  FilePackedCache cache(folder_, pool_);
  ::testing::internal::CaptureStdout();
  for (const char letter : {'a', 'b', 'c'}) {
    const std::string key(32, letter);
    EXPECT_TRUE(is_filled(cache.get_or_pack([&] { return key; }, kBytes, fill)));
  }
  const std::string printed = ::testing::internal::GetCapturedStdout();
  EXPECT_EQ(cache.packed(), 3);
  std::size_t warnings = 0;
  for (std::size_t at = 0;
       (at = printed.find("cannot keep packed weights", at)) != std::string::npos; ++at)
    ++warnings;
  EXPECT_EQ(warnings, 1u) << printed;
}

TEST_F(FilePackedCacheTest, ProcessesAtOnceDoNotDisturbEachOther) {
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      ThreadPool pool(1);
      bool right = true;
      for (int key = 0; key < 20; ++key) {
        FilePackedCache cache(folder_, pool);
        const std::string name(32, static_cast<char>('a' + key));
        right = right && is_filled(cache.get_or_pack([&] { return name; }, kBytes, fill));
      }
      ::_exit(right ? 0 : 1);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  EXPECT_EQ(names_in(folder_).size(), 20u);
  for (int key = 0; key < 20; ++key)
    EXPECT_EQ(start(std::string(32, static_cast<char>('a' + key))), 0);
}

TEST(DefaultCacheFolder, FollowsTheEnvironment) {
  const auto with = [](const char* cache, const char* xdg, const char* home) {
    struct Variable {
      const char* name;
      const char* value;
    };
    std::vector<std::pair<std::string, std::optional<std::string>>> before;
    for (const Variable& v :
         {Variable{"TANDEM_CACHE", cache}, {"XDG_CACHE_HOME", xdg}, {"HOME", home}}) {
      const char* old = std::getenv(v.name);
      before.emplace_back(v.name, old != nullptr ? std::optional<std::string>(old) : std::nullopt);
      v.value != nullptr ? ::setenv(v.name, v.value, 1) : ::unsetenv(v.name);
    }
    const fs::path folder = default_cache_folder();
    for (const auto& [name, value] : before)
      value ? ::setenv(name.c_str(), value->c_str(), 1) : ::unsetenv(name.c_str());
    return folder;
  };
  EXPECT_EQ(with("/a", "/b", "/c"), "/a/");
  EXPECT_EQ(with(nullptr, "/b", "/c"), "/b/tandem");
  EXPECT_EQ(with("", "", "/c"), "/c/.cache/tandem");
  EXPECT_EQ(with(nullptr, nullptr, nullptr), fs::path());
}

}  // namespace
}  // namespace tandem
