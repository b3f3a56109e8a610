// Helpers shared by all tests: locations of fixtures, a scratch folder, and skipping tests whose
// third-party data is missing.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>

#include "base/error.h"

namespace tandem::testing {

namespace fs = std::filesystem;

inline fs::path source_dir() { return TANDEM_SOURCE_DIR; }
inline fs::path demo_dir() { return source_dir() / "models/demo"; }
inline fs::path fixture(const std::string& relative) { return source_dir() / "tests" / relative; }

// Folder with third-party test data: $TANDEM_TEST_DATA, or ../shared/data next to the repository.
inline fs::path shared_data() {
  if (const char* folder = std::getenv("TANDEM_TEST_DATA")) return folder;
  return source_dir().parent_path() / "shared/data";
}

// Skips the running test, saying what is missing, unless `relative` exists below shared_data().
#define TANDEM_REQUIRE_SHARED(relative)                                                \
  if (!std::filesystem::exists(::tandem::testing::shared_data() / (relative)))         \
  GTEST_SKIP() << "needs " << (::tandem::testing::shared_data() / (relative)).string() \
               << " (set TANDEM_TEST_DATA to the folder with other people's test data)"

// A folder of this test's own, removed at the end.
class ScratchFolder {
 public:
  ScratchFolder() {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    std::string name = std::string(test->test_suite_name()) + "." + test->name();
    for (char& c : name)
      if (c == '/') c = '_';
    path_ = fs::temp_directory_path() / ("tandem-" + std::to_string(::getpid()) + "-" + name);
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }
  fs::path operator/(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
};

// The message of the tandem::Error that `action` throws; fails the test if it throws none.
inline std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "expected a tandem::Error";
  return {};
}

}  // namespace tandem::testing
