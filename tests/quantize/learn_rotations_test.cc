// Learned rotations: gradients against finite differences, steps that stay orthogonal, and what it
// gives static int8 and int4 of the demo.
#include "quantize/learn_rotations.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <random>

#include "quantize/cayley.h"
#include "quantize/demo_graph.h"
#include "quantize/passes.h"
#include "quantize/planted.h"
#include "quantize/prepare_graph.h"
#include "quantize/quantize_linears.h"
#include "quantize/rotation_loss.h"
#include "quantize/run_graph.h"

namespace tandem::testing {
namespace {

using Scales = Rounding::Scales;

// Longer tails than those of the normal distribution, as activations have.
std::vector<float> heavy(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  for (float& value : values) {
    const float uniform = static_cast<float>(random()) / 0x1p31F - 1;
    value = uniform / (1.02F - std::abs(uniform));
  }
  return values;
}

// The largest |RᵀR - I|.
double worst_product(const std::vector<float>& matrix, std::size_t size) {
  double worst = 0;
  for (std::size_t i = 0; i < size; ++i)
    for (std::size_t j = 0; j < size; ++j) {
      double sum = i == j ? -1 : 0;
      for (std::size_t k = 0; k < size; ++k)
        sum += double{matrix[k * size + i]} * matrix[k * size + j];
      worst = std::max(worst, std::abs(sum));
    }
  return worst;
}

class RoundingError : public ::testing::TestWithParam<Rounding> {};

TEST_P(RoundingError, HasTheGradientOfFiniteDifferences) {
  const Rounding& rounding = GetParam();
  std::vector<float> z = heavy(240, 1), gradient(z.size()), unused(z.size());
  const double error = rounding_error(z, 24, rounding, gradient);
  EXPECT_GT(error, 0);
  int moved = 0;
  for (std::size_t i = 0; i < z.size(); ++i) {
    const float kept = z[i], step = 2e-4F;
    z[i] = kept + step;
    const double above = rounding_error(z, 24, rounding, unused);
    z[i] = kept - step;
    const double below = rounding_error(z, 24, rounding, unused);
    z[i] = kept;
    const double expected = (above - below) / (2 * step);
    EXPECT_NEAR(gradient[i], expected, 1e-3 + 0.01 * std::abs(expected)) << i;
    if (std::abs(expected) > 0.01) ++moved;
  }
  EXPECT_GT(moved, 0);
}

INSTANTIATE_TEST_SUITE_P(Scales, RoundingError,
                         ::testing::Values(Rounding{Scales::kTensor, 127, 0},
                                           Rounding{Scales::kTensorMax, 15, 0},
                                           Rounding{Scales::kGroups, 7, 10},
                                           Rounding{Scales::kGroups, 7, 24},
                                           Rounding{Scales::kRanges, 15, 8}));

TEST(RotationLoss, HasTheGradientOfFiniteDifferences) {
  ThreadPool pool(2);
  RotationLoss loss(8, pool);
  loss.add(heavy(64 * 8, 2), 8, {Scales::kTensor, 127, 0});
  // Two heads in a row.
  loss.add(heavy(20 * 16, 3), 16, {Scales::kGroups, 7, 16});
  loss.add(std::vector<float>(16), 16, {Scales::kGroups, 7, 16});
  std::vector<float> turn = Rotation::random(8, 4).matrix().to_floats(), gradient, unused;
  EXPECT_GT(loss.at(turn, gradient), 0);
  for (std::size_t i = 0; i < turn.size(); ++i) {
    const float kept = turn[i], step = 2e-3F;
    turn[i] = kept + step;
    const double above = loss.at(turn, unused);
    turn[i] = kept - step;
    const double below = loss.at(turn, unused);
    turn[i] = kept;
    EXPECT_NEAR(gradient[i], (above - below) / (2 * step), 2e-5 + 0.02 * std::abs(gradient[i]))
        << i;
  }
}

// For the smooth loss |R - T|², whose gradient is 2 (R - T), T is found.
TEST(CayleyStep, StaysOrthogonalAndDescends) {
  ThreadPool pool(2);
  constexpr std::int64_t kSize = 24;
  const std::vector<float> target = Rotation::random(kSize, 1).matrix().to_floats();
  // In the same half of all orthogonal matrices: a quarter turn away in each of twelve planes.
  std::vector<float> turn(target.size());
  for (std::size_t row = 0; row < kSize; ++row)
    for (std::size_t c = 0; c < kSize; ++c)
      turn[row * kSize + c] =
          c % 2 == 0 ? target[row * kSize + c + 1] : -target[row * kSize + c - 1];
  const auto distance = [&] {
    double sum = 0;
    for (std::size_t i = 0; i < turn.size(); ++i)
      sum += (double{turn[i]} - target[i]) * (double{turn[i]} - target[i]);
    return sum;
  };
  double last = distance();
  EXPECT_NEAR(last, 2 * kSize, 1e-3);
  for (int step = 0; step < 60; ++step) {
    std::vector<float> gradient(turn.size());
    for (std::size_t i = 0; i < turn.size(); ++i) gradient[i] = 2 * (turn[i] - target[i]);
    turn = cayley_step(turn, gradient, kSize, 0.3 * (1 - step / 60.0), pool);
    EXPECT_LT(worst_product(turn, kSize), 1e-5);
    EXPECT_LT(distance(), last + 0.1);
    last = distance();
  }
  EXPECT_LT(last, 0.1);
  EXPECT_EQ(cayley_step(turn, std::vector<float>(turn.size()), kSize, 1, pool), turn);
}

Recipe recipe_with(Scheme scheme, PassStep step) {
  Recipe recipe;
  recipe.passes = {std::move(step)};
  recipe.rules = {{.match = "model.*", .decode = scheme, .prefill = scheme}};
  return recipe;
}

constexpr Scheme kW8A8{
    .weights = WeightType::kInt8, .scales = DType::kF32, .activations = ActivationType::kStatic};
constexpr Scheme kW4A8{.weights = WeightType::kInt4,
                       .group = 32,
                       .scales = DType::kF32,
                       .activations = ActivationType::kStatic};

// Of what a learner tells: what rounding costs by the Hadamard matrix and by the learned one.
class Costs : public Observer {
 public:
  void inform(std::string_view message) override {
    double before = 0, after = 0;
    const std::string text(message.substr(message.find("costs")));
    if (std::sscanf(text.c_str(), "costs %lg of a random Hadamard matrix, %lg", &before, &after) ==
        2)
      costs.emplace_back(before, after);
  }
  std::vector<std::pair<double, double>> costs;
};

TEST(LearnRotations, RoundsBetterThanTheHadamardMatrix) {
  const DemoGraph demo;
  const CalibrationWindows windows = demo_windows(16, 128);
  const std::vector<std::int32_t> ids = demo_windows(22, 128).ids;
  const auto text = std::span(ids).last(6 * 128);
  const std::vector<float> expected = run_graph(demo.graph(), text);
  ThreadPool pool(2);
  MemorySink sink;
  Costs told;
  const auto loss = [&](const char* kind) {
    const Recipe recipe =
        recipe_with(kW4A8, {"rotate", {{"r1", kind}, {"r2", kind}, {"steps", 25}}});
    PassContext context{pool, told};
    const PreparedGraph prepared =
        prepare_graph(demo.graph(), recipe, {.windows = &windows, .sink = sink}, context);
    EXPECT_LT(divergence(expected, run_graph(prepared.graph, text), 4096), 1e-6);
    LinearQuantizer quantizer(recipe, prepared.statistics, sink);
    return divergence(expected, run_graph(quantizer.prefill(prepared.graph, context), text), 4096);
  };
  const double hadamard = loss("hadamard"), learned = loss("learned");
  EXPECT_LT(learned, hadamard);
  ASSERT_EQ(told.costs.size(), 7U) << "R2 of six layers, and R1";
  for (const auto& [before, after] : told.costs) EXPECT_LT(after, 0.9 * before);
}

TEST(LearnRotations, IsTheSameForAnyNumberOfThreadsAndSaved) {
  const ScratchFolder folder;
  const DemoGraph demo;
  const CalibrationWindows windows = demo_windows(4, 64);
  RotateSettings settings{.r1 = RotationKind::kLearned, .r2 = RotationKind::kLearned, .steps = 3};
  const Recipe recipe = recipe_with(kW8A8, {"rotate"});
  const auto learn = [&](int threads) {
    ThreadPool pool(threads);
    return learn_rotations(demo.graph(), recipe, settings, windows, pool, silent());
  };
  const Rotations one = learn(1), three = learn(3);
  EXPECT_EQ(one.r1->matrix().to_floats(), three.r1->matrix().to_floats());
  EXPECT_EQ(one.r2.at(4).matrix().to_floats(), three.r2.at(4).matrix().to_floats());
  EXPECT_NE(one.r1->matrix().to_floats(),
            make_rotations(demo.graph(), settings).r1->matrix().to_floats());
  EXPECT_LT(worst_product(one.r1->matrix().to_floats(), 256), 1e-5);
  for (const char* name : {"r.safetensors", "r.bin"}) {
    write_rotations(folder / name, one);
    EXPECT_EQ(read_rotations(folder / name).r1->matrix().to_floats(), one.r1->matrix().to_floats());
  }
  settings.r1 = RotationKind::kHadamard;
  EXPECT_EQ(learn(2).r1->matrix().to_floats(),
            make_rotations(demo.graph(), settings).r1->matrix().to_floats());
}

TEST(LearnRotations, EndsWhenInterrupted) {
  class Interrupted : public Observer {
   public:
    void begin(std::string_view task, std::int64_t, std::string_view) override {
      learns_ = task.starts_with("learn");
    }
    bool cancelled() const override { return learns_; }

   private:
    bool learns_ = false;
  };
  const DemoGraph demo;
  const CalibrationWindows windows = demo_windows(2, 32);
  ThreadPool pool(1);
  Interrupted observer;
  const RotateSettings settings{.r1 = RotationKind::kLearned};
  const Recipe recipe = recipe_with(kW8A8, {"rotate"});
  EXPECT_EQ(
      error_of([&] { learn_rotations(demo.graph(), recipe, settings, windows, pool, observer); }),
      "[learn R1] interrupted");
  // What stays float is not rounded, so that there is nothing to learn from.
  const Rotations same = learn_rotations(demo.graph(), {}, settings, windows, pool, silent());
  EXPECT_EQ(same.r1->matrix().to_floats(),
            make_rotations(demo.graph(), settings).r1->matrix().to_floats());
}

TEST(LearnRotations, NeedsATextAndKnowsItsSettings) {
  EXPECT_TRUE(needs_text({"rotate", {{"r2", "learned"}}}));
  EXPECT_FALSE(needs_text({"rotate"}));
  EXPECT_EQ(objection_to_pass({"rotate", {{"r1", "learned"}, {"learning_rate", 2}}}),
            "learning_rate: expected a number in [0, 1], got 2");
  EXPECT_EQ(objection_to_pass({"rotate", {{"r4", 1}}}),
            "r4: expected true, false or an integer in [2, 1073741824], got 1");
  EXPECT_EQ(objection_to_pass({"rotate", {{"r4", 64}}}), "");
}

}  // namespace
}  // namespace tandem::testing
