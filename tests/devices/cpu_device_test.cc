// The CPU device on whole decoders: the same bits however the work is cut, joined steps, packed
// weights and their keys.
#include "devices/cpu/cpu_device.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <set>

#include "devices/host/steps.h"
#include "devices/small_graph.h"
#include "support.h"

namespace tandem {
namespace {

using testing::Blocks;
using testing::Buffer;
using testing::error_of;
using testing::PlainExecutor;
using testing::Random;
using testing::random_ids;
using testing::small_graph;
using testing::SmallWeights;

std::vector<float> all_logits(const Graph& graph, const Kernels& kernels, int threads,
                              std::span<const std::int32_t> ids, std::int64_t run_rows,
                              DType dtype) {
  ThreadPool pool(threads);
  NoPanelCache cache;
  const CpuDevice cpu(kernels);
  const std::vector<const Device*> devices = {&cpu};
  PlainExecutor executor(graph, {Phase::kPrefill, run_rows}, devices, pool, cache, {run_rows});
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
  for (const SmallWeights kind : testing::kAllSmallWeights) {
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
  const ValueId x = graph.add_input({.name = "x", .width = 96});
  const GroupCodes weight = testing::int4_weight(random, 67, 96, 32);
  graph.set_outputs({graph.add(Op::kLinear, "y", -1, {x}, LinearAttributes{weight, {}})});
  ThreadPool pool(2);
  NoPanelCache cache;
  const CpuDevice cpu(select_kernels(detect_cpu_features()));
  const auto program = cpu.compile(graph, {pool, cache, {Phase::kDecode, 4}, {4}});
  const auto numbers = testing::normal_floats(random, 4 * 96);
  Buffer input(graph.value(x), 4), output(graph.value(graph.outputs()[0]), 4);
  input.write(std::vector<double>(numbers.begin(), numbers.end()));
  testing::Aligned<std::byte> scratch(program->needs().scratch_bytes, testing::kPoison);
  const std::int64_t rows = 4;
  std::byte* const inputs[] = {input.data()};
  std::byte* const outputs[] = {output.data()};
  program->run({pool, {&rows, 1}, {}, inputs, outputs, scratch.data()});
  const auto y = output.read(4);
  const auto w = dequantize_rows(weight, 0, 67);
  for (std::size_t r = 0; r < 4; ++r)
    for (std::size_t c = 0; c < 67; ++c) {
      double sum = 0, size = 0, largest = 0;
      for (std::size_t i = 0; i < 96; ++i) {
        const double a = numbers[r * 96 + i];
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
  Graph graph;
  const ValueId x = graph.add_input({.name = "x", .width = 64});
  const ValueId codes = graph.add(Op::kQuantize, "codes", 0, {x}, QuantizeAttributes{0.5F});
  const ValueId louder = graph.add(Op::kQuantize, "louder", 0, {x}, QuantizeAttributes{1});
  const auto add = [&](ValueId input, Weight weight) {
    graph.add(Op::kLinear, "y", 0, {input}, LinearAttributes{std::move(weight), {}});
    return static_cast<NodeId>(graph.nodes().size()) - 1;
  };
  const ChannelCodes int8 = testing::int8_weight(random, 4, 64);
  const NodeId a = add(codes, int8), b = add(codes, int8), other = add(louder, int8);
  const NodeId int4 = add(x, testing::int4_weight(random, 4, 64, 32));
  const NodeId wide = add(x, testing::int4_weight(random, 4, 64, 64));
  const NodeId wide_too = add(x, testing::int4_weight(random, 4, 64, 64));
  const NodeId real = add(x, testing::float_weight(random, 4, 64, DType::kF32));
  const NodeId half = add(x, testing::float_weight(random, 4, 64, DType::kF16));
  // Int8 codes that are computed with as floats.
  const NodeId floats = add(x, int8);
  const auto joins = [&](NodeId p, NodeId q) {
    return can_share_input(graph, graph.node(p), graph.node(q));
  };
  EXPECT_TRUE(joins(a, b));
  EXPECT_FALSE(joins(a, other));
  EXPECT_FALSE(joins(a, int4));
  EXPECT_FALSE(joins(a, floats));
  EXPECT_FALSE(joins(int4, wide));
  EXPECT_TRUE(joins(wide, wide_too));
  EXPECT_FALSE(joins(int4, real));
  EXPECT_TRUE(joins(real, half));
  EXPECT_TRUE(joins(real, floats));
}

// Runs the angles of the given sequences, [rows, 2 * pairs].
std::vector<double> angles_of(const RotaryAnglesAttributes& attributes,
                              std::span<const SequenceSlice> slices) {
  Graph graph;
  const ValueId ids = graph.add_input({.name = "ids", .dtype = DType::kI32, .width = 1});
  graph.set_outputs({graph.add(Op::kRotaryAngles, "angles", -1, {ids}, attributes)});
  ThreadPool pool(2);
  NoPanelCache cache;
  const CpuDevice cpu(testing::reference());
  const std::int64_t rows = slices.back().first_row + slices.back().rows;
  const auto program = cpu.compile(graph, {pool, cache, {Phase::kPrefill, rows}, {rows}});
  Buffer input(graph.value(ids), rows), output(graph.value(graph.outputs()[0]), rows);
  testing::Aligned<std::byte> scratch(program->needs().scratch_bytes, testing::kPoison);
  std::byte* const inputs[] = {input.data()};
  std::byte* const outputs[] = {output.data()};
  program->run({pool, {&rows, 1}, slices, inputs, outputs, scratch.data()});
  return output.read(rows);
}

TEST(RotaryAngles, AreThoseOfEachPosition) {
  const RotaryAnglesAttributes attributes{.inverse_frequencies = {1.0F, 0.1F, 0.001F},
                                          .attention_factor = 1.25F};
  // More rows than one thread takes, and far into a sequence.
  const SequenceSlice slices[] = {{.rows = 5000}, {.first_row = 5000, .rows = 3, .position = 777}};
  const auto got = angles_of(attributes, slices);
  for (std::size_t row = 0; row < 5003; row += row < 4990 ? 37 : 1)
    for (std::size_t i = 0; i < 3; ++i) {
      const std::size_t position = row < 5000 ? row : row - 5000 + 777;
      const float angle = static_cast<float>(position) * attributes.inverse_frequencies[i];
      ASSERT_NEAR(got[row * 6 + i], 1.25 * std::cos(static_cast<double>(angle)), 1e-6);
      ASSERT_NEAR(got[row * 6 + 3 + i], 1.25 * std::sin(static_cast<double>(angle)), 1e-6);
    }
}

TEST(RotaryAngles, TurnByTheLengthThatASequenceWillHave) {
  const RotaryAnglesAttributes attributes{
      .inverse_frequencies = {1.0F, 0.5F},
      .extension = {.original_context = 10, .inverse_frequencies = {0.25F, 0.125F}}};
  const SequenceSlice slices[] = {{.first_row = 0, .rows = 4},
                                  {.first_row = 4, .rows = 4, .position = 6},
                                  {.first_row = 8, .rows = 4, .total = 11},
                                  {.first_row = 12, .rows = 1, .position = 10}};
  const auto got = angles_of(attributes, slices);
  const auto cosine = [&](std::size_t row, std::size_t pair) {
    return static_cast<float>(got[row * 4 + pair]);
  };
  EXPECT_EQ(cosine(3, 0), std::cos(3.0F));
  EXPECT_EQ(cosine(4 + 3, 1), std::cos(4.5F));
  EXPECT_EQ(cosine(8 + 3, 0), std::cos(0.75F));
  EXPECT_EQ(cosine(12, 1), std::cos(1.25F));
}

TEST(Attention, RefusesACacheOfAnotherType) {
  const Graph graph = small_graph(SmallWeights::kFloat);
  ThreadPool pool(1);
  NoPanelCache cache;
  const CpuDevice cpu(testing::reference());
  const std::vector<const Device*> devices = {&cpu};
  PlainExecutor executor(graph, {Phase::kPrefill, 4}, devices, pool, cache, {4});
  const Blocks blocks({}, 4, DType::kF32);
  SequenceSlice slice = blocks.slice(0, 4, 0);
  const auto ids = random_ids(4, 70);
  const auto expect_refusal = [&](const char* message) {
    try {
      executor.run(pool, ids, {&slice, 1}, {});
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
      EXPECT_STREQ(error.what(), message);
    }
  };
  slice.kv.dtype = DType::kI32;
  expect_refusal("[attention] a cache in I32: expected F16, F32 or I8");
  slice.kv.dtype = DType::kI8;
  expect_refusal("[attention] an int8 cache in layer 0: has no scales");
  slice.kv.dtype = DType::kF32;
  const std::int32_t parents[] = {-1, 0, 0, 2};
  slice.parents = parents;
  expect_refusal(
      "[attention] a tree of drafts: expected an attention on the NPU, which is that of mode npu "
      "with an int8 cache");
}

// Remembers what it was asked for.
class RecordingCache : public PanelCache {
 public:
  Tensor get_or_pack(const PanelKey& key, std::int64_t bytes,
                     const std::function<void(std::byte*)>& pack) override {
    keys.push_back(key.text);
    EXPECT_FALSE(key.persistent) << "weights in memory mean nothing to another process";
    return NoPanelCache().get_or_pack(key, bytes, pack);
  }
  std::vector<std::string> keys;
};

TEST(PackedLinear, NamesThePanelsByEverythingThatDecidesThem) {
  Random random(4);
  ThreadPool pool(2);
  RecordingCache cache;
  const auto pack = [&](Weight weight, DType input = DType::kF32) {
    const Node node{Op::kLinear, "a", 0, {1}, {2}, LinearAttributes{std::move(weight), {}}};
    return pack_linear(node, input, {pool, cache, {Phase::kDecode, 1}, {1}});
  };
  const auto other = [](const Tensor& tensor) {
    std::byte* data = nullptr;
    Tensor copy = Tensor::allocate(tensor.dtype(), tensor.shape(), &data);
    std::copy(tensor.bytes().begin(), tensor.bytes().end(), data);
    return copy;
  };
  const GroupCodes int4 = testing::int4_weight(random, 70, 128, 32);
  GroupCodes codes = int4, scales = int4, zeros = int4;
  codes.codes = other(int4.codes);
  scales.scales = other(int4.scales);
  zeros.zero_points = other(int4.zero_points);
  GroupCodes is_signed = int4, symmetric = int4;
  is_signed.is_signed = true;
  symmetric.zero_points = {};
  const ChannelCodes int8 = testing::int8_weight(random, 70, 128);
  ChannelCodes int8_scales = int8;
  int8_scales.scales = other(int8.scales);
  const FloatWeight half = testing::float_weight(random, 70, 128, DType::kF16);
  const Tensor& values = *half.rows->stored();
  // The same bytes as another type and in another shape.
  const FloatWeight brain{values.view_as(DType::kBF16, {70, 128})};
  const FloatWeight turned{values.view_as(DType::kF16, {128, 70})};
  for (const Weight& weight : std::vector<Weight>{int4, codes, scales, zeros, is_signed, symmetric,
                                                  int8, int8_scales, half, brain, turned})
    pack(weight);
  // Int8 codes for int8 input are other panels than those for float input.
  pack(int8, DType::kI8);
  EXPECT_EQ(std::set<std::string>(cache.keys.begin(), cache.keys.end()).size(), 12U);
  EXPECT_FALSE(std::set<std::string>(cache.keys.begin(), cache.keys.end()).contains(""));
  const std::string first = cache.keys.front();
  pack(int4);
  EXPECT_EQ(cache.keys.back(), first);
  // What has no name is packed anew: memory of others, and rows that are computed.
  pack(FloatWeight{Tensor(DType::kF16, {70, 128}, values.bytes(), nullptr)});
  EXPECT_EQ(cache.keys.back(), "");
  pack(FloatWeight{scale_rows(half.rows, std::vector<float>(70, 2.0F))});
  EXPECT_EQ(cache.keys.back(), "");
}

TEST(PackedLinear, NamesTheNodeWithCodesOutOfRange) {
  Random random(4);
  ThreadPool pool(1);
  NoPanelCache cache;
  ChannelCodes weight = testing::int8_weight(random, 2, 64);
  std::byte* data = nullptr;
  weight.codes = Tensor::allocate(DType::kI8, {2, 64}, &data);
  std::fill_n(data, 128, std::byte{0});
  data[70] = std::byte{0x80};
  const Node node{Op::kLinear, "layers.0.q", 0, {1}, {2}, LinearAttributes{weight, {}}};
  EXPECT_EQ(
      error_of([&] { pack_linear(node, DType::kI8, {pool, cache, {Phase::kDecode, 1}, {1}}); }),
      "[weight] layers.0.q: row 1: expected codes in [-127, 127], got -128");
}

}  // namespace
}  // namespace tandem
