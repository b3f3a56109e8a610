// The CPU device: steps over threads, rotary tables, packed weights and their keys.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "devices/cpu/rotary_tables.h"
#include "devices/cpu/steps.h"
#include "devices/small_graph.h"
#include "support.h"

namespace tandem {
namespace {

using testing::Aligned;
using testing::PlainExecutor;
using testing::Random;
using testing::random_ids;
using testing::small_graph;
using testing::SmallSizes;
using testing::SmallWeights;

// Blocks of one sequence, filled with NaN.
class Blocks {
 public:
  Blocks(const SmallSizes& sizes, std::int64_t tokens, DType dtype) : dtype_(dtype) {
    const std::int64_t bytes = kv_block_bytes(sizes.kv_heads, sizes.head_dim, dtype);
    for (std::int32_t layer = 0; layer < sizes.layers; ++layer) {
      pointers_.emplace_back();
      for (std::int64_t t = 0; t < tokens; t += kKvBlockTokens) {
        memory_.emplace_back(bytes, std::byte{0xFF});
        pointers_.back().push_back(memory_.back().data());
      }
    }
  }
  SequenceSlice slice(std::int64_t first_row, std::int64_t rows, std::int64_t position) const {
    return {first_row, rows, position, pointers_, dtype_};
  }

 private:
  DType dtype_;
  std::vector<Aligned<std::byte>> memory_;
  std::vector<std::vector<std::byte*>> pointers_;
};

std::vector<float> all_logits(const Graph& graph, const Kernels& kernels, int threads,
                              std::span<const std::int32_t> ids, std::int64_t run_rows,
                              DType dtype) {
  ThreadPool pool(threads);
  NoPackedCache cache;
  const CpuDevice cpu(kernels);
  const std::vector<const Device*> devices = {&cpu};
  PlainExecutor executor(graph, Phase::kPrefill, devices, {pool, cache, run_rows, run_rows});
  const auto total = static_cast<std::int64_t>(ids.size());
  const Blocks blocks({}, total, dtype);
  std::vector<float> logits;
  for (std::int64_t first = 0; first < total; first += run_rows) {
    const std::int64_t rows = std::min(run_rows, total - first);
    const SequenceSlice slice = blocks.slice(0, rows, first);
    std::vector<std::int32_t> selected;
    for (std::int64_t r = 0; r < rows; ++r) selected.push_back(static_cast<std::int32_t>(r));
    const auto part = executor.run(
        pool, ids.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows)),
        {&slice, 1}, selected);
    logits.insert(logits.end(), part.begin(), part.end());
  }
  return logits;
}

TEST(CpuDevice, GivesTheSameBitsForAnyThreadsAndAnyRuns) {
  const auto ids = random_ids(150, 70);  // three blocks of the cache
  for (const SmallWeights kind : {SmallWeights::kFloat, SmallWeights::kInt4, SmallWeights::kInt8}) {
    const Graph graph = small_graph(kind);
    for (const Kernels* kernels : available_kernels(detect_cpu_features()))
      for (const DType dtype : {DType::kF16, DType::kF32}) {
        const auto whole = all_logits(graph, *kernels, 1, ids, 150, dtype);
        for (const float logit : whole) ASSERT_TRUE(std::isfinite(logit));
        EXPECT_EQ(all_logits(graph, *kernels, 3, ids, 150, dtype), whole) << kernels->name;
        EXPECT_EQ(all_logits(graph, *kernels, 2, ids, 64, dtype), whole) << kernels->name;
        EXPECT_EQ(all_logits(graph, *kernels, 1, ids, 1, dtype), whole) << kernels->name;
      }
  }
}

// Tables differ only in how floats round.
TEST(CpuDevice, AgreesAcrossTables) {
  const auto ids = random_ids(70, 70);
  const Graph graph = small_graph(SmallWeights::kFloat);
  const auto want = all_logits(graph, testing::reference(), 1, ids, 70, DType::kF32);
  double norm = 0;
  for (const float logit : want) norm = std::max<double>(norm, std::fabs(logit));
  for (const Kernels* kernels : testing::fast_tables()) {
    const auto got = all_logits(graph, *kernels, 1, ids, 70, DType::kF32);
    for (std::size_t i = 0; i < want.size(); ++i)
      ASSERT_NEAR(got[i], want[i], 2e-4 * norm) << kernels->name;
  }
}

