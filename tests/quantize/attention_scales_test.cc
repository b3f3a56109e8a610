// Scales of an int8 KV cache: what they reach, those of a prefix, and what a model loses with them.
#include "quantize/attention_scales.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "checkpoint/checkpoint.h"
#include "graph/rewriter.h"
#include "models/model.h"
#include "quantize/calibration.h"
#include "quantize/demo_graph.h"
#include "quantize/journal.h"
#include "quantize/planted.h"
#include "quantize/run_graph.h"

namespace tandem::testing {
namespace {

// The same graph with the inputs of one attention as outputs.
Graph with_outputs_of(const Graph& graph, const Node& attention) {
  Graph shown = graph;
  shown.set_outputs(attention.inputs);
  return shown;
}

const Node& attention_of(const Graph& graph, std::int32_t layer) {
  return *std::ranges::find_if(graph.nodes(), [&](const Node& node) {
    return node.op == Op::kGroupQueryAttention && node.layer == layer;
  });
}

// The largest |x| of each channel, or the largest length of the pair that RoPE turns it in.
std::vector<double> reach(const std::vector<float>& rows, std::size_t width, std::size_t head_dim,
                          std::size_t rotary_dim) {
  std::vector<double> largest(width, 0);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::size_t channel = i % width, in_head = channel % head_dim, half = rotary_dim / 2;
    double size = std::fabs(rows[i]);
    if (in_head < rotary_dim)
      size = std::hypot(rows[i], rows[in_head < half ? i + half : i - half]);
    largest[channel] = std::max(largest[channel], size);
  }
  return largest;
}

class Family : public ::testing::TestWithParam<const char*> {
 protected:
  Family() {
    std::mt19937 random(11);
    for (int i = 0; i < 512; ++i) windows_.ids.push_back(static_cast<std::int32_t>(random() % 67));
    windows_.window = 64;
  }

  AttentionRanges ranges() {
    AttentionRanges found;
    calibrate(graph_, windows_, pool_, {}, nullptr, false, &found);
    return found;
  }

