// The contract of an NPU program, as npu/host keeps it: exact sums, a fixed number of rows, padding
// that nobody sees; and what the device offers to run.
#include "devices/npu/npu_device.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "devices/small_graph.h"
#include "graph/shadow.h"
#include "support.h"

namespace tandem {
namespace {

using testing::Buffer;
using testing::error_of;
using testing::Random;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Two pairs of Linears on one input, of different sizes and static scales.
struct Segments {
  explicit Segments(std::int64_t k, Op activation = Op::kSilu) {
    Random random(11);
    input = graph.add_input({.name = "x", .width = k});
    const ValueId codes = quantize("codes", input, 0.05F);
    gate = linear(random, "gate", codes, 70, true);
    up = linear(random, "up", codes, 70, false);
    other = linear(random, "other", quantize("louder", input, 0.11F), 3, true);
    opened = graph.add(activation, "act", 0, {gate});
    product = graph.add(Op::kMul, "mul", 0, {opened, up});
    down = linear(random, "down", quantize("product_codes", product, 0.7F), 130, true);
    graph.set_outputs({gate, up, other, opened, product, down});
  }

  ValueId quantize(const char* name, ValueId x, float scale) {
    return graph.add(Op::kQuantize, name, 0, {x}, QuantizeAttributes{scale});
  }
  ValueId linear(Random& random, const char* name, ValueId codes, std::int64_t n, bool with_bias) {
    const ChannelCodes weight = testing::int8_weight(random, n, graph.value(codes).width);
    Tensor bias;
    if (with_bias) bias = Tensor::from_floats(testing::normal_floats(random, n), {n});
    const ValueId y = add_static_int8(graph, name, 0, codes, weight, bias);
    linears[y] = {weight, bias};
    return y;
  }

  struct Part {
    ChannelCodes weight;
    Tensor bias;
  };

