// Forecasts beside what runs took, and how they grow.
#include "quantize/forecast.h"

#include <gtest/gtest.h>

#include "quantize/demo_graph.h"
#include "quantize/tiny_checkpoint.h"

namespace tandem::testing {
namespace {

TEST(Forecast, KnowsTheSizeOfThePackage) {
  const ScratchFolder folder;
  ThreadPool pool(2);
  const DemoGraph demo;
  Forecast known;
  for (const std::vector<PassStep>& passes : {std::vector<PassStep>{}, {{"rotate"}}}) {
    Recipe recipe = default_recipe();
    recipe.passes = passes;
    recipe.calibration = {.samples = 1, .window = 32};
    quantize_quickly(demo_dir(), folder / "p", recipe);
    double size = 0;
    for (const auto& entry : fs::directory_iterator(folder / "p"))
      if (entry.path().extension() == ".safetensors")
        size += static_cast<double>(entry.file_size());
    known = forecast(demo.graph(), recipe, 32, 2, pool);
    EXPECT_NEAR(static_cast<double>(known.disk_bytes), size, size * 0.1);
  }
  EXPECT_GT(known.scratch_bytes, 0);
  EXPECT_GT(peak_memory_bytes(), 1 << 20);
}

TEST(Forecast, GrowsWithTheWork) {
  ThreadPool pool(2);
  const DemoGraph demo;
  const auto with = [&](std::vector<PassStep> passes, std::int64_t tokens, int phases = 2) {
    Recipe recipe = default_recipe();
    recipe.passes = std::move(passes);
    return forecast(demo.graph(), recipe, tokens, phases, pool);
  };
  // The speed is measured anew for each: far apart, not just ordered.
  EXPECT_GT(with({}, 1 << 20).seconds, with({}, 1 << 12).seconds * 4);
  EXPECT_GT(with({}, 1 << 20).memory_bytes, with({}, 1 << 12).memory_bytes);
  for (const char* pass : {"smoothquant", "awq", "seqmse", "gptq"})
    EXPECT_GT(with({{pass}}, 1 << 20).seconds, with({}, 1 << 12).seconds * 4) << pass;
  const PassStep search{"smoothquant", {{"alpha", "search"}, {"search_tokens", 0}}};
  EXPECT_GT(with({search}, 1 << 20).seconds, with({{"smoothquant"}}, 1 << 20).seconds * 4);
  EXPECT_LT(with({}, 1 << 12, 1).disk_bytes, with({}, 1 << 12, 2).disk_bytes);
}

}  // namespace
}  // namespace tandem::testing
