// The cache of packed weights: what a second start finds, and what it must not trust.
#include "package/panel_cache.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <optional>

#include "base/cpu_features.h"
#include "base/staged_file.h"
#include "checkpoint/safetensors.h"
#include "devices/cpu/cpu_device.h"
#include "execute/executor.h"
#include "package/cache_folder.h"
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

class FilePanelCacheTest : public ::testing::Test {
 protected:
  // Packs of one start of the program; what it returns must be right in any case.
  int start(const std::string& key = kKey) {
    FilePanelCache cache(folder_, silent());
    const Tensor panels = cache.get_or_pack({key, true}, kBytes, fill);
    EXPECT_TRUE(is_filled(panels));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(panels.bytes().data()) % 64, 0u);
    return cache.packed();
  }

  ScratchFolder scratch_;
  fs::path folder_ = scratch_ / "deep/cache";
  fs::path file_ = folder_ / (kKey + ".panels");
};

// Remembers what it is told.
class Listener : public Observer {
 public:
  void warn(std::string_view message) override { warnings.emplace_back(message); }
  std::vector<std::string> warnings;
};

TEST_F(FilePanelCacheTest, SecondStartPacksNothing) {
  EXPECT_EQ(start(), 1);
  EXPECT_EQ(start(), 0);
  EXPECT_EQ(names_in(folder_), std::vector<std::string>{kKey + ".panels"});
  EXPECT_EQ(start(std::string(32, 'b')), 1);
  EXPECT_EQ(names_in(folder_).size(), 2u);
}

TEST_F(FilePanelCacheTest, OneStartPacksAKeyOnce) {
  FilePanelCache cache(folder_, silent());
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(is_filled(cache.get_or_pack({kKey, true}, kBytes, fill)));
  EXPECT_EQ(cache.packed(), 1);
}