  Graph graph;
  ValueId input, gate, up, other, opened, product, down;
  // By what comes out, in floats.
  std::map<ValueId, Part> linears;
};

using Floats = std::vector<float>;

// What the outputs of the graph are after one run of x, and one of its rows where padding begins.
std::map<ValueId, Floats> run(const Segments& segments, const Kernels& kernels, std::int64_t chunk,
                              std::int64_t max_rows, int threads, std::span<const float> x,
                              float filler, PanelCache& cache) {
  ThreadPool pool(threads);
  const NpuHostDevice npu(kernels);
  const Graph& graph = segments.graph;
  const auto program = npu.compile(graph, {pool, cache, {Phase::kPrefill, chunk}, {max_rows}});
  EXPECT_EQ(program->needs().fixed_rows, chunk);
  const std::int64_t width = graph.value(segments.input).width;
  const auto rows = static_cast<std::int64_t>(x.size()) / width;
  std::vector<double> given(x.begin(), x.end());
  given.resize(static_cast<std::size_t>(max_rows * width), double{filler});
  Buffer input(graph.value(segments.input), max_rows);
  input.write(given);
  std::vector<Buffer> outputs;
  for (const ValueId id : graph.outputs()) outputs.emplace_back(graph.value(id), max_rows);
  std::vector<std::byte*> out;
  for (Buffer& buffer : outputs) out.push_back(buffer.data());
  testing::Aligned<std::byte> scratch(program->needs().scratch_bytes, testing::kPoison);
  std::byte* const in[] = {input.data()};
  program->run({pool, {&rows, 1}, {}, in, out, scratch.data()});
  std::map<ValueId, Floats> values;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const auto numbers = outputs[i].read(rows);
    values[graph.outputs()[i]] = Floats(numbers.begin(), numbers.end());
  }
  return values;
}

std::map<ValueId, Floats> run(const Segments& segments, const Kernels& kernels, std::int64_t chunk,
                              std::int64_t max_rows, int threads, std::span<const float> x,
                              float filler) {
  NoPanelCache cache;
  return run(segments, kernels, chunk, max_rows, threads, x, filler, cache);
}

// A Linear by its definition, from the floats before Quantize: y = float(sum of codes' products) *
// (input scale * weight scale) + bias.
float expected(const Segments::Part& part, float input_scale, const float* x, std::int64_t column) {
  const ChannelCodes& weight = part.weight;
  std::int64_t sum = 0;
  for (std::int64_t i = 0; i < weight.k; ++i) {
    const float code = std::nearbyint(std::clamp(x[i] / input_scale, -128.0F, 127.0F));
    sum += static_cast<std::int64_t>(code) *
           weight.codes.as<std::int8_t>()[static_cast<std::size_t>(column * weight.k + i)];
  }
  const float scale = input_scale * weight.scales.as<float>()[static_cast<std::size_t>(column)];
  const float y = static_cast<float>(sum) * scale;
  return part.bias.empty() ? y : y + part.bias.as<float>()[static_cast<std::size_t>(column)];
}

TEST(NpuDevice, ComputesExactSumsWithEveryTable) {
  for (const std::int64_t k : {1, 64, 100, 257}) {
    const Segments segments(k);
    Random random(3);
    const auto x = testing::normal_floats(random, 5 * k, 4);
    for (const Kernels* kernels : available_kernels(detect_cpu_features())) {
      const auto values = run(segments, *kernels, 8, 9, 2, x, kNan);
      const struct {
        ValueId output;
        float scale;
        const Floats& input;
      } linears[] = {{segments.gate, 0.05F, x},
                     {segments.up, 0.05F, x},
                     {segments.other, 0.11F, x},
                     {segments.down, 0.7F, values.at(segments.product)}};
      for (const auto& linear : linears) {
        const auto& part = segments.linears.at(linear.output);
        const std::int64_t n = part.weight.n;
        for (std::int64_t i = 0; i < 5 * n; ++i)
          ASSERT_EQ(
              values.at(linear.output)[static_cast<std::size_t>(i)],
              expected(part, linear.scale, linear.input.data() + i / n * part.weight.k, i % n))
              << kernels->name << " value " << linear.output << " k " << k << " row " << i / n;
      }
    }
  }
}

TEST(NpuDevice, OpensGatesWithTheActivationOfTheModel) {
  Random random(4);
  const auto x = testing::normal_floats(random, 3 * 64, 4);
  for (const Kernels* kernels : available_kernels(detect_cpu_features()))
    for (const Op activation : {Op::kSilu, Op::kGelu}) {
      const Segments segments(64, activation);
      const auto values = run(segments, *kernels, 4, 4, 1, x, 0);
      Floats want(3 * 70);
      const auto kernel = activation == Op::kSilu ? kernels->silu : kernels->gelu;
      for (std::size_t row = 0; row < 3; ++row)
        kernel(values.at(segments.gate).data() + row * 70, 70, want.data() + row * 70);
      EXPECT_EQ(values.at(segments.opened), want) << kernels->name;
    }
}

TEST(NpuDevice, GivesARowTheSameBitsInAnyChunkWhateverLiesInThePadding) {
  const Segments segments(96);
  Random random(5);
  const std::int64_t rows = 7;
  const auto x = testing::normal_floats(random, rows * 96);
  for (const Kernels* kernels : available_kernels(detect_cpu_features())) {
    const auto whole = run(segments, *kernels, rows, rows, 1, x, 0.0F);
    for (const std::int64_t chunk : {8, 16, 33})
      for (const float filler : {0.0F, kNan, 1e38F})
        EXPECT_EQ(run(segments, *kernels, chunk, 40, 3, x, filler), whole)
            << kernels->name << ' ' << chunk << ' ' << filler;
    // One row at a time.
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto one = run(segments, *kernels, 1, 1, 1,
                           std::span(x).subspan(static_cast<std::size_t>(r * 96), 96), kNan);
      for (const auto& [value, floats] : one)
        EXPECT_EQ(std::memcmp(floats.data(),
                              whole.at(value).data() + static_cast<std::size_t>(r) * floats.size(),
                              4 * floats.size()),
                  0);
    }
  }
}

