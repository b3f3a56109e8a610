// The demo model as a float checkpoint, and as a package that is built once per test program.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "quantize/quantize_model.h"
#include "runtime/local_model.h"
#include "support.h"

namespace tandem::testing {

class DemoPackage {
 public:
  explicit DemoPackage(const std::string& name, Recipe recipe = default_recipe())
      : folder_(fs::temp_directory_path() / ("tandem-" + std::to_string(::getpid()) + "-" + name)) {
    ThreadPool pool(2);
    QuantizeOptions options{.checkpoint = demo_dir(),
                            .calibration = demo_dir() / "calibration.txt",
                            .target = folder_,
                            .recipe = std::move(recipe)};
    options.recipe.calibration.samples = 8;
    quantize_model(options, pool, silent());
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
  static const DemoPackage package("demo-package");
  return package.folder();
}

// With an int8 KV cache, and a prefix.
inline const fs::path& demo_int8_cache() {
  static const DemoPackage package("demo-int8-cache", [] {
    Recipe recipe = default_recipe();
    recipe.calibration.prefix = {4093, 17};
    recipe.kv = DType::kI8;
    return recipe;
  }());
  return package.folder();
}

// Packs weights anew and keeps nothing on disk. One thread unless a test asks for more: hundreds of
// meetings per token take long while other programs run.
inline std::unique_ptr<LocalModel> open_alone(const fs::path& path, LoadOptions options = {}) {
  options.cache = fs::path();
  if (options.engine.threads == 0) options.engine.threads = 1;
  return LocalModel::open(path, options);
}

inline std::unique_ptr<LocalModel> open_demo(Mode mode, EngineOptions options = {}) {
  return open_alone(mode == Mode::kFloat ? demo_dir() : demo_package(),
                    {.mode = mode, .engine = std::move(options)});
}

// A mode, with the cache that its plan has or with an int8 cache.
struct ModeAndCache {
  Mode mode;
  bool int8 = false;
};
inline constexpr ModeAndCache kModesAndCaches[] = {
    {Mode::kFloat}, {Mode::kCpu}, {Mode::kHybrid}, {Mode::kNpu}, {Mode::kNpu, true}};
inline std::string to_string(const ModeAndCache& of) {
  return std::string(tandem::to_string(of.mode)) + (of.int8 ? "_int8" : "");
}
inline std::unique_ptr<LocalModel> open_demo(const ModeAndCache& of, EngineOptions options = {}) {
  return of.int8 ? open_alone(demo_int8_cache(), {.mode = of.mode, .engine = std::move(options)})
                 : open_demo(of.mode, std::move(options));
}

inline std::vector<TokenId> demo_ids(LocalModel& model, const std::string& file,
                                     std::size_t most = SIZE_MAX) {
  std::vector<TokenId> ids = model.text.tokenizer().encode(read_text_file(demo_dir() / file));
  ids.resize(std::min(ids.size(), most));
  return ids;
}

// The logits of every token, [ids, vocabulary].
inline std::vector<float> all_logits(Engine& engine, std::span<const TokenId> ids,
                                     std::optional<Phase> phase = {}) {
  std::vector<float> logits;
  KvSequence sequence = engine.new_sequence();
  engine.prefill_all(
      sequence, ids,
      [&](std::int64_t, std::span<const float> rows) {
        logits.insert(logits.end(), rows.begin(), rows.end());
      },
      phase);
  return logits;
}
inline std::vector<float> all_logits(LocalModel& model, std::span<const TokenId> ids,
                                     std::optional<Phase> phase = {}) {
  return all_logits(model.engine, ids, phase);
}

inline std::vector<float> copy(std::span<const float> logits) {
  return {logits.begin(), logits.end()};
}

}  // namespace tandem::testing
