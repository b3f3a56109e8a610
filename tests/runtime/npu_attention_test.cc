// Mode npu with an int8 cache: attention on the NPU, in contexts of several lengths, and trees of
// drafts.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "runtime/demo_package.h"

namespace tandem::testing {
namespace {

std::unique_ptr<LocalModel> open_int8(Mode mode, EngineOptions options = {}) {
  return open_alone(demo_int8_cache(), {.mode = mode, .engine = std::move(options)});
}

std::string device_of(const Engine& engine, Phase phase, Op op) {
  const Graph& graph = engine.graph(phase);
  const Placement& placement = engine.placement(phase);
  for (std::size_t i = 0; i < graph.nodes().size(); ++i)
    if (graph.nodes()[i].op == op) return placement.devices[placement.nodes[i].device];
  return {};
}

TEST(NpuAttention, IsOnTheNpuInModeNpuAlone) {
  const auto npu = open_int8(Mode::kNpu), hybrid = open_int8(Mode::kHybrid);
  const auto half = open_int8(Mode::kNpu, {.kv = DType::kF16});
  for (const Phase phase : {Phase::kPrefill, Phase::kDecode})
    for (const Op op : {Op::kGroupQueryAttention, Op::kRotaryEmbedding}) {
      EXPECT_EQ(device_of(npu->engine, phase, op), "npu");
      EXPECT_EQ(device_of(hybrid->engine, phase, op), "cpu");
      EXPECT_EQ(device_of(half->engine, phase, op), "cpu");
    }
  EXPECT_EQ(npu->engine.placement(Phase::kPrefill).spec.context, 128);
  EXPECT_TRUE(npu->engine.reads_trees());
  EXPECT_FALSE(hybrid->engine.reads_trees());
}

// From a context of 128 tokens to one of 512, in the middle of a prompt.
TEST(NpuAttention, GivesTheSameBitsInChunksOfAnySizeAndTokenByToken) {
  const auto whole = open_int8(Mode::kNpu, {.chunk = 256});
  const std::vector<TokenId> ids = demo_ids(*whole, "eval_stories.txt", 180);
  const std::vector<float> expected = all_logits(*whole, ids, Phase::kPrefill);
  for (const std::int64_t chunk : {2, 16, 30, 128})
    EXPECT_TRUE(all_logits(*open_int8(Mode::kNpu, {.threads = 2, .chunk = chunk}), ids,
                           Phase::kPrefill) == expected)
        << chunk;
  KvSequence sequence = whole->engine.new_sequence();
  whole->engine.prefill(sequence, std::span(ids).first(110));
  for (std::size_t i = 110; i < 150; ++i)
    ASSERT_TRUE(std::ranges::equal(whole->engine.decode(sequence, ids[i]),
                                   std::span(expected).subspan(i * 4096, 4096)))
        << i;
}

TEST(NpuAttention, ReadsSequencesTogetherAsAlone) {
  const auto model = open_int8(Mode::kNpu);
  Engine& engine = model->engine;
  const std::vector<TokenId> ids = demo_ids(*model, "eval_stories.txt", 200);
  const auto all = std::span(ids);
  KvSequence a = engine.new_sequence(), b = engine.new_sequence(), c = engine.new_sequence();
  KvSequence* const sequences[] = {&a, &b, &c};
  const std::span<const TokenId> texts[] = {all.first(130), all.subspan(9, 2), all.subspan(60, 70)};
  const std::vector<float> together = copy(engine.prefill_batch(sequences, texts));
  for (std::size_t i = 0; i < 3; ++i) {
    KvSequence alone = engine.new_sequence();
    EXPECT_TRUE(std::ranges::equal(engine.prefill(alone, texts[i]),
                                   std::span(together).subspan(i * 4096, 4096)))
        << i;
  }
}

TEST(NpuAttention, IsNearAttentionInFloat) {
  const auto npu = open_int8(Mode::kNpu), half = open_int8(Mode::kNpu, {.kv = DType::kF16});
  const std::vector<TokenId> ids = demo_ids(*npu, "eval_stories.txt", 256);
  const auto p = all_logits(*half, ids, Phase::kPrefill),
             q = all_logits(*npu, ids, Phase::kPrefill);
  double sum = 0;
  for (std::size_t at = 0; at < p.size(); at += 4096) {
    double p_sum = 0, q_sum = 0, dot = 0;
    for (std::size_t i = at; i < at + 4096; ++i) {
      p_sum += std::exp(static_cast<double>(p[i]));
      q_sum += std::exp(static_cast<double>(q[i]));
      dot += std::exp(static_cast<double>(p[i])) * (static_cast<double>(p[i]) - q[i]);
    }
    sum += dot / p_sum - std::log(p_sum) + std::log(q_sum);
  }
  EXPECT_LT(sum / 256, 2e-3);
}

TEST(NpuAttention, ReadsATreeOfDraftsAndKeepsAPath) {
  const auto model = open_int8(Mode::kNpu);
  Engine& engine = model->engine;
  const std::vector<TokenId> ids = demo_ids(*model, "eval_stories.txt", 130);
  const auto past = std::span(ids).first(120);
  KvSequence sequence = engine.new_sequence();
  engine.prefill(sequence, past);
  // A wrong draft, the right one behind it, and more of both: rows 1, 2 and 4 are the text.
  const std::vector<TokenId> drafts = {77, ids[120], ids[121], 99, ids[122]};
  const std::int32_t parents[] = {-1, -1, 1, 0, 2};
  const std::vector<float> tree = copy(engine.read_tree(sequence, drafts, parents));
  ASSERT_EQ(tree.size(), drafts.size() * 4096);
  EXPECT_EQ(sequence.length(), 120);
  const std::int32_t kept[] = {1, 2, 4};
  sequence.accept(kept, std::span(ids).subspan(120, 3));
  EXPECT_EQ(sequence.length(), 123);

  KvSequence plain = engine.new_sequence();
  engine.prefill(plain, past);
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_TRUE(
        std::ranges::equal(engine.decode(plain, ids[120 + i]),
                           std::span(tree).subspan(static_cast<std::size_t>(kept[i]) * 4096, 4096)))
        << i;
  // What follows reads the keys and values that were kept.
  const std::vector<float> expected = copy(engine.decode(plain, ids[123]));
  EXPECT_TRUE(std::ranges::equal(engine.decode(sequence, ids[123]), expected));

  const auto hybrid = open_int8(Mode::kHybrid);
  KvSequence other = hybrid->engine.new_sequence();
  EXPECT_EQ(
      error_of([&] { hybrid->engine.read_tree(other, drafts, parents); }),
      "[model] a tree of drafts: expected attention on the NPU, which is that of mode npu with "
      "an int8 cache");
  EXPECT_EQ(error_of([&] { engine.read_tree(sequence, drafts, std::span(parents).first(2)); }),
            "[model] a tree of 5 tokens and 2 parents: expected 1 to 128 of each");
}

}  // namespace
}  // namespace tandem::testing