// What is not a number costs its own row, and nothing crashes.
TEST(NpuDevice, KeepsNonsenseInItsRow) {
  const Segments segments(64);
  Random random(5);
  auto x = testing::normal_floats(random, 3 * 64);
  const auto& kernels = select_kernels(detect_cpu_features());
  const auto before = run(segments, kernels, 4, 4, 1, x, 0).at(segments.down);
  for (std::size_t i = 64; i < 128; ++i) x[i] = i % 2 ? kNan : -INFINITY;
  const auto after = run(segments, kernels, 4, 4, 1, x, 0).at(segments.down);
  for (const std::size_t row : {0U, 2U})
    for (std::size_t c = 0; c < 130; ++c) EXPECT_EQ(before[row * 130 + c], after[row * 130 + c]);
}

TEST(NpuDevice, WantsBuffersThatHoldAChunk) {
  const Segments segments(64);
  EXPECT_EQ(error_of([&] { run(segments, testing::reference(), 4, 3, 1, {}, 0); }),
            "[npu] buffers of 3 rows cannot hold a chunk of 4");
  EXPECT_EQ(error_of([&] { run(segments, testing::reference(), 0, 3, 1, {}, 0); }),
            "[npu] buffers of 3 rows cannot hold a chunk of 0");
}

TEST(NpuDevice, CountsTheBytesOfItsWeights) {
  const Segments segments(96);
  ThreadPool pool(1);
  NoPanelCache cache;
  const NpuHostDevice npu(testing::reference());
  const auto program = npu.compile(segments.graph, {pool, cache, {Phase::kPrefill, 4}, {4}});
  // Panels of 64 channels: 2 + 2 + 1 of K = 96 and 3 of K = 70, both padded to 128, with scales.
  EXPECT_EQ(program->needs().weight_bytes, 8 * (128 * 64 + 4 * 64));
}

// Keeps panels by their names.
class CountingCache : public PanelCache {
 public:
  Tensor get_or_pack(const PanelKey& key, std::int64_t bytes,
                     const std::function<void(std::byte*)>& pack) override {
    ++asked;
    EXPECT_FALSE(key.text.empty());
    Tensor& kept = panels[key.text];
    if (kept.empty()) kept = NoPanelCache().get_or_pack(key, bytes, pack);
    return kept;
  }
  std::map<std::string, Tensor> panels;
  int asked = 0;
};

TEST(NpuDevice, SharesPanelsBetweenChunksOfAnySize) {
  const Segments segments(96);
  Random random(5);
  const auto x = testing::normal_floats(random, 96);
  CountingCache cache;
  const auto& kernels = select_kernels(detect_cpu_features());
  const auto of_chunk = run(segments, kernels, 16, 16, 2, x, kNan, cache);
  EXPECT_EQ(cache.panels.size(), 4U);
  EXPECT_EQ(cache.asked, 4);
  const auto of_one = run(segments, kernels, 1, 1, 2, x, kNan, cache);
  EXPECT_EQ(cache.asked, 8);
  EXPECT_EQ(cache.panels.size(), 4U) << "packed again for programs of one row";
  EXPECT_EQ(of_one, of_chunk);
}

class NpuOffer : public ::testing::Test {
 protected:
  Offer offer(const Graph& graph, Phase phase = Phase::kPrefill) const {
    const Offer made = npu_.offer(graph, {phase, 16});
    // Every node once.
    std::vector<int> times(graph.nodes().size(), 0);
    for (const Claim& claim : made.claims) {
      EXPECT_EQ(claim.nodes.size(), claim.reasons.size());
      EXPECT_TRUE(std::ranges::is_sorted(claim.nodes));
      for (const NodeId id : claim.nodes) ++times[static_cast<std::size_t>(id)];
    }
    for (const Refusal& refusal : made.refusals) {
      EXPECT_FALSE(refusal.reason.empty());
      ++times[static_cast<std::size_t>(refusal.node)];
    }
    for (const int count : times) EXPECT_EQ(count, 1);
    return made;
  }
  static std::vector<std::string> names(const Graph& graph, const Claim& claim) {
    std::vector<std::string> found;
    for (const NodeId id : claim.nodes) found.push_back(graph.node(id).name);
    return found;
  }
  static std::string refusal(const Graph& graph, const Offer& offer, const std::string& name) {
    for (const Refusal& refusal : offer.refusals)
      if (graph.node(refusal.node).name == name) return refusal.reason;
    return "claimed";
  }