TEST(CpuDevice, RunsInt4AsItsCodesSay) {
  Random random(9);
  Graph graph;
  graph.add_input("ids");
  const auto table = Tensor::from_floats(testing::normal_floats(random, 4 * 96), {4, 96});
  const ValueId x = graph.add(Op::kEmbedding, "x", -1, {graph.input}, EmbeddingAttributes{table});
  const Int4Groups weight = testing::int4_weight(random, 67, 96, 32);
  graph.output = graph.add(Op::kLinear, "y", -1, {x}, LinearAttributes{weight, {}});
  ThreadPool pool(2);
  NoPackedCache cache;
  const CpuDevice cpu(select_kernels(detect_cpu_features()));
  const std::vector<const Device*> devices = {&cpu};
  PlainExecutor executor(graph, Phase::kDecode, devices, {pool, cache, 4, 4});
  const std::vector<std::int32_t> ids = {3, 1, 0, 2};
  const std::vector<std::int32_t> selected = {0, 1, 2, 3};
  const auto y = executor.run(pool, ids, {}, selected);
  const auto w = dequantize_rows(weight, 0, 67);
  for (std::size_t r = 0; r < 4; ++r)
    for (std::size_t c = 0; c < 67; ++c) {
      double sum = 0, size = 0, largest = 0;
      for (std::size_t i = 0; i < 96; ++i) {
        const double a = table.as<float>()[static_cast<std::size_t>(ids[r]) * 96 + i];
        sum += a * w[c * 96 + i];
        size += std::fabs(w[c * 96 + i]);
        largest = std::max(largest, std::fabs(a));
      }
      // Each activation is off by at most half a step of its group's scale.
      EXPECT_NEAR(y[r * 67 + c], sum, size * largest / 254 + 1e-5) << r << ' ' << c;
    }
}

TEST(CpuDevice, JoinsOnlyLinearsThatReadTheSameCodes) {
  Random random(2);
  const auto node = [](ValueId input, Weight weight) {
    return Node{Op::kLinear, "", 0, {input}, 9, LinearAttributes{std::move(weight), {}}};
  };
  const Int8Channels int8 = testing::int8_weight(random, 4, 64);
  Int8Channels other = int8;
  other.input_scale *= 2;
  const Int4Groups int4 = testing::int4_weight(random, 4, 64, 32);
  const Int4Groups wide = testing::int4_weight(random, 4, 64, 64);
  EXPECT_TRUE(can_share_input(node(1, int8), node(1, int8)));
  EXPECT_FALSE(can_share_input(node(1, int8), node(2, int8)));
  EXPECT_FALSE(can_share_input(node(1, int8), node(1, other)));
  EXPECT_FALSE(can_share_input(node(1, int8), node(1, int4)));
  EXPECT_FALSE(can_share_input(node(1, int4), node(1, wide)));
  EXPECT_TRUE(can_share_input(node(1, wide), node(1, wide)));
}

TEST(RotaryTables, KeepsItsNumbersWhileItGrows) {
  const RotaryAttributes rotary{.heads = 1,
                                .head_dim = 6,
                                .inverse_frequencies = {1.0F, 0.1F, 0.001F},
                                .attention_factor = 1.25F};
  RotaryTables tables;
  const auto table = tables.get(rotary);
  RotaryAttributes more_heads = rotary;
  more_heads.heads = 8;
  EXPECT_EQ(tables.get(more_heads), table);
  RotaryAttributes other = rotary;
  other.attention_factor = 1;
  EXPECT_NE(tables.get(other), table);
  for (const std::int64_t count : {1, 2, 100, 50, 5000}) {
    const SequenceSlice slice{.rows = count};
    table->prepare({&slice, 1});
    for (std::int64_t p = 0; p < count; p += 1 + count / 37)
      for (std::int64_t i = 0; i < 3; ++i) {
        const float angle =
            static_cast<float>(p) * rotary.inverse_frequencies[static_cast<std::size_t>(i)];
        ASSERT_NEAR(table->of(slice).cos(p)[i], 1.25 * std::cos(static_cast<double>(angle)), 1e-6);
        ASSERT_NEAR(table->of(slice).sin(p)[i], 1.25 * std::sin(static_cast<double>(angle)), 1e-6);
      }
  }
}

