// Where channels can be rescaled, in every family; and that it changes nothing.
#include "quantize/scaling_groups.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "checkpoint/checkpoint.h"
#include "models/model.h"
#include "quantize/run_graph.h"
#include "support.h"

namespace tandem::testing {
namespace {

Graph tiny_graph(const std::string& family) {
  const Checkpoint checkpoint = Checkpoint::open(fixture("models/fixtures") / family);
  return build_graph(checkpoint.config_object(), CheckpointWeights(checkpoint));
}

std::vector<std::vector<float>> random_factors(const Graph& graph,
                                               const std::vector<ScalingGroup>& groups) {
  std::mt19937 random(3);
  std::uniform_real_distribution<float> exponent(-2, 2);
  std::vector<std::vector<float>> factors;
  for (const ScalingGroup& group : groups) {
    factors.emplace_back();
    for (std::int64_t i = 0; i < graph.value(group.value).width; ++i)
      factors.back().push_back(std::exp2(exponent(random)));
  }
  return factors;
}

class ScalingGroups : public ::testing::TestWithParam<const char*> {};

TEST_P(ScalingGroups, ChangeNothing) {
  const Graph graph = tiny_graph(GetParam());
  const std::vector<ScalingGroup> groups = find_scaling_groups(graph);
  ASSERT_EQ(groups.size(), static_cast<std::size_t>(4 * graph.layers()));
  for (std::size_t i = 0; i < groups.size(); i += 4) {
    const auto has = [&](std::size_t at, Absorber absorber, std::size_t linears,
                         const char* judged) {
      const ScalingGroup& group = groups[i + at];
      EXPECT_EQ(group.absorber, absorber);
      EXPECT_EQ(group.linears.size(), linears);
      EXPECT_TRUE(graph.node(group.nodes.back()).name.ends_with(judged))
          << graph.node(group.nodes.back()).name;
      EXPECT_EQ(graph.node(group.nodes.back()).output(), group.judged);
    };
    has(0, Absorber::kNorm, 3, "o_proj");
    has(1, Absorber::kValues, 1, "o_proj");
    has(2, Absorber::kNorm, 2, "down_proj");
    has(3, Absorber::kLinear, 1, "down_proj");
  }
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 20; ++i) ids.push_back(i * 7 % 60);
  const std::vector<float> expected = run_graph(graph, ids);
  const Graph scaled = rescale(graph, groups, random_factors(graph, groups));
  const std::vector<float> got = run_graph(scaled, ids);
  float largest = 0;
  for (const float x : expected) largest = std::max(largest, std::abs(x));
  for (std::size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], expected[i], largest * 2e-5F) << i;
}

INSTANTIATE_TEST_SUITE_P(Families, ScalingGroups,
                         ::testing::Values("chatglm", "gemma2", "llama_biased", "llama_head_dim",
                                           "mistral_window", "phi3_longrope", "qwen2_window",
                                           "qwen3", "smollm3"));

TEST(ScalingFactors, AreSharedByTheQueryHeadsOfAGroup) {
  const ScalingGroup group{.linears = {},
                           .absorber = Absorber::kValues,
                           .heads = 4,
                           .kv_heads = 2,
                           .head_dim = 2,
                           .nodes = {}};
  const std::vector<float> factors = {1, 2, 3, 0.5F, 5, 6, 4, 7};
  EXPECT_EQ(shared_factors(group, factors), (std::vector<float>{3, 2, 5, 7}));
  EXPECT_EQ(expanded_factors(group, factors), (std::vector<float>{3, 2, 3, 2, 5, 7, 5, 7}));
}

TEST(ScalingFactors, AreLeftOutWhereTheListIsEmpty) {
  const Graph graph = tiny_graph("qwen3");
  const std::vector<ScalingGroup> groups = find_scaling_groups(graph);
  const std::vector<std::vector<float>> none(groups.size());
  const std::vector<std::int32_t> ids = {1, 2, 3};
  EXPECT_EQ(run_graph(rescale(graph, groups, none), ids), run_graph(graph, ids));
}

}  // namespace
}  // namespace tandem::testing