  NpuHostDevice npu_{testing::reference()};
  Random random_{3};
};

TEST_F(NpuOffer, ClaimsConnectedParts) {
  const Graph graph = testing::small_graph(testing::SmallWeights::kInt8);
  const Offer made = offer(graph);
  ASSERT_EQ(made.claims.size(), 6U);  // qkv, the output projection and the MLP of two blocks
  using Names = std::vector<std::string>;
  EXPECT_EQ(names(graph, made.claims[0]),
            (Names{"layers.0.q.quantize", "layers.0.q", "layers.0.q.dequantize", "layers.0.k",
                   "layers.0.k.dequantize", "layers.0.v", "layers.0.v.dequantize"}));
  EXPECT_EQ(names(graph, made.claims[1]),
            (Names{"layers.0.o.quantize", "layers.0.o", "layers.0.o.dequantize"}));
  EXPECT_EQ(names(graph, made.claims[5]),
            (Names{"layers.1.gate.quantize", "layers.1.gate", "layers.1.gate.dequantize",
                   "layers.1.up", "layers.1.up.dequantize", "layers.1.act", "layers.1.mul",
                   "layers.1.down.quantize", "layers.1.down", "layers.1.down.dequantize"}));
  EXPECT_EQ(made.claims[0].reasons[0], "static int8");
  EXPECT_EQ(made.claims[5].reasons[5], "between int8 Linears");
  EXPECT_EQ(made.claims[5].reasons[6], "between int8 Linears");
  // 16 rows of [96, 96] and two of [48, 96]; codes and scales.
  EXPECT_EQ(made.claims[0].cost.multiply_adds, 16.0 * 96 * (96 + 2 * 48));
  EXPECT_EQ(made.claims[0].cost.bytes, (96 + 2 * 48) * (96.0 + 4));
  EXPECT_EQ(refusal(graph, made, "layers.0.attention"), "reads a cache whose length changes");
  EXPECT_EQ(refusal(graph, made, "head"), "rows that depend on the data");
  EXPECT_EQ(refusal(graph, made, "select"), "rows that depend on the data");
  EXPECT_EQ(refusal(graph, made, "embed"), "data-dependent rows");
  EXPECT_EQ(refusal(graph, made, "angles"), "depends on the position; float32 on the CPU");
  EXPECT_EQ(refusal(graph, made, "layers.0.q_rotary"),
            "depends on the position; float32 on the CPU");
  EXPECT_EQ(refusal(graph, made, "layers.0.mlp_residual"),
            "the residual stream stays in float32 on the CPU");
  EXPECT_EQ(refusal(graph, made, "layers.0.norm"), "int8 would lose precision; float32 on the CPU");
  // Programs of one row run the same nodes.
  EXPECT_EQ(offer(graph, Phase::kDecode).claims.size(), 6U);
}

TEST_F(NpuOffer, RefusesWhatIsNotStaticInt8) {
  using testing::SmallWeights;
  const Graph dynamic = testing::small_graph(SmallWeights::kDynamicInt8);
  const Offer of_dynamic = offer(dynamic);
  EXPECT_TRUE(of_dynamic.claims.empty());
  EXPECT_EQ(refusal(dynamic, of_dynamic, "layers.0.q.quantize"), "scales that depend on the data");
  EXPECT_EQ(refusal(dynamic, of_dynamic, "layers.0.q"), "input has no static int8 scale");
  EXPECT_EQ(refusal(dynamic, of_dynamic, "layers.0.q.dequantize"), "its sums are not the NPU's");
  EXPECT_EQ(refusal(dynamic, of_dynamic, "layers.0.mul"), "not between int8 Linears");
  for (const SmallWeights kind : {SmallWeights::kFloat, SmallWeights::kInt4}) {
    const Graph graph = testing::small_graph(kind);
    const Offer made = offer(graph);
    EXPECT_TRUE(made.claims.empty());
    EXPECT_EQ(refusal(graph, made, "layers.0.q"), "weight is not int8");
  }
}

