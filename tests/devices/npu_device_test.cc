// The contract of an NPU program, as npu/host keeps it: exact sums, a fixed number of rows, padding
// that nobody sees.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "devices/small_graph.h"
#include "support.h"

namespace tandem {
namespace {

using testing::Aligned;
using testing::error_of;
using testing::Random;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Two pairs of Linears on one input, of different sizes; the last has a static scale of its own.
struct Segments {
  explicit Segments(std::int64_t k, Op activation = Op::kSilu) {
    Random random(11);
    graph.add_input("ids");
    const auto table = Tensor::from_floats(std::vector<float>(static_cast<std::size_t>(k)), {1, k});
    input = graph.add(Op::kEmbedding, "x", -1, {graph.input}, EmbeddingAttributes{table});
    const auto linear = [&](const char* name, ValueId x, std::int64_t n, float scale, bool bias) {
      Int8Channels weight = testing::int8_weight(random, n, graph.value(x).width);
      weight.input_scale = scale;
      LinearAttributes attributes{weight, {}};
      if (bias) attributes.bias = Tensor::from_floats(testing::normal_floats(random, n), {n});
      return graph.add(Op::kLinear, name, 0, {x}, attributes);
    };
    gate = linear("gate", input, 70, 0.05F, true);
    up = linear("up", input, 70, 0.05F, false);
    other = linear("other", input, 3, 0.11F, true);
    opened = graph.add(activation, "act", 0, {gate});
    product = graph.add(Op::kMul, "mul", 0, {opened, up});
    down = linear("down", product, 130, 0.7F, true);
    graph.output = down;
  }

