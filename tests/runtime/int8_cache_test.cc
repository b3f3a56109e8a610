// A package with an int8 KV cache: half the memory, in every mode, and the same bits in chunks of any
// size.
#include <gtest/gtest.h>

#include <cmath>

#include "runtime/complete.h"
#include "runtime/demo_package.h"

namespace tandem::testing {
namespace {

std::unique_ptr<LocalModel> open_int8(Mode mode, EngineOptions options = {}) {
  return open_alone(demo_int8_cache(), {.mode = mode, .engine = std::move(options)});
}

double mean_kl(const std::vector<float>& p_logits, const std::vector<float>& q_logits) {
  double sum = 0;
  std::size_t rows = 0;
  for (std::size_t at = 0; at < p_logits.size(); at += 4096, ++rows) {
    double p_sum = 0, q_sum = 0, dot = 0;
    for (std::size_t i = at; i < at + 4096; ++i) {
      p_sum += std::exp(static_cast<double>(p_logits[i]));
      q_sum += std::exp(static_cast<double>(q_logits[i]));
    }
    for (std::size_t i = at; i < at + 4096; ++i)
      dot += std::exp(static_cast<double>(p_logits[i])) / p_sum *
             (static_cast<double>(p_logits[i]) - q_logits[i]);
    sum += dot - std::log(p_sum) + std::log(q_sum);
  }
  return sum / static_cast<double>(rows);
}

TEST(Int8Cache, TakesHalfTheMemoryAndLosesLittle) {
  for (const Mode mode : {Mode::kHybrid, Mode::kCpu}) {
    const auto int8 = open_int8(mode), half = open_int8(mode, {.kv = DType::kF16});
    EXPECT_EQ(int8->engine.kv_pool().shape().dtype, DType::kI8);
    EXPECT_EQ(2 * int8->engine.kv_pool().block_bytes(), half->engine.kv_pool().block_bytes());
    const std::vector<TokenId> ids = demo_ids(*int8, "eval_stories.txt", 256);
    const double loss = mean_kl(all_logits(*half, ids), all_logits(*int8, ids));
    EXPECT_GT(loss, 0);
    EXPECT_LT(loss, 1e-3) << to_string(mode);
  }
}

TEST(Int8Cache, GivesTheSameBitsInChunksOfAnySize) {
  const auto whole = open_int8(Mode::kHybrid, {.chunk = 256});
  const std::vector<TokenId> ids = demo_ids(*whole, "eval_stories.txt", 200);
  const std::vector<float> expected = all_logits(*whole, ids, Phase::kPrefill);
  for (const std::int64_t chunk : {2, 16, 30, 128}) {
    const auto model = open_int8(Mode::kHybrid, {.threads = 2, .chunk = chunk});
    EXPECT_TRUE(all_logits(*model, ids, Phase::kPrefill) == expected) << chunk;
  }
  // Token by token, after a prompt that ends within a chunk, and after a rewind.
  const auto npu = open_int8(Mode::kNpu);
  KvSequence sequence = npu->engine.new_sequence();
  npu->engine.prefill(sequence, std::span(ids).first(37));
  npu->engine.prefill(sequence, std::span(ids).subspan(100, 50));
  sequence.rewind(37);
  const std::vector<float> of_npu = all_logits(*npu, ids, Phase::kPrefill);
  for (std::size_t i = 37; i < 60; ++i)
    ASSERT_TRUE(std::ranges::equal(npu->engine.decode(sequence, ids[i]),
                                   std::span(of_npu).subspan(i * 4096, 4096)))
        << i;
}

TEST(Int8Cache, IsRefusedWithoutScales) {
  EXPECT_EQ(error_of([] {
              open_alone(demo_dir(), {.mode = Mode::kFloat, .engine = {.kv = DType::kI8}});
            }),
            fmt::format("[model] {}: has no scales for an int8 KV cache: expected a package that "
                        "was quantized with --kv int8",
                        demo_dir().string()));
  EXPECT_NE(error_of([] { open_demo(Mode::kHybrid, {.kv = DType::kI8}); }).find("has no scales"),
            std::string::npos);
  // Without being asked for it, such a package has float16.
  EXPECT_EQ(open_demo(Mode::kHybrid)->engine.kv_pool().shape().dtype, DType::kF16);
}

}  // namespace
}  // namespace tandem::testing