// Int8 weights on a float input, and codes that nobody here reads.
TEST_F(NpuOffer, RefusesCodesThatAreNotForIt) {
  Graph graph;
  const ValueId x = graph.add_input({.name = "x", .width = 64});
  const ValueId codes = graph.add(Op::kQuantize, "codes", 0, {x}, QuantizeAttributes{0.1F});
  const ValueId floats = graph.add(Op::kDequantize, "floats", 0, {codes}, DequantizeAttributes{});
  const ValueId y = graph.add(Op::kLinear, "real", 0, {floats},
                              LinearAttributes{testing::int8_weight(random_, 4, 64), {}});
  const ValueId unread = graph.add(Op::kQuantize, "unread", 0, {y}, QuantizeAttributes{0.1F});
  const ValueId turned = graph.add(Op::kHadamard, "turn", 0, {x}, HadamardAttributes{64});
  const ValueId read = graph.add(Op::kQuantize, "read", 0, {turned}, QuantizeAttributes{0.1F});
  const ValueId sums =
      graph.add(Op::kLinear, "sums", 0, {read},
                LinearAttributes{testing::int8_weight(random_, 4, 64, false, true), {}});
  const ValueId narrow =
      graph.add(Op::kRequantize, "narrow", 0, {sums}, RequantizeAttributes{DType::kI8, {7}});
  ShadowLinearAttributes shadow = make_whole_shadow(testing::int8_weight(random_, 4, 64));
  shadow.scale = 0.1F;
  const ValueId clipped = graph.add(Op::kShadowLinear, "clipped", 0, {x}, std::move(shadow));
  graph.set_outputs({unread, narrow, clipped});
  const Offer made = offer(graph);
  EXPECT_EQ(refusal(graph, made, "clipped"),
            "what int8 clips depends on the data; float32 on the CPU");
  EXPECT_EQ(refusal(graph, made, "real"), "input has no static int8 scale");
  EXPECT_EQ(refusal(graph, made, "unread"), "its codes are not for the NPU");
  EXPECT_EQ(refusal(graph, made, "turn"), "float32 on the CPU");
  EXPECT_EQ(refusal(graph, made, "narrow"), "target host: sums leave as floats");
  EXPECT_EQ(refusal(graph, made, "sums"), "claimed");
}

TEST_F(NpuOffer, TakesInt16Codes) {
  Graph graph;
  const ValueId x = graph.add_input({.name = "x", .width = 64});
  const ValueId codes = graph.add(Op::kQuantizeInt16, "codes", 0, {x}, QuantizeAttributes{0.001F});
  const ValueId y =
      add_static_int8(graph, "down", 0, codes, testing::int8_weight(random_, 70, 64), {});
  graph.set_outputs({y, graph.add(Op::kQuantizeInt16, "unread", 0, {y}, QuantizeAttributes{1})});
  const Offer made = offer(graph);
  ASSERT_EQ(made.claims.size(), 1U);
  EXPECT_EQ(made.claims[0].reasons, std::vector<std::string>(3, "static int16"));
  // Two products of int8, for the weight's bytes once.
  Graph narrow;
  const ValueId input = narrow.add_input({.name = "x", .width = 64});
  const ValueId int8 = narrow.add(Op::kQuantize, "codes", 0, {input}, QuantizeAttributes{0.1F});
  narrow.set_outputs(
      {add_static_int8(narrow, "down", 0, int8, testing::int8_weight(random_, 70, 64), {})});
  const Cost wide_cost = made.claims[0].cost, cost = offer(narrow).claims.at(0).cost;
  EXPECT_GT(cost.multiply_adds, 0);
  EXPECT_EQ(wide_cost.multiply_adds, 2 * cost.multiply_adds);
  EXPECT_EQ(wide_cost.bytes, cost.bytes);
  EXPECT_EQ(refusal(graph, made, "unread"), "its codes are not for the NPU");
}