  Graph graph;
  ValueId input, gate, up, other, opened, product, down;
};

// Values of one run of the NPU's nodes, [chunk, width] each.
std::vector<Aligned<float>> run(const Segments& segments, const Kernels& kernels,
                                std::int64_t chunk, std::int64_t max_rows, int threads,
                                std::span<const float> x, float filler) {
  ThreadPool pool(threads);
  NoPackedCache cache;
  const NpuHostDevice npu(kernels, chunk);
  const auto program =
      npu.compile(segments.graph, 1, static_cast<NodeId>(segments.graph.nodes().size()),
                  {pool, cache, max_rows, max_rows});
  std::vector<Aligned<float>> memory;
  std::vector<float*> values;
  for (const Value& value : segments.graph.values()) {
    memory.emplace_back(max_rows * value.width, filler);
    values.push_back(memory.back().data());
  }
  std::copy(x.begin(), x.end(), values[static_cast<std::size_t>(segments.input)]);
  const std::int64_t width = segments.graph.value(segments.input).width;
  const std::vector<std::int32_t> ids(x.size() / static_cast<std::size_t>(width));
  program->run({pool, ids, {}, {}, values});
  return memory;
}

// The same Linear by its definition, from the input's floats: y = float(sum of codes' products) *
// (input scale * weight scale) + bias.
float expected(const Segments& segments, NodeId id, const float* x, std::int64_t column) {
  const Node& node = segments.graph.node(id);
  const auto& attributes = node.as<LinearAttributes>();
  const auto& weight = std::get<Int8Channels>(attributes.weight);
  std::int64_t sum = 0;
  for (std::int64_t i = 0; i < weight.k; ++i) {
    const float code = std::nearbyint(std::clamp(x[i] / weight.input_scale, -128.0F, 127.0F));
    sum += static_cast<std::int64_t>(code) *
           weight.codes.as<std::int8_t>()[static_cast<std::size_t>(column * weight.k + i)];
  }
  const float scale =
      weight.input_scale * weight.scales.as<float>()[static_cast<std::size_t>(column)];
  const float y = static_cast<float>(sum) * scale;
  return attributes.bias.empty()
             ? y
             : y + attributes.bias.as<float>()[static_cast<std::size_t>(column)];
}

TEST(NpuDevice, ComputesExactSumsWithEveryTable) {
  for (const std::int64_t k : {1, 64, 100, 257}) {
    const Segments segments(k);
    Random random(3);
    const auto x = testing::normal_floats(random, 5 * k, 4);
    for (const Kernels* kernels : available_kernels(detect_cpu_features())) {
      const auto values = run(segments, *kernels, 8, 9, 2, x, kNan);
      for (NodeId id = 1; id < static_cast<NodeId>(segments.graph.nodes().size()); ++id) {
        const Node& node = segments.graph.node(id);
        if (node.op != Op::kLinear) continue;
        const std::int64_t n = segments.graph.value(node.output).width;
        const std::int64_t inputs = segments.graph.value(node.inputs[0]).width;
        const float* input = values[static_cast<std::size_t>(node.inputs[0])].data();
        for (std::int64_t i = 0; i < 5 * n; ++i)
          ASSERT_EQ(values[static_cast<std::size_t>(node.output)][i],
                    expected(segments, id, input + i / n * inputs, i % n))
              << kernels->name << ' ' << node.name << " k " << k << " row " << i / n;
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
      const NpuHostDevice npu(*kernels, 4);
      EXPECT_TRUE(npu.supports(segments.graph, segments.graph.node(4), Phase::kPrefill).yes);
      const auto values = run(segments, *kernels, 4, 4, 1, x, 0);
      std::vector<float> want(3 * 70);
      const auto kernel = activation == Op::kSilu ? kernels->silu : kernels->gelu;
      for (std::size_t row = 0; row < 3; ++row)
        kernel(values[static_cast<std::size_t>(segments.gate)].data() + row * 70, 70,
               want.data() + row * 70);
      EXPECT_EQ(std::memcmp(values[static_cast<std::size_t>(segments.opened)].data(), want.data(),
                            want.size() * sizeof(float)),
                0)
          << kernels->name;
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
      for (const float filler : {0.0F, kNan, 1e38F}) {
        const auto padded = run(segments, *kernels, chunk, 40, 3, x, filler);
        for (const ValueId value : {segments.gate, segments.other, segments.product, segments.down})
          EXPECT_EQ(
              std::memcmp(padded[static_cast<std::size_t>(value)].data(),
                          whole[static_cast<std::size_t>(value)].data(),
                          static_cast<std::size_t>(4 * rows * segments.graph.value(value).width)),
              0)
              << kernels->name << ' ' << chunk << ' ' << filler;
      }
    // One row at a time.
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto one = run(segments, *kernels, 1, 1, 1,
                           std::span(x).subspan(static_cast<std::size_t>(r * 96), 96), kNan);
      EXPECT_EQ(
          std::memcmp(one[static_cast<std::size_t>(segments.down)].data(),
                      whole[static_cast<std::size_t>(segments.down)].data() + r * 130, 4 * 130),
          0);
    }
  }
}

// What is not a number costs its own row, and nothing crashes.
TEST(NpuDevice, KeepsNonsenseInItsRow) {
  const Segments segments(64);
  Random random(5);
  auto x = testing::normal_floats(random, 3 * 64);
  const auto before = run(segments, select_kernels(detect_cpu_features()), 4, 4, 1, x, 0);
  for (std::size_t i = 64; i < 128; ++i) x[i] = i % 2 ? kNan : -INFINITY;
  const auto after = run(segments, select_kernels(detect_cpu_features()), 4, 4, 1, x, 0);
  for (const std::int64_t row : {0, 2})
    for (std::int64_t c = 0; c < 130; ++c)
      EXPECT_EQ(before[static_cast<std::size_t>(segments.down)][row * 130 + c],
                after[static_cast<std::size_t>(segments.down)][row * 130 + c]);
}

TEST(NpuDevice, RefusesMoreRowsThanItsChunk) {
  const Segments segments(64);
  const std::vector<float> x(5 * 64);
  EXPECT_NE(error_of([&] {
              run(segments, testing::reference(), 4, 8, 1, x, 0);
            }).find("[npu] 5 rows given to a program of 4"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              run(segments, testing::reference(), 4, 3, 1, {}, 0);
            }).find("buffers of 3 rows cannot hold a chunk of 4"),
            std::string::npos);
}

TEST(NpuDevice, CountsTheBytesOfItsWeights) {
  const Segments segments(96);
  ThreadPool pool(1);
  NoPackedCache cache;
  const NpuHostDevice npu(testing::reference(), 4);
  const auto program = npu.compile(
      segments.graph, 1, static_cast<NodeId>(segments.graph.nodes().size()), {pool, cache, 4, 4});
  // Panels of 64 channels: 2 + 2 + 1 of K = 96 and 3 of K = 70, both padded to 128, with scales.
  EXPECT_EQ(program->weight_bytes(), 8 * (128 * 64 + 4 * 64));
}

}  // namespace
}  // namespace tandem