  Checkpoint checkpoint_ = Checkpoint::open(fixture("models/fixtures") / GetParam());
  Graph graph_ = build_graph(checkpoint_.config_object(), CheckpointWeights(checkpoint_));
  CalibrationWindows windows_;
  ThreadPool pool_{2};
};

TEST_P(Family, ReachWhatAnAttentionReads) {
  // One window, which can be computed in one run, at the same frequencies as the prefix, whose rows
  // count, too.
  windows_.ids.resize(32);
  windows_.window = 32;
  windows_.prefix = {3, 60, 9};
  std::vector<std::int32_t> all = windows_.prefix;
  all.insert(all.end(), windows_.ids.begin(), windows_.ids.end());
  const AttentionRanges found = ranges();
  ASSERT_EQ(found.size(), static_cast<std::size_t>(graph_.layers()));
  for (std::int32_t layer = 0; layer < graph_.layers(); ++layer) {
    const Node& node = attention_of(graph_, layer);
    const auto values = run_outputs(with_outputs_of(graph_, node), all);
    const auto& attributes = node.as<AttentionAttributes>();
    const auto head_dim = static_cast<std::size_t>(attributes.head_dim);
    const auto angles = std::ranges::find(graph_.nodes(), Op::kRotaryAngles, &Node::op);
    const std::size_t turned = 2 * angles->as<RotaryAnglesAttributes>().inverse_frequencies.size();
    const AttentionRange& range = found.at(node.name);
    const std::vector<float>* got[] = {&range.q, &range.k, &range.v};
    for (std::size_t i = 0; i < 3; ++i) {
      const auto expected = reach(values[i], got[i]->size(), head_dim, i < 2 ? turned : 0);
      for (std::size_t c = 0; c < expected.size(); ++c)
        ASSERT_NEAR((*got[i])[c], expected[c], 1e-4 * expected[c] + 1e-5) << layer << " " << i;
    }
    // A sixteenth further, at code 127.
    const Graph scaled = with_kv_scales(graph_, found);
    const auto& with = attention_of(scaled, layer).as<AttentionAttributes>();
    ASSERT_TRUE(with.has_kv_scales());
    for (std::size_t c = 0; c < range.k.size(); ++c) {
      EXPECT_FLOAT_EQ(with.k_scales.as<float>()[c], range.k[c] * 1.0625F / 127);
      EXPECT_FLOAT_EQ(with.v_scales.as<float>()[c], range.v[c] * 1.0625F / 127);
    }
    // Of int16: q and k before the angles' factor, and the product of rotated q and the scale of its
    // key.
    const float factor = angles->as<RotaryAnglesAttributes>().attention_factor;
    float product = 0;
    const auto group = static_cast<std::size_t>(attributes.heads / attributes.kv_heads);
    for (std::size_t c = 0; c < range.q.size(); ++c)
      product = std::max(
          product,
          range.q[c] * with.k_scales.as<float>()[c / head_dim / group * head_dim + c % head_dim]);
    const auto int16 = with.int16_scales.as<float>();
    ASSERT_EQ(int16.size(), 3U);
    EXPECT_FLOAT_EQ(int16[0], std::ranges::max(range.q) / factor * 1.0625F / 32767);
    EXPECT_FLOAT_EQ(int16[1], std::ranges::max(range.k) / factor * 1.0625F / 32767);
    EXPECT_FLOAT_EQ(int16[2], product * 1.0625F / 32767);
  }
}

TEST_P(Family, LosesLittleWithAnInt8Cache) {
  EXPECT_FALSE(graph_.has_kv_scales());
  const Graph scaled = with_kv_scales(graph_, ranges());
  EXPECT_TRUE(scaled.has_kv_scales());
  // Not the text that was calibrated on.
  std::vector<std::int32_t> ids;
  std::mt19937 random(12);
  for (int i = 0; i < 100; ++i) ids.push_back(static_cast<std::int32_t>(random() % 67));
  const auto vocabulary = static_cast<std::size_t>(graph_.value(graph_.outputs()[0]).width);
  const auto expected = run_graph(graph_, ids);
  EXPECT_EQ(run_graph(scaled, ids), expected) << "with a float cache nothing changes";
  const double loss = divergence(expected, run_graph(scaled, ids, DType::kI8), vocabulary);
  EXPECT_GT(loss, 0);
  EXPECT_LT(loss, 2e-3);
  // In integers throughout.
  const auto on_npu = run_graph(scaled, ids, DType::kI8, 128);
  EXPECT_NE(on_npu, run_graph(scaled, ids, DType::kI8));
  EXPECT_LT(divergence(expected, on_npu, vocabulary), 2e-3);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Family,
                         ::testing::Values("llama_biased", "qwen2_window", "phi3_longrope"));

TEST(AttentionScales, AreTakenUpFromAJournal) {
  const ScratchFolder folder;
  const DemoGraph demo;
  ThreadPool pool(2);
  CalibrationWindows windows = demo_windows(2, 32);
  windows.prefix = {4093, 17};
  AttentionRanges expected, resumed;
  calibrate(demo.graph(), windows, pool, {}, nullptr, false, &expected);
  const auto open = [&] {
    return Journal({.folder = folder / "journal", .job = {}, .resume = true, .interval = {}},
                   silent());
  };
  class Interrupted : public std::exception {};
  {
    Journal journal = open();
    BlockJournal blocks(journal, "0-calibrate");
    const auto end = [](int done, int) {
      if (done == 2) throw Interrupted();
    };
    EXPECT_THROW(calibrate(demo.graph(), windows, pool, end, &blocks, false, &resumed),
                 Interrupted);
  }
  Journal journal = open();
  BlockJournal blocks(journal, "0-calibrate");
  EXPECT_EQ(blocks.finished(), 1);
  calibrate(demo.graph(), windows, pool, {}, &blocks, false, &resumed);
  ASSERT_EQ(resumed.size(), expected.size());
  for (const auto& [name, range] : expected) {
    EXPECT_EQ(resumed.at(name).q, range.q) << name;
    EXPECT_EQ(resumed.at(name).k, range.k) << name;
    EXPECT_EQ(resumed.at(name).v, range.v) << name;
  }
}

// Cosines of 2 and more are beyond int16 in units of 2^-14; an int8 cache can be had all the same.
TEST(AttentionScales, HaveNoneOfInt16ForLargeCosines) {
  const DemoGraph demo;
  ThreadPool pool(2);
  Rewriter rewriter(demo.graph());
  for (NodeId id = 0; id < static_cast<NodeId>(demo.graph().nodes().size()); ++id) {
    const Node& node = demo.graph().node(id);
    if (node.op != Op::kRotaryAngles) {
      rewriter.copy(id);
      continue;
    }
    auto angles = node.as<RotaryAnglesAttributes>();
    angles.attention_factor = 2;
    rewriter.copy(id, std::move(angles));
  }
  const Graph graph = std::move(rewriter).finish();
  AttentionRanges ranges;
  calibrate(graph, demo_windows(1, 16), pool, {}, nullptr, false, &ranges);
  const Graph scaled = with_kv_scales(graph, ranges);
  EXPECT_TRUE(scaled.has_kv_scales());
  EXPECT_TRUE(attention_of(scaled, 0).as<AttentionAttributes>().int16_scales.empty());
}

// Outliers of keys in a few channels, which R2 can't reach and one scale for all would pay for.
TEST(AttentionScales, CostNothingForOutlierChannelsOfKeys) {
  const DemoGraph demo;
  ThreadPool pool(2);
  const CalibrationWindows windows = demo_windows(8, 128);
  const auto ids = std::span(windows.ids).first(128);
  const auto loss = [&](const Graph& of, bool one_scale) {
    AttentionRanges ranges;
    calibrate(of, windows, pool, {}, nullptr, false, &ranges);
    if (one_scale)
      for (auto& [name, range] : ranges)
        std::ranges::fill(range.k, *std::ranges::max_element(range.k));
    return divergence(run_graph(of, ids), run_graph(with_kv_scales(of, ranges), ids, DType::kI8),
                      4096);
  };
  // The pair of channels 3 and 35 of each head, up in keys and down in queries.
  const Graph& graph = demo.graph();
  Rewriter rewriter(graph);
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    const bool is_key = node.name.ends_with("k_proj");
    if (node.op != Op::kLinear || (!is_key && !node.name.ends_with("q_proj"))) {
      rewriter.copy(id);
      continue;
    }
    auto linear = node.as<LinearAttributes>();
    const Rows rows = rows_of(node);
    std::vector<float> values(static_cast<std::size_t>(rows->rows() * rows->columns()));
    rows->read(0, values);
    std::vector<float> bias = linear.bias.to_floats();
    for (std::size_t r = 0; r < bias.size(); ++r) {
      const float factor = r % 32 != 3 ? 1 : is_key ? 64 : 1 / 64.0F;
      const std::size_t k = values.size() / bias.size();
      for (std::size_t c = 0; c < k; ++c) values[r * k + c] *= factor;
      bias[r] *= factor;
    }
    linear.weight = FloatWeight(Tensor::from_floats(values, {rows->rows(), rows->columns()}));
    linear.bias = Tensor::from_floats(bias, {std::ssize(bias)});
    rewriter.copy(id, std::move(linear));
  }
  const Graph spoiled = std::move(rewriter).finish();
  const double plain = loss(graph, false);
  EXPECT_LT(plain, 1e-6);
  // Powers of two: the same codes.
  EXPECT_NEAR(loss(spoiled, false), plain, 0.01 * plain);
  EXPECT_GT(loss(spoiled, true), 20 * plain);
}

}  // namespace
}  // namespace tandem::testing