// Which rows are selected, and how many, is known at run time only: the CPU runs such a Linear.
TEST_F(NpuOffer, LeavesInt8LinearsOfSelectedRowsToTheCpu) {
  Graph graph;
  const ValueId x = graph.add_input({.name = "x", .width = 64});
  const ValueId numbers = graph.add_input({.name = "selected_rows",
                                           .dtype = DType::kI32,
                                           .rows = graph.row_space("selected"),
                                           .width = 1});
  const ValueId rows = graph.add(Op::kSelectRows, "select", -1, {x, numbers});
  const ValueId codes = graph.add(Op::kQuantize, "codes", -1, {rows}, QuantizeAttributes{0.05F});
  const ChannelCodes weight = testing::int8_weight(random_, 70, 64);
  graph.set_outputs({add_static_int8(graph, "head", -1, codes, weight, {})});
  const Offer made = offer(graph);
  EXPECT_TRUE(made.claims.empty());
  EXPECT_EQ(refusal(graph, made, "head"), "rows that depend on the data");
  EXPECT_EQ(refusal(graph, made, "codes"), "rows that depend on the data");

  const CpuDevice cpu(testing::reference());
  const std::vector<const Device*> devices = {&npu_, &cpu};
  const Placement placement = place(graph, {Phase::kPrefill, 4}, devices);
  for (const PlacedNode& node : placement.nodes) EXPECT_EQ(node.device, 1U);
  ThreadPool pool(2);
  NoPanelCache cache;
  const auto program = cpu.compile(graph, {pool, cache, {Phase::kPrefill, 4}, {4, 3}});
  Random random(7);
  const auto numbers_of_x = testing::normal_floats(random, 4 * 64);
  Buffer in(graph.value(x), 4), selected(graph.value(numbers), 3);
  Buffer out(graph.value(graph.outputs()[0]), 3);
  in.write(std::vector<double>(numbers_of_x.begin(), numbers_of_x.end()));
  selected.write(std::vector<double>{3, 1});
  testing::Aligned<std::byte> scratch(program->needs().scratch_bytes, testing::kPoison);
  std::byte* const inputs[] = {in.data(), selected.data()};
  std::byte* const outputs[] = {out.data()};
  const std::vector<std::int64_t> counts = {4, 2};
  program->run({pool, counts, {}, inputs, outputs, scratch.data()});
  const auto got = out.read(2);
  for (std::int64_t r = 0; r < 2; ++r)
    for (std::int64_t c = 0; c < 70; ++c)
      ASSERT_EQ(static_cast<float>(got[static_cast<std::size_t>(r * 70 + c)]),
                expected({weight, {}}, 0.05F, numbers_of_x.data() + (r == 0 ? 3 : 1) * 64, c));
}

// Neither recursion nor a walk back for every node: a stack overflow, or minutes.
TEST_F(NpuOffer, TakesALongChainInItsStride) {
  constexpr int kNodes = 100'000;
  for (const bool int8 : {false, true}) {
    Graph graph;
    ValueId x = graph.add_input({.name = "x", .width = 64});
    if (int8) {
      const ValueId codes = graph.add(Op::kQuantize, "codes", 0, {x}, QuantizeAttributes{0.1F});
      x = add_static_int8(graph, "first", 0, codes, testing::int8_weight(random_, 64, 64), {});
    }
    for (int i = 0; i < kNodes; ++i) x = graph.add(Op::kMul, "square", 0, {x, x});
    graph.set_outputs({x});
    const auto start = std::chrono::steady_clock::now();
    const Offer made = npu_.offer(graph, {Phase::kPrefill, 16});
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    EXPECT_LT(time.count(), 5) << "quadratic";
    EXPECT_EQ(made.claims.size(), int8 ? 1U : 0U);
    EXPECT_EQ(made.refusals.size(), int8 ? 0U : static_cast<std::size_t>(kNodes));
    const CpuDevice cpu(testing::reference());
    const std::vector<const Device*> devices = {&npu_, &cpu};
    EXPECT_EQ(place(graph, {Phase::kPrefill, 16}, devices).segments.size(), 1U);
  }
}

}  // namespace
}  // namespace tandem