TEST_F(FilePanelCacheTest, DamagedFilesArePackedAnew) {
  EXPECT_EQ(start(), 1);
  const std::string good = read_bytes(file_);
  const auto expect_anew = [&](const std::string& bytes) {
    fs::remove(file_);
    write_bytes(file_, bytes);
    EXPECT_EQ(start(), 1) << bytes.size();
    // But for the time at which they were made.
    EXPECT_EQ(read_bytes(file_).substr(0, kBytes + 88), good.substr(0, kBytes + 88));
    EXPECT_EQ(start(), 0);
  };
  // Of the footer: what it says of itself, its key, the size, the hash and what is kept free.
  for (const std::size_t in_footer : {std::size_t{0}, std::size_t{14}, std::size_t{20},
                                      std::size_t{50}, std::size_t{60}, std::size_t{100}}) {
    const std::size_t at = static_cast<std::size_t>(kBytes) + in_footer;
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

// Bytes of the panels themselves: whoever writes to a file changes its time, which has its content
// hashed.
TEST_F(FilePanelCacheTest, ChangedPanelsArePackedAnewWithAWarning) {
  EXPECT_EQ(start(), 1);
  for (const std::int64_t at : {std::int64_t{0}, kBytes - 1}) {
    std::fstream file(file_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(at);
    file.put('x');
    file.close();
    Listener listener;
    FilePanelCache cache(folder_, listener);
    EXPECT_TRUE(is_filled(cache.get_or_pack({kKey, true}, kBytes, fill)));
    EXPECT_EQ(cache.packed(), 1);
    ASSERT_EQ(listener.warnings.size(), 1u);
    EXPECT_EQ(listener.warnings[0],
              "[cache] " + file_.string() + ": is damaged: its weight is packed anew");
    EXPECT_EQ(start(), 0);
  }
}

// As an update of the program leaves it.
TEST_F(FilePanelCacheTest, FilesOfAnotherVersionAreNoDamage) {
  EXPECT_EQ(start(), 1);
  std::string bytes = read_bytes(file_);
  bytes[kBytes + 14] = '4';
  write_bytes(file_, bytes);
  Listener listener;
  FilePanelCache cache(folder_, listener);
  EXPECT_TRUE(is_filled(cache.get_or_pack({kKey, true}, kBytes, fill)));
  EXPECT_EQ(cache.packed(), 1);
  EXPECT_TRUE(listener.warnings.empty());
}

// A copy has another time, and the same content.
TEST_F(FilePanelCacheTest, CopiedFilesAreGood) {
  EXPECT_EQ(start(), 1);
  fs::copy_file(file_, scratch_ / "copy");
  fs::rename(scratch_ / "copy", file_);
  EXPECT_EQ(start(), 0);
}

TEST_F(FilePanelCacheTest, TwoProcessesMakeTheSameCacheAtOnce) {
  constexpr int kProcesses = 4;
  std::vector<pid_t> children;
  for (int i = 0; i < kProcesses; ++i) {
    children.push_back(::fork());
    if (children.back() != 0) continue;
    bool good = true;
    for (int round = 0; round < 20; ++round) {
      FilePanelCache cache(folder_, silent());
      for (const char letter : {'a', 'b', 'c'})
        good = good && is_filled(cache.get_or_pack({std::string(32, letter), true}, kBytes, fill));
      if (round % 5 == 4) clear_cache(folder_);
    }
    ::_exit(good ? 0 : 1);
  }
  for (const pid_t child : children) {
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
}

class CacheFolder : public FilePanelCacheTest {
 protected:
  // Uses files one after the other, each a second later than the one before.
  void use(const std::string& letters, std::int64_t limit = 0) {
    for (const char letter : letters) {
      const std::string key(32, letter);
      FilePanelCache cache(folder_, listener_, limit);
      EXPECT_TRUE(is_filled(cache.get_or_pack({key, true}, kBytes, fill)));
      const std::array<timespec, 2> times = {timespec{.tv_sec = ++time_, .tv_nsec = 0},
                                             timespec{.tv_sec = 0, .tv_nsec = UTIME_OMIT}};
      ::utimensat(AT_FDCWD, (folder_ / (key + ".panels")).c_str(), times.data(), 0);
    }
  }
  std::string letters() const {
    std::string found;
    for (const CacheFile& file : list_cache(folder_)) found += file.name[0];
    return found;
  }

  static constexpr std::int64_t kFileBytes = kBytes + 128;
  Listener listener_;
  // Later than any time of change.
  std::int64_t time_ = std::time(nullptr) + 1000;
};

TEST_F(CacheFolder, ListsTheLongestUnusedFirst) {
  EXPECT_TRUE(list_cache(scratch_ / "none").empty());
  use("abc");
  use("a");
  write_bytes(folder_ / "notes.txt", "mine");
  EXPECT_EQ(letters(), "bca");
  EXPECT_EQ(list_cache(folder_)[0].bytes, kFileBytes);
}

TEST_F(CacheFolder, PrunesBySizeAndByAge) {
  use("abcde");
  RemovedFiles removed = prune_cache(folder_, {.max_bytes = 3 * kFileBytes});
  EXPECT_EQ(removed.files, 2);
  EXPECT_EQ(removed.bytes, 2 * kFileBytes);
  EXPECT_EQ(letters(), "cde");
  const auto since = list_cache(folder_)[1].last_used;
  EXPECT_EQ(prune_cache(folder_, {.unused_since = since}).files, 1);
  EXPECT_EQ(letters(), "de");
  EXPECT_EQ(prune_cache(folder_, {.max_bytes = 1, .in_use_since = since}).files, 0);
  write_bytes(folder_ / "notes.txt", "mine");
  EXPECT_EQ(clear_cache(folder_).files, 2);
  EXPECT_EQ(names_in(folder_), std::vector<std::string>{"notes.txt"});
}

TEST_F(CacheFolder, StaysWithinItsLimit) {
  // Made long ago.
  time_ -= 100'000;
  use("abc");
  for (const CacheFile& file : list_cache(folder_)) {
    const std::array<timespec, 2> times = {timespec{.tv_sec = time_, .tv_nsec = 0},
                                           timespec{.tv_sec = time_, .tv_nsec = 0}};
    ::utimensat(AT_FDCWD, (folder_ / file.name).c_str(), times.data(), 0);
  }
  FilePanelCache cache(folder_, listener_, 3 * kFileBytes);
  for (const char letter : {'d', 'e', 'f', 'g'})
    EXPECT_TRUE(is_filled(cache.get_or_pack({std::string(32, letter), true}, kBytes, fill)));
  EXPECT_EQ(letters(), "def") << "what this process uses stays, more than the limit is not written";
  ASSERT_EQ(listener_.warnings.size(), 1u);
  EXPECT_NE(listener_.warnings[0].find("larger than the cache may be, 3384 bytes"),
            std::string::npos);
}

TEST_F(FilePanelCacheTest, PanelsBeginOnAHugePageOfTheFile) {
  EXPECT_EQ(start(), 1);
  FilePanelCache cache(folder_, silent());
  const Tensor panels = cache.get_or_pack({kKey, true}, kBytes, fill);
  ASSERT_NE(panels.file(), nullptr);
  EXPECT_EQ(panels.bytes().data(), panels.file()->bytes().data());
}

TEST_F(FilePanelCacheTest, FileOfAnotherKeyIsNotTaken) {
  EXPECT_EQ(start(), 1);
  const std::string other(32, 'b');
  fs::copy_file(file_, folder_ / (other + ".panels"));
  EXPECT_EQ(start(other), 1);
}

TEST_F(FilePanelCacheTest, ClearsAwayWhatKilledWritersLeft) {
  fs::create_directories(folder_);
  const pid_t gone = ::fork();
  if (gone == 0) ::_exit(0);
  ASSERT_EQ(::waitpid(gone, nullptr, 0), gone);
  const std::string dead = "." + kKey + ".panels.tmp-" + std::to_string(gone) + "-0";
  write_bytes(folder_ / dead, "half");
  write_bytes(folder_ / "notes.panels.tmp-1", "mine");
  {
    // Of a writer that lives.
    const StagedFile alive(file_, Durability::kNone);
    write_bytes(folder_ / dead, "half");
    EXPECT_EQ(start(), 1);
    EXPECT_EQ(names_in(folder_).size(), 3u);
  }
  EXPECT_EQ(names_in(folder_), (std::vector<std::string>{kKey + ".panels", "notes.panels.tmp-1"}));
}

TEST_F(FilePanelCacheTest, UnwritableFolderOnlyWarns) {
  // A file where the folder should be refuses even root.
  write_bytes(scratch_ / "deep", "");
  Listener listener;
  FilePanelCache cache(folder_, listener);
  for (const char letter : {'a', 'b', 'c', 'a'})
    EXPECT_TRUE(is_filled(cache.get_or_pack({std::string(32, letter), true}, kBytes, fill)));
  EXPECT_EQ(cache.packed(), 3);
  ASSERT_EQ(listener.warnings.size(), 1u);
  EXPECT_TRUE(
      listener.warnings[0].starts_with("cannot keep packed weights in " + folder_.string() + ": "))
      << listener.warnings[0];
}

TEST_F(FilePanelCacheTest, WhatLastsOnlyAsLongAsTheProcessIsNotWritten) {
  FilePanelCache cache(folder_, silent());
  for (int i = 0; i < 2; ++i)
    EXPECT_TRUE(is_filled(cache.get_or_pack({kKey, false}, kBytes, fill)));
  EXPECT_EQ(cache.packed(), 1);
  EXPECT_FALSE(fs::exists(folder_));
  // Nobody knows what it is: packed each time.
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(is_filled(cache.get_or_pack({"", true}, kBytes, fill)));
  EXPECT_EQ(cache.packed(), 3);
  EXPECT_FALSE(fs::exists(folder_));
}

TEST_F(FilePanelCacheTest, NothingIsKeptInFilesWithoutAFolder) {
  Listener listener;
  FilePanelCache cache({}, listener);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(is_filled(cache.get_or_pack({kKey, true}, kBytes, fill)));
  EXPECT_EQ(cache.packed(), 1);
  EXPECT_TRUE(listener.warnings.empty());
  EXPECT_FALSE(fs::exists(kKey + ".panels"));
}

TEST_F(FilePanelCacheTest, PanelsAreMappedAndOutliveTheirFile) {
  EXPECT_EQ(start(), 1);
  FilePanelCache cache(folder_, silent()), other(folder_, silent());
  const Tensor panels = cache.get_or_pack({kKey, true}, kBytes, fill);
  const Tensor again = other.get_or_pack({kKey, true}, kBytes, fill);
  ASSERT_NE(panels.file(), nullptr);
  ASSERT_NE(again.file(), nullptr);
  EXPECT_EQ(panels.file()->path(), again.file()->path()) << "two processes would share its pages";
  fs::remove_all(folder_);
  EXPECT_TRUE(is_filled(panels));
}

// Executors of one graph with the weights of a package on disk.
class PackagePanels : public ::testing::Test {
 protected:
  void SetUp() override { testing::write_tiny_package(scratch_ / "p"); }

  // Weights that one more start packs for both phases.
  int start() {
    const Package package = Package::open(scratch_ / "p", pool_);
    FilePanelCache cache(scratch_ / "cache", silent());
    compile(package.graph(Phase::kPrefill), cache);
    compile(package.graph(Phase::kDecode), cache);
    return cache.packed();
  }
  void compile(const Graph& graph, PanelCache& cache) {
    const DeviceThreads devices[] = {{&device_, &pool_}};
    const std::int64_t selected[] = {1};
    const Executor executor(graph, {Phase::kDecode, 4}, devices, cache, selected);
  }

  ScratchFolder scratch_;
  ThreadPool pool_{2};
  CpuDevice device_{select_kernels(detect_cpu_features())};
};

TEST_F(PackagePanels, AreFoundBySecondStart) {
  // Seven Linears in two layers for each phase, and the head, which both share.
  EXPECT_EQ(start(), 2 * 2 * 7 + 1);
  EXPECT_EQ(names_in(scratch_ / "cache").size(), 2u * 2 * 7 + 1);
  EXPECT_EQ(start(), 0);
  // Wherever the package lies: files are known by the hashes that were verified.
  fs::rename(scratch_ / "p", scratch_ / "q");
  fs::copy(scratch_ / "q", scratch_ / "p");
  EXPECT_EQ(start(), 0);
}

TEST_F(PackagePanels, AreSharedByExecutorsOfOneProcess) {
  const Package package = Package::open(scratch_ / "p", pool_);
  FilePanelCache cache({}, silent());
  for (int i = 0; i < 3; ++i) compile(package.graph(Phase::kDecode), cache);
  EXPECT_EQ(cache.packed(), 2 * 7 + 1);
}

TEST_F(PackagePanels, OfWeightsInMemoryAreNotWritten) {
  const testing::TinyModel model = testing::tiny_model();
  FilePanelCache cache(scratch_ / "cache", silent());
  compile(model.decode, cache);
  compile(model.decode, cache);
  EXPECT_FALSE(fs::exists(scratch_ / "cache"));
  // What from_floats() gives has no name, or one for as long as the process runs.
  EXPECT_GE(cache.packed(), 2 * 7 + 1);
}

TEST_F(PackagePanels, ChangedPackageFindsNone) {
  EXPECT_GT(start(), 0);
  auto tensors = SafetensorsFile::open(scratch_ / "p" / kDecodeFile).tensors;
  const std::string name = "model.layers.0.mlp.up_proj.codes";
  std::byte* data = nullptr;
  Tensor codes = Tensor::allocate(DType::kU8, tensors.at(name).shape(), &data);
  std::fill_n(data, codes.bytes().size(), std::byte{0x37});
  tensors[name] = codes;
  write_safetensors(scratch_ / "p" / kDecodeFile, tensors);
  testing::sign_file(scratch_ / "p", kDecodeFile);
  // The file has another hash, so that all of it is new; the other file's panels are found.
  EXPECT_EQ(start(), 2 * 7 + 1);
}

TEST_F(FilePanelCacheTest, ProcessesAtOnceDoNotDisturbEachOther) {
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      bool right = true;
      for (int key = 0; key < 20; ++key) {
        FilePanelCache cache(folder_, silent());
        const std::string name(32, static_cast<char>('a' + key));
        right = right && is_filled(cache.get_or_pack({name, true}, kBytes, fill));
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
