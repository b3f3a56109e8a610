// Opens a model and creates its engine.
#include "runtime/local_model.h"

#include "base/error.h"
#include "base/hub_cache.h"
#include "package/panel_cache.h"

namespace tandem {

std::unique_ptr<LocalModel> LocalModel::open(const fs::path& name, const LoadOptions& options,
                                             Observer& observer) {
  const fs::path path = find_model(name);
  const bool is_pair = !options.prefill_model.empty();
  const bool is_package = Package::is_package(path);
  if (is_pair && is_package)
    fail(ErrorCode::kInvalidArgument,
         "[model] {}: is a package, which reads prompts by itself: expected a checkpoint beside {}",
         path.string(), options.prefill_model.string());
  const Mode mode = options.mode.value_or(is_package || is_pair ? Mode::kHybrid : Mode::kFloat);
  EngineOptions engine = options.engine;
  engine.cache = options.cache.value_or(default_cache_folder());
  if (engine.threads <= 0) engine.threads = default_threads();
  ThreadPool pool(engine.threads);
  auto model = is_pair ? LoadedModel::open_pair(path, find_model(options.prefill_model), observer)
                       : LoadedModel::open(path, pool, {engine.cache, options.verify}, observer);
  // After opening, which says better what a thing is that is neither.
  if (!is_pair && (mode == Mode::kFloat) == is_package) {
    fail(ErrorCode::kInvalidArgument, "[model] {}: mode {} needs a {}; this is a {}", path.string(),
         to_string(mode), is_package ? "float checkpoint" : "package (see tandem quantize)",
         is_package ? "package" : "float checkpoint");
  }
  return std::make_unique<LocalModel>(std::move(model), plan_for(mode), options, engine, observer);
}

}  // namespace tandem
