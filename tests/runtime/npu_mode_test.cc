// Mode npu, in which answers are written in static int8, too; and prompts in chunks of any size,
// which compute what one run of the whole prompt does.
#include <gtest/gtest.h>

#include <algorithm>

#include "runtime/complete.h"
#include "runtime/demo_package.h"

namespace tandem::testing {
namespace {

// The logits of every token, read as one prompt.
std::vector<float> read_whole(LocalModel& model, std::span<const TokenId> ids) {
  std::vector<float> logits;
  KvSequence sequence = model.engine.new_sequence();
  model.engine.prefill_all(
      sequence, ids,
      [&](std::int64_t, std::span<const float> rows) {
        logits.insert(logits.end(), rows.begin(), rows.end());
      },
      Phase::kPrefill);
  return logits;
}

std::span<const float> row(const std::vector<float>& logits, std::size_t i,
                           const LocalModel& model) {
  const auto width = static_cast<std::size_t>(model.info().vocabulary);
  return std::span(logits).subspan(i * width, width);
}

// Every length from one token to three chunks and one token, bit for bit. Each row of the whole is
// the last one of a prompt that ends there.
TEST(ChunkedPrompts, EqualThePromptInOneRun) {
  const auto whole = open_demo(Mode::kHybrid, {.chunk = 512});
  const std::vector<TokenId> ids = demo_ids(*whole, "eval_stories.txt", 3 * 128 + 1);
  const std::vector<float> expected = read_whole(*whole, ids);
  for (const std::int64_t chunk : {2, 16, 30, 64, 128}) {
    const auto model = open_demo(Mode::kHybrid, {.threads = 2, .chunk = chunk});
    const auto longest = std::min(ids.size(), static_cast<std::size_t>(3 * chunk + 1));
    for (std::size_t length = 1; length <= longest; ++length) {
      KvSequence sequence = model->engine.new_sequence();
      const auto logits =
          model->engine.prefill(sequence, std::span(ids).first(length), Phase::kPrefill);
      ASSERT_TRUE(std::ranges::equal(logits, row(expected, length - 1, *whole)))
          << length << " tokens in chunks of " << chunk;
      ASSERT_EQ(sequence.length(), static_cast<std::int64_t>(length));
    }
  }
}

TEST(NpuMode, WritesWithTheWeightsThatReadPrompts) {
  const auto hybrid = open_demo(Mode::kHybrid);
  const auto npu = open_demo(Mode::kNpu);
  EXPECT_EQ(npu->engine.weight_bytes(Phase::kDecode), npu->engine.weight_bytes(Phase::kPrefill));
  const std::vector<TokenId> ids = demo_ids(*hybrid, "eval_stories.txt", 80);
  const std::vector<float> expected = read_whole(*hybrid, ids);
  // A prompt, then token by token: bit for bit what prompts of these lengths give.
  KvSequence sequence = npu->engine.new_sequence();
  constexpr std::size_t kPrompt = 37;
  std::span<const float> logits = npu->engine.prefill(sequence, std::span(ids).first(kPrompt));
  for (std::size_t i = kPrompt; i <= ids.size(); ++i) {
    ASSERT_TRUE(std::ranges::equal(logits, row(expected, i - 1, *npu))) << i;
    if (i < ids.size()) logits = npu->engine.decode(sequence, ids[i]);
  }
  // A prompt of one token is read by the program of one row.
  KvSequence one = npu->engine.new_sequence();
  EXPECT_TRUE(std::ranges::equal(npu->engine.prefill(one, std::span(ids).first(1)),
                                 row(expected, 0, *npu)));
}

TEST(NpuMode, RunsLinearsOfBothPhasesOnTheNpu) {
  const auto npu = open_demo(Mode::kNpu);
  for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) {
    const Graph& graph = npu->engine.graph(phase);
    const Placement& placement = npu->engine.placement(phase);
    const auto index = [](auto i) { return static_cast<std::size_t>(i); };
    int on_npu = 0;
    for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
      const Node& node = graph.node(id);
      if (node.op == Op::kLinear && node.layer >= 0)
        on_npu += placement.devices[index(placement.nodes[index(id)].device)] == "npu";
    }
    EXPECT_EQ(on_npu, 42);
  }
}

TEST(NpuMode, BatchesAreWrittenOneByOne) {
  const auto npu = open_demo(Mode::kNpu);
  const std::vector<TokenId> ids = demo_ids(*npu, "eval_stories.txt", 24);
  KvSequence a = npu->engine.new_sequence(), b = npu->engine.new_sequence();
  npu->engine.prefill(a, std::span(ids).first(20));
  npu->engine.prefill(b, std::span(ids).subspan(3, 9));
  KvSequence* const both[] = {&a, &b};
  const TokenId next[] = {ids[20], ids[12]};
  const auto together = npu->engine.decode_batch(both, next);
  const std::vector<float> kept(together.begin(), together.end());
  KvSequence alone = npu->engine.new_sequence();
  npu->engine.prefill(alone, std::span(ids).subspan(3, 9));
  EXPECT_TRUE(std::ranges::equal(npu->engine.decode(alone, ids[12]), row(kept, 1, *npu)));
}

TEST(NpuMode, NeedsAPackage) {
  EXPECT_NE(error_of([] {
              open_alone(demo_dir(), {.mode = Mode::kNpu});
            }).find("mode npu needs a package"),
            std::string::npos);
}

}  // namespace
}  // namespace tandem::testing
