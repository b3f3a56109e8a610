// Profiles of activations beside what PyTorch sees of the same model, and sketches beside sorting.
#include "quantize/activation_profile.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "quantize/demo_graph.h"
#include "quantize/distribution_sketch.h"
#include "quantize/run_graph.h"

namespace tandem::testing {
namespace {

std::vector<float> bell_shaped(std::size_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.25F, 3);
  std::vector<float> values(count);
  for (float& x : values) x = normal(random);
  return values;
}

// Few values stay as they are, many fall into bins.
TEST(DistributionSketch, KnowsWhatSortingKnows) {
  for (const std::size_t count : {std::size_t{1}, std::size_t{1000}, std::size_t{300'000}}) {
    const std::vector<float> values = bell_shaped(count, 7);
    DistributionSketch sketch;
    for (std::size_t at = 0; at < count; at += 999)
      ASSERT_TRUE(
          sketch.add(std::span(values).subspan(at, std::min<std::size_t>(999, count - at))));
    std::vector<float> sorted = values, magnitudes = values;
    for (float& x : magnitudes) x = std::fabs(x);
    std::ranges::sort(sorted);
    std::ranges::sort(magnitudes);
    double sum = 0, squares = 0;
    for (const float x : values) sum += x;
    const double mean = sum / static_cast<double>(count);
    for (const float x : values) squares += (x - mean) * (x - mean);
    EXPECT_EQ(sketch.count(), std::ssize(values));
    EXPECT_EQ(sketch.min(), sorted.front());
    EXPECT_EQ(sketch.max(), sorted.back());
    EXPECT_EQ(sketch.max_magnitude(), magnitudes.back());
    EXPECT_NEAR(sketch.mean(), mean, 1e-9);
    EXPECT_NEAR(sketch.standard_deviation(), std::sqrt(squares / static_cast<double>(count)), 1e-6);
    const bool exact = count <= DistributionSketch::kExactValues;
    for (const double share : {0.0, 0.001, 0.1, 0.5, 0.9, 0.999, 1.0}) {
      const auto rank = static_cast<std::size_t>(share * static_cast<double>(count - 1));
      const auto at = static_cast<std::int64_t>(rank);
      const float slack = exact ? 0 : 1.0F / 128;
      EXPECT_NEAR(sketch.value_at(at), sorted[rank], slack * std::fabs(sorted[rank]));
      EXPECT_GE(std::fabs(sketch.value_at(at)), std::fabs(sorted[rank]) * (1 - 1e-7F));
      EXPECT_NEAR(sketch.magnitude_at(at), magnitudes[rank], slack * magnitudes[rank]);
      EXPECT_GE(sketch.magnitude_at(at), magnitudes[rank]);
    }
  }
}

TEST(DistributionSketch, TakesNoValueThatIsNotFinite) {
  DistributionSketch sketch;
  const std::vector<float> good = {-1, 2}, bad = {3, NAN}, worse = {INFINITY};
  EXPECT_TRUE(sketch.add(good));
  EXPECT_FALSE(sketch.add(bad));
  EXPECT_FALSE(sketch.add(worse));
  EXPECT_TRUE(sketch.add({}));
  EXPECT_EQ(sketch.count(), 2);
  EXPECT_EQ(sketch.max(), 2);
  EXPECT_EQ(DistributionSketch().mean(), 0);
  EXPECT_EQ(DistributionSketch().standard_deviation(), 0);
}

class ActivationProfileTest : public ::testing::Test {
 protected:
  ActivationProfile profile(bool is_signed, int threads = 2) {
    const CalibrationWindows windows{wanted_["ids"].get<std::vector<std::int32_t>>(),
                                     wanted_["window"].get<std::int64_t>()};
    ThreadPool pool(threads);
    return profile_activations(demo_.graph(), windows, {.no_bias = true, .is_signed = is_signed},
                               pool, [](int, int) {});
  }

  const DemoGraph demo_;
  Json wanted_ = read_json_file(fixture("quantize/fixtures/profile.json"));
};

TEST_F(ActivationProfileTest, IsWhatPyTorchSees) {
  for (const bool is_signed : {true, false}) {
    const Json& wanted = wanted_[is_signed ? "signed" : "magnitudes"];
    const OrderedJson got = to_json(profile(is_signed));
    // With the head.
    ASSERT_EQ(got["ori"].size(), 43U);
    ASSERT_EQ(wanted["ori"].size(), 42U);
    for (const auto& [module, sides] : wanted["ori"].items()) {
      for (const char* side : {"input", "output"}) {
        const double max = sides[side], percentile = wanted["top_0_1"][module][side];
        EXPECT_NEAR(got["ori"][module][side].get<double>(), max, 1e-4 * std::fabs(max)) << module;
        EXPECT_NEAR(got["top_0_1"][module][side].get<double>(), percentile, percentile / 127)
            << module;
        const Json& moments = wanted["all_stat"][module][side];
        const double deviation = moments["std"];
        EXPECT_NEAR(got["all_stat"][module][side]["std"].get<double>(), deviation,
                    1e-4 * deviation);
        EXPECT_NEAR(got["all_stat"][module][side]["mean"].get<double>(),
                    moments["mean"].get<double>(), 1e-4 * deviation);
      }
    }
  }
}

// The logits of each window by itself, in batches that are no multiple of what the head is run on; a
// tied head is a Linear like others.
TEST_F(ActivationProfileTest, SeesTheHead) {
  const auto ids = wanted_["ids"].get<std::vector<std::int32_t>>();
  const CalibrationWindows windows{{ids.begin(), ids.begin() + 2 * 100}, 100};
  ThreadPool pool(2);
  const ActivationProfile profile =
      profile_activations(demo_.graph(), windows, {}, pool, [](int, int) {});
  std::vector<float> magnitudes;
  for (std::size_t first = 0; first < 200; first += 100)
    for (const float x : run_graph(demo_.graph(), std::span(ids).subspan(first, 100)))
      magnitudes.push_back(std::fabs(x));
  std::ranges::sort(magnitudes);
  const Distribution& output = profile.at("lm_head").output;
  const float max = magnitudes.back(), percentile = magnitudes[magnitudes.size() * 999 / 1000 - 1];
  EXPECT_NEAR(output.max, max, max * 1e-4F);
  EXPECT_NEAR(output.percentile, percentile, percentile / 127);
  // A norm's output, times its gain.
  const Distribution& input = profile.at("lm_head").input;
  EXPECT_GT(input.standard_deviation, 0.1);
  EXPECT_GT(input.max, input.percentile);
  EXPECT_GT(input.percentile, 2 * input.standard_deviation);
}

// A window with padding behind it is as if that were not there.
TEST_F(ActivationProfileTest, LooksAtNoPadding) {
  const auto ids = wanted_["ids"].get<std::vector<std::int32_t>>();
  ThreadPool pool(2);
  const auto seen = [&](CalibrationWindows windows, std::vector<std::int64_t> lengths) {
    return profile_activations(demo_.graph(), windows, {.lengths = std::move(lengths)}, pool,
                               [](int, int) {});
  };
  const auto part = [&](int first, int count) {
    return std::vector(ids.begin() + first, ids.begin() + first + count);
  };
  const ActivationProfile one = seen({part(0, 40), 40}, {}), other = seen({part(40, 90), 90}, {});
  std::vector<std::int32_t> padded = part(0, 40);
  padded.resize(90, ids[7]);
  const std::vector<std::int32_t> second = part(40, 90);
  padded.insert(padded.end(), second.begin(), second.end());
  for (const auto& [module, both] : seen({padded, 90}, {40, 90})) {
    const Distribution &a = one.at(module).input, &b = other.at(module).input;
    const float input = std::max(a.max, b.max);
    EXPECT_NEAR(both.input.max, input, input * 1e-4F) << module;
    EXPECT_NEAR(both.input.mean, (40 * a.mean + 90 * b.mean) / 130,
                1e-4 * both.input.standard_deviation);
    const float output = std::max(one.at(module).output.max, other.at(module).output.max);
    EXPECT_NEAR(both.output.max, output, output * 1e-4F) << module;
  }
}

TEST_F(ActivationProfileTest, DoesNotDependOnThreads) {
  EXPECT_EQ(to_json(profile(false, 1)), to_json(profile(false, 3)));
}

TEST_F(ActivationProfileTest, IsReadBack) {
  const ScratchFolder scratch;
  const ActivationProfile made = profile(false);
  write_text_file(scratch / "p.json", to_json(made).dump());
  const ActivationProfile read = read_activation_profile(scratch / "p.json");
  ASSERT_EQ(read.size(), made.size());
  for (const auto& [module, of] : made) {
    EXPECT_EQ(read.at(module).input.max, of.input.max);
    EXPECT_EQ(read.at(module).output.percentile, of.output.percentile);
  }
  const auto error = [&](const std::string& text) {
    write_text_file(scratch / "p.json", text);
    const std::string message = error_of([&] { read_activation_profile(scratch / "p.json"); });
    EXPECT_NE(message.find((scratch / "p.json").string()), std::string::npos) << message;
    return message;
  };
  EXPECT_NE(error("[]").find("expected"), std::string::npos);
  EXPECT_NE(error(R"({"top_0_1": {}})").find("ori"), std::string::npos);
  EXPECT_NE(error(R"({"ori": {"a": {"input": 1, "output": 2}}, "top_0_1": {}})").find("top_0_1.a"),
            std::string::npos);
  EXPECT_NE(error(R"({"ori": {"a": {"input": "x", "output": 2}},
                      "top_0_1": {"a": {"input": 1, "output": 2}}})")
                .find("ori.a.input"),
            std::string::npos);
  EXPECT_NE(error(R"({"ori": {"a": {"input": 1e300, "output": 2}},
                      "top_0_1": {"a": {"input": 1, "output": 2}}})")
                .find("1e+300"),
            std::string::npos);
}

TEST_F(ActivationProfileTest, NamesWhatIsNotFinite) {
  Tensor gain = Tensor::from_floats(std::vector<float>(256, 1e38F), {256});
  const DemoGraph huge({{"model.layers.1.post_attention_layernorm.weight", gain}});
  const CalibrationWindows windows{{1, 2, 3, 4}, 2};
  ThreadPool pool(1);
  EXPECT_NE(error_of([&] {
              profile_activations(huge.graph(), windows, {}, pool, [](int, int) {});
            }).find("[profile] model.layers.1.mlp."),
            std::string::npos);
}

// mllm's rule: the scale reaches the largest value while that is less than so many times the
// percentile.
TEST(ClipDecision, FollowsThePercentileBeyondTheThreshold) {
  const auto decide = [](float max, double threshold) {
    return decide_clip({.max = max, .percentile = 2}, threshold);
  };
  EXPECT_TRUE(decide(127, 64).clips);
  EXPECT_EQ(decide(127, 64).largest, 127);
  EXPECT_FALSE(decide(128, 64).clips);
  EXPECT_EQ(decide(128, 64).largest, 2);
  EXPECT_TRUE(decide(1e6F, 0).clips);
}

}  // namespace
}  // namespace tandem::testing