TEST(RotaryTables, TurnsByTheLengthThatASequenceWillHave) {
  const RotaryAttributes rotary{
      .heads = 1,
      .head_dim = 4,
      .inverse_frequencies = {1.0F, 0.5F},
      .extension = {.original_context = 10, .inverse_frequencies = {0.25F, 0.125F}}};
  RotaryTables tables;
  const auto table = tables.get(rotary);
  RotaryAttributes unextended = rotary;
  unextended.extension = {};
  EXPECT_NE(tables.get(unextended), table);

  const SequenceSlice slices[] = {{.rows = 4},
                                  {.rows = 4, .position = 6},
                                  {.rows = 4, .total = 11},
                                  {.rows = 1, .position = 10}};
  table->prepare(slices);
  EXPECT_EQ(table->of(slices[0]).cos(3)[0], std::cos(3.0F));
  EXPECT_EQ(table->of(slices[1]).cos(9)[1], std::cos(4.5F));
  EXPECT_EQ(table->of(slices[2]).cos(3)[0], std::cos(0.75F));
  EXPECT_EQ(table->of(slices[3]).cos(10)[1], std::cos(1.25F));
}

// Remembers what it was asked for.
class RecordingCache : public PackedCache {
 public:
  Tensor get_or_pack(const std::function<std::string()>& key, std::int64_t bytes,
                     const std::function<void(std::byte*)>& pack) override {
    keys.push_back(key());
    return NoPackedCache().get_or_pack(key, bytes, pack);
  }
  std::vector<std::string> keys;
};

TEST(PackedLinear, NamesThePackedFormByEverythingThatDecidesIt) {
  Random random(4);
  ThreadPool pool(2);
  RecordingCache cache;
  const auto pack = [&](Weight weight) {
    const Node node{Op::kLinear, "a", 0, {1}, 2, LinearAttributes{std::move(weight), {}}};
    return pack_linear(node, {pool, cache, 1, 1});
  };
  const auto touched = [](const Tensor& tensor) {  // one bit of the last byte flipped
    std::byte* data = nullptr;
    Tensor copy = Tensor::allocate(tensor.dtype(), tensor.shape(), &data);
    std::copy(tensor.bytes().begin(), tensor.bytes().end(), data);
    data[tensor.bytes().size() - 1] ^= std::byte{1};
    return copy;
  };
  const Int4Groups int4 = testing::int4_weight(random, 70, 128, 32);
  Int4Groups codes = int4, scales = int4, zeros = int4;
  codes.codes = touched(int4.codes);
  scales.scales = touched(int4.scales);
  zeros.zero_points = touched(int4.zero_points);
  const Int8Channels int8 = testing::int8_weight(random, 70, 128);
  Int8Channels int8_scales = int8;
  int8_scales.scales = touched(int8.scales);
  const FloatWeight half = testing::float_weight(random, 70, 128, DType::kF16);
  // The same bytes as another type and in another shape.
  const FloatWeight brain{Tensor(DType::kBF16, {70, 128}, half.values.bytes(), nullptr)};
  const FloatWeight turned{Tensor(DType::kF16, {128, 70}, half.values.bytes(), nullptr)};
  for (const Weight& weight :
       std::vector<Weight>{int4, codes, scales, zeros, int8, int8_scales, half, brain, turned})
    pack(weight);
  EXPECT_EQ(std::set<std::string>(cache.keys.begin(), cache.keys.end()).size(), 9U);
  const std::string first = cache.keys.front();
  pack(int4);
  EXPECT_EQ(cache.keys.back(), first);
  // The input scale is no part of the panels.
  Int8Channels louder = int8;
  louder.input_scale = 3;
  EXPECT_EQ(pack(louder).input_scale, 3);
  EXPECT_EQ(cache.keys.back(), cache.keys[4]);
}

TEST(Scratch, GrowsAndNeverShrinks) {
  Scratch scratch;
  scratch.reserve_rows(4, 100, 3);
  scratch.reserve_attention(2, 10);
  EXPECT_EQ(scratch.attention(1) - scratch.attention(0), 16);
  const std::int8_t* before = scratch.codes();
  scratch.reserve_rows(1, 64, 1);
  scratch.reserve_attention(2, 3);
  EXPECT_EQ(scratch.codes(), before);
  EXPECT_EQ(scratch.attention(1) - scratch.attention(0), 16);
  scratch.reserve_rows(100, 4096, 32);
  std::fill_n(scratch.codes(), 100 * 4096, std::int8_t{1});
  std::fill_n(scratch.scales(), 100 * 32, 1.0F);
  std::fill_n(scratch.sums(), 100 * 32, 1);
}

}  // namespace
}  // namespace tandem
