// Names of models on the hub, and the cache in which their downloads lie.
#include "base/hub_cache.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <optional>
#include <string>
#include <vector>

#include "support.h"

namespace tandem {
namespace {

using testing::error_of;

// The variables that say where the cache is, restored at the end.
class HubCache : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : kNames) {
      const char* value = std::getenv(name);
      before_.emplace_back(value != nullptr ? std::optional<std::string>(value) : std::nullopt);
      ::unsetenv(name);
    }
    ::setenv("HF_HUB_CACHE", scratch_.path().c_str(), 1);
  }
  void TearDown() override {
    for (std::size_t i = 0; i < before_.size(); ++i) {
      ::unsetenv(kNames[i]);
      if (before_[i]) ::setenv(kNames[i], before_[i]->c_str(), 1);
    }
  }
  void add_snapshot(const std::string& commit) {
    fs::create_directories(scratch_ / "models--org--a.model-1" / "snapshots" / commit);
  }
  void set_main(const std::string& text) {
    fs::create_directories(scratch_ / "models--org--a.model-1" / "refs");
    write_text_file(scratch_ / "models--org--a.model-1" / "refs/main", text);
  }
  fs::path at(const std::string& commit) const {
    return scratch_ / "models--org--a.model-1" / "snapshots" / commit;
  }
  std::string error() {
    return error_of([] { find_model("org/a.model-1"); });
  }

  static constexpr const char* kNames[] = {"HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME"};
  std::vector<std::optional<std::string>> before_;
  const testing::ScratchFolder scratch_;
};

TEST_F(HubCache, LiesWhereItsVariablesSay) {
  EXPECT_EQ(hub_cache_folder(), scratch_.path());
  ::unsetenv("HF_HUB_CACHE");
  EXPECT_EQ(hub_cache_folder(), fs::path());
  EXPECT_NE(error().find("hf download org/a.model-1"), std::string::npos);
  ::setenv("HOME", "/h", 1);
  EXPECT_EQ(hub_cache_folder(), fs::path("/h/.cache/huggingface/hub"));
  ::setenv("XDG_CACHE_HOME", "/x", 1);
  EXPECT_EQ(hub_cache_folder(), fs::path("/x/huggingface/hub"));
  ::setenv("HF_HOME", "/hf", 1);
  EXPECT_EQ(hub_cache_folder(), fs::path("/hf/hub"));
}

TEST_F(HubCache, FindsWhatMainPointsTo) {
  add_snapshot("aaaa");
  add_snapshot("bbbb");
  set_main("bbbb\n");
  EXPECT_EQ(find_model("org/a.model-1"), at("bbbb"));
  set_main("aaaa");
  EXPECT_EQ(find_model("org/a.model-1"), at("aaaa"));
}

// As it is copied from a browser, or completed by a shell.
TEST_F(HubCache, KnowsAddresses) {
  add_snapshot("aaaa");
  for (const char* name : {"org/a.model-1/", "hf.co/org/a.model-1", "huggingface.co/org/a.model-1",
                           "https://huggingface.co/org/a.model-1",
                           "https://huggingface.co/org/a.model-1/", "http://hf.co/org/a.model-1"})
    EXPECT_EQ(find_model(name), at("aaaa")) << name;
  for (const char* path : {"https://example.org/org/a.model-1", "https://hf.co/a/b/c"})
    EXPECT_EQ(find_model(path), fs::path(path));
}

TEST_F(HubCache, TakesTheOnlySnapshot) {
  add_snapshot("aaaa");
  EXPECT_EQ(find_model("org/a.model-1"), at("aaaa"));
  set_main("gone");
  EXPECT_EQ(find_model("org/a.model-1"), at("aaaa"));
}

TEST_F(HubCache, SaysHowToFetchWhatIsNotThere) {
  EXPECT_EQ(error(),
            "[model] org/a.model-1: no such file or folder, and no model of that name in the "
            "Hugging Face cache (" +
                scratch_.path().string() + "): fetch one with hf download org/a.model-1");
  fs::create_directories(scratch_ / "models--org--a.model-1" / "snapshots");
  EXPECT_NE(error().find("hf download"), std::string::npos);
  // Two snapshots, and nothing that says which; a reference never leaves the folder.
  add_snapshot("aaaa");
  add_snapshot("bbbb");
  for (const char* bad : {"", "../..", "..", ".", "/etc", "cccc", "aa/aa"}) {
    set_main(bad);
    EXPECT_NE(error().find("hf download"), std::string::npos) << bad;
  }
}

TEST_F(HubCache, LeavesPathsAlone) {
  for (const char* path : {"", "model", "/org/model", "./org/model", "../model", "a/b/c", "org/",
                           "/model", "org/..", "org/model.gguf", "org/model.safetensors",
                           "org/config.json", "o rg/model", "org/mod\tel", "-org/model", "~/model"})
    EXPECT_EQ(find_model(path), fs::path(path));
  // What is there is itself.
  add_snapshot("aaaa");
  const fs::path before = fs::current_path();
  fs::current_path(scratch_.path());
  fs::create_directories("org/a.model-1");
  EXPECT_EQ(find_model("org/a.model-1"), fs::path("org/a.model-1"));
  fs::current_path(before);
}

}  // namespace
}  // namespace tandem
