// The demo model as a float checkpoint, and as a package that is built once per test program.
#pragma once

#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "package/build_package.h"
#include "runtime/loaded_model.h"
#include "support.h"

namespace tandem::testing {

class DemoPackage {
 public:
  DemoPackage()
      : folder_(fs::temp_directory_path() /
                ("tandem-" + std::to_string(::getpid()) + "-demo-package")) {
    ThreadPool pool(2);
    Recipe recipe;
    recipe.samples = 8;
    build_package(demo_dir(), demo_dir() / "calibration.txt", folder_, recipe, pool);
  }
  ~DemoPackage() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  const fs::path& folder() const { return folder_; }

 private:
  fs::path folder_;
};

inline const fs::path& demo_package() {
  static const DemoPackage package;
  return package.folder();
}

// Packs weights anew and keeps nothing on disk. One thread unless a test asks for more: hundreds of
// meetings per token take long while other programs run.
inline std::unique_ptr<LoadedModel> open_demo(Mode mode, LoadOptions options = {}) {
  options.mode = mode;
  options.cache = fs::path();
  if (options.threads == 0) options.threads = 1;
  return LoadedModel::open(mode == Mode::kFloat ? demo_dir() : demo_package(), options);
}

inline std::vector<TokenId> demo_ids(LoadedModel& model, const std::string& file,
                                     std::size_t most = SIZE_MAX) {
  std::vector<TokenId> ids = model.tokenizer().encode(read_text_file(demo_dir() / file));
  ids.resize(std::min(ids.size(), most));
  return ids;
}

// The logits of every token, [ids, vocabulary].
inline std::vector<float> all_logits(LoadedModel& model, std::span<const TokenId> ids) {
  std::vector<float> logits;
  KvSequence sequence = model.new_sequence();
  model.prefill_all(sequence, ids, [&](std::int64_t, std::span<const float> rows) {
    logits.insert(logits.end(), rows.begin(), rows.end());
  });
  return logits;
}

inline std::vector<float> copy(std::span<const float> logits) {
  return {logits.begin(), logits.end()};
}

}  // namespace tandem::testing
