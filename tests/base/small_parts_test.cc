// Hashes, processor features, error names, observers.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "base/cpu_features.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/merge_sort.h"
#include "base/observer.h"
#include "support.h"

namespace tandem {
namespace {

// Published test vectors of XXH3 (128 bits, seed 0) and what `xxhsum -H2` prints.
TEST(ContentHash, MatchesTheXxhsumProgram) {
  EXPECT_EQ(content_hash(""), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(content_hash("tandem"), content_hash(std::as_bytes(std::span("tandem", 6))));
  EXPECT_NE(content_hash("tandem"), content_hash("tandfm"));
  EXPECT_EQ(content_hash("tandem").size(), 32u);
}

TEST(ContentHash, TreeDoesNotDependOnTheNumberOfThreads) {
  std::vector<std::byte> bytes((std::size_t{40} << 20) + 5);
  for (std::size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<std::byte>(i * 2654435761u >> 13);
  ThreadPool one(1), three(3);
  const std::string hash = content_hash_tree(bytes, one);
  EXPECT_EQ(hash, content_hash_tree(bytes, three));
  EXPECT_NE(hash, content_hash(bytes));
  // Of a file, before and after its memory is released.
  const testing::ScratchFolder folder;
  write_text_file(folder / "file", {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  const auto file = MappedFile::open(folder / "file");
  EXPECT_EQ(hash, content_hash_tree(*file, three));
  EXPECT_TRUE(std::ranges::equal(file->bytes(), bytes));
  bytes.back() ^= std::byte{1};
  EXPECT_NE(hash, content_hash_tree(bytes, one));
  EXPECT_NE(content_hash_tree({}, one), content_hash(""));
  EXPECT_NE(content_hash_tree(std::span(bytes).first(100), one),
            content_hash(std::span(bytes).first(100)));
}

// The kernel's own list of flags is the reference.
TEST(CpuFeatures, AgreeWithTheKernelsList) {
  std::ifstream file("/proc/cpuinfo");
  std::string flags;
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("flags")) flags = line + " ";
  if (flags.empty()) GTEST_SKIP() << "/proc/cpuinfo lists no flags here";
  const auto listed = [&](const char* flag) {
    return flags.find(std::string(" ") + flag + " ") != std::string::npos;
  };
  const CpuFeatures features = detect_cpu_features();
  EXPECT_EQ(features.avx2, listed("avx2") && listed("fma") && listed("f16c"));
  EXPECT_EQ(features.avx512,
            listed("avx512f") && listed("avx512bw") && listed("avx512dq") && listed("avx512vl"));
  EXPECT_EQ(features.avx512_vnni, features.avx512 && listed("avx512_vnni"));
  EXPECT_EQ(features.avx512_bf16, features.avx512 && listed("avx512_bf16"));
  EXPECT_LE(features.amx, features.avx512 && listed("amx_int8") && listed("amx_bf16"));
  EXPECT_FALSE(features.model.empty());
}

TEST(CpuFeatures, SummaryNamesWhatIsThere) {
  CpuFeatures features;
  EXPECT_EQ(features.summary(), "");
  features.avx2 = features.avx512 = features.amx = true;
  EXPECT_EQ(features.summary(), "avx2 avx512 amx");
}

TEST(Error, CarriesCodeAndMessage) {
  try {
    fail(ErrorCode::kUnsupported, "[part] {}: expected {}", "file", 3);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_STREQ(error.what(), "[part] file: expected 3");
  }
  EXPECT_STREQ(to_string(ErrorCode::kInvalidArgument), "invalid_argument");
  EXPECT_STREQ(to_string(ErrorCode::kInternal), "internal");
}

class Recorder : public Observer {
 public:
  void begin(std::string_view task, std::int64_t total, std::string_view unit) override {
    said += fmt::format("begin {} {} {};", task, total, unit);
  }
  void advance(std::int64_t count) override { said += fmt::format("advance {};", count); }
  void end() override { said += "end;"; }
  bool cancelled() const override { return stop; }

  std::string said;
  bool stop = false;
};

TEST(Task, TellsItsObserver) {
  Recorder recorder;
  {
    Task outer(recorder, "outer", 2, "parts");
    outer.advance();
    Task inner(recorder, "inner", 9, "bytes");
    inner.advance(9);
  }
  EXPECT_EQ(recorder.said, "begin outer 2 parts;advance 1;begin inner 9 bytes;advance 9;end;end;");
}

TEST(Task, EndsWhenItIsNoLongerWanted) {
  Recorder recorder;
  try {
    Task task(recorder, "calibrate", 2, "blocks");
    task.advance();
    recorder.stop = true;
    task.advance();
    ADD_FAILURE() << "expected an Error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled);
    EXPECT_STREQ(error.what(), "[calibrate] interrupted");
  }
  EXPECT_EQ(recorder.said, "begin calibrate 2 blocks;advance 1;advance 1;end;");
}

TEST(Observer, SilentOneTakesNoNotice) {
  ::testing::internal::CaptureStderr();
  {
    Task task(silent(), "calibrate", 2, "blocks");
    task.advance(2);
    silent().warn("w");
    silent().inform("i");
  }
  EXPECT_FALSE(silent().cancelled());
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST(MergeSort, KeepsTheOrderOfEqualItems) {
  for (const std::size_t size : {0U, 1U, 2U, 3U, 8U, 9U, 100U}) {
    std::vector<std::pair<int, std::size_t>> items;
    for (std::size_t i = 0; i < size; ++i) items.emplace_back(static_cast<int>(i * 7 % 5), i);
    auto expected = items;
    std::sort(expected.begin(), expected.end());
    merge_sort(items, [](const auto& a, const auto& b) { return a.first < b.first; });
    EXPECT_EQ(items, expected);
  }
}

TEST(MergeSort, SurvivesAComparisonThatContradictsItself) {
  std::vector<std::string> items;
  for (int i = 0; i < 1000; ++i) items.push_back(std::to_string(i));
  std::vector<std::string> sorted = items;
  merge_sort(sorted, [](const auto&, const auto&) { return true; });
  EXPECT_TRUE(std::is_permutation(sorted.begin(), sorted.end(), items.begin(), items.end()));
}

}  // namespace
}  // namespace tandem
