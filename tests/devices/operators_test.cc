// Every operator on the CPU, in every table of kernels, against the interpreter: node by node, each
// given what the interpreter gave to those before it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "devices/small_graph.h"
#include "graph/every_operator.h"
#include "graph/ops.h"
#include "models/graph_interpreter.h"
#include "support.h"

namespace tandem {
namespace {

using testing::Aligned;
using testing::Blocks;
using testing::Buffer;
using testing::EveryOperator;
using testing::interpret_values;
using testing::Matrix;
using testing::Random;

constexpr std::int64_t kRows = 11;

// Values of the graph's test decoder, for a sequence of kRows tokens.
std::vector<Matrix> reference_values(const Graph& graph) {
  Matrix ids;
  for (const std::int32_t id : testing::random_ids(kRows, EveryOperator::kVocabulary))
    ids.push_back(id);
  const std::vector<Matrix> inputs = {ids, {10, 0, 3, 3}};
  return interpret_values(graph, inputs);
}

// Runs a part of the graph on `device`, given the values that it reads, and gives those it writes.
std::vector<Matrix> run_part(const Device& device, const Graph& graph,
                             std::span<const NodeId> nodes, const std::vector<Matrix>& values,
                             int threads, std::span<const ValueId> wanted = {},
                             std::int64_t max_rows = kRows + 2) {
  const Extracted part = extract(graph, nodes, wanted);
  ThreadPool pool(threads);
  NoPanelCache cache;
  const auto program =
      device.compile(part.graph, {pool, cache, {Phase::kPrefill, max_rows}, {max_rows, 4}});
  const testing::SmallSizes sizes{.layers = 1,
                                  .heads = EveryOperator::kHeads,
                                  .kv_heads = EveryOperator::kKvHeads,
                                  .head_dim = EveryOperator::kHeadDim};
  const Blocks blocks(sizes, kRows, DType::kF32);
  const SequenceSlice slice = blocks.slice(0, kRows, 0);
  const std::vector<std::int64_t> rows = {kRows, 4};
  const auto make = [&](const std::vector<ValueId>& ids) {
    std::vector<Buffer> buffers;
    for (const ValueId id : ids)
      buffers.emplace_back(graph.value(id), graph.value(id).rows == kTokens ? max_rows : 4);
    return buffers;
  };
  std::vector<Buffer> inputs = make(part.inputs), outputs = make(part.outputs);
  std::vector<std::byte*> in, out;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    inputs[i].write(values[static_cast<std::size_t>(part.inputs[i])]);
    in.push_back(inputs[i].data());
  }
  for (Buffer& buffer : outputs) out.push_back(buffer.data());
  Aligned<std::byte> scratch(program->needs().scratch_bytes, testing::kPoison);
  program->run({pool, rows, {&slice, 1}, in, out, scratch.data()});
  std::vector<Matrix> read;
  for (std::size_t i = 0; i < outputs.size(); ++i)
    read.push_back(
        outputs[i].read(rows[static_cast<std::size_t>(graph.value(part.outputs[i]).rows)]));
  return read;
}

// How far a node's result may be from the interpreter's, by the largest number in it: 0 where it is
// exact integers and the floats that they stand for.
double tolerance(const Graph& graph, const Node& node) {
  switch (node.op) {
    case Op::kEmbedding:
    case Op::kSelectRows:
    case Op::kQuantize:
    case Op::kQuantizeInt16:
    case Op::kDynamicQuantize:
    case Op::kDequantize:
    case Op::kRequantize:
    case Op::kMul:
    case Op::kAdd:
      return 0;
    case Op::kLinear:
      if (graph.value(node.inputs[0]).dtype != DType::kF32) return 0;
      // Activations are rounded to codes of 8 bits in each group, or weights to float16.
      if (const auto* groups = std::get_if<GroupCodes>(&node.as<LinearAttributes>().weight))
        return groups->bits == 4 ? 0.02 : 0x1p-11;
      return 1e-5;
    default:
      return 1e-5;
  }
}

TEST(EveryOperator, GivesWhatTheInterpreterGives) {
  const Graph graph = EveryOperator::build();
  const std::vector<Matrix> values = reference_values(graph);
  for (const Kernels* kernels : available_kernels(detect_cpu_features())) {
    const CpuDevice cpu(*kernels);
    for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
      const Node& node = graph.node(id);
      for (const int threads : {1, 3}) {
        const std::vector<Matrix> got =
            run_part(cpu, graph, {&id, 1}, values, threads, node.outputs);
        ASSERT_EQ(got.size(), node.outputs.size());
        for (std::size_t o = 0; o < got.size(); ++o) {
          const Matrix& want = values[static_cast<std::size_t>(node.outputs[o])];
          ASSERT_EQ(got[o].size(), want.size()) << node.name;
          double largest = 0;
          for (const double value : want) largest = std::max(largest, std::fabs(value));
          ASSERT_GT(largest, 0) << node.name << ": a test of zeros tests nothing";
          for (std::size_t i = 0; i < want.size(); ++i)
            ASSERT_NEAR(got[o][i], want[i], tolerance(graph, node) * largest)
                << kernels->name << ' ' << to_string(node.op) << ' ' << node.name << " at " << i;
        }
      }
    }
  }
}

// Kernels read the sums of codes besides them, and zeros behind them.
TEST(EveryOperator, WritesCodesAsKernelsReadThem) {
  const Graph graph = EveryOperator::build();
  const std::vector<Matrix> values = reference_values(graph);
  for (const Kernels* kernels : available_kernels(detect_cpu_features())) {
    for (const Node& node : graph.nodes()) {
      const Value& codes = graph.value(node.outputs[0]);
      if (codes.dtype != DType::kI8) continue;
      Graph part;
      Value input = graph.value(node.inputs[0]);
      const ValueId x = part.add_input(input);
      part.set_outputs({part.add_node(node.op, node.name, 0, {x}, node.attributes)[0]});
      ThreadPool pool(2);
      NoPanelCache cache;
      const auto program =
          CpuDevice(*kernels).compile(part, {pool, cache, {Phase::kPrefill, kRows}, {kRows}});
      Buffer in(input, kRows), out(codes, kRows);
      in.write(values[static_cast<std::size_t>(node.inputs[0])]);
      Aligned<std::byte> scratch(program->needs().scratch_bytes, testing::kPoison);
      const std::int64_t rows = kRows;
      std::byte* const inputs[] = {in.data()};
      std::byte* const outputs[] = {out.data()};
      program->run({pool, {&rows, 1}, {}, inputs, outputs, scratch.data()});
      const CodeRows got = out.code_rows();
      for (std::int64_t r = 0; r < kRows; ++r) {
        std::int32_t sum = 0;
        for (std::int64_t c = 0; c < padded_k(codes.width); ++c) {
          sum += got.codes[r * got.stride + c];
          if (c < codes.width) continue;
          ASSERT_EQ(got.codes[r * got.stride + c], 0) << node.name;
        }
        ASSERT_EQ(got.sums[r], sum) << node.name << ' ' << kernels->name;
      }
    }
  }
}

// The whole decoder in one program, whose integers are those of the interpreter up to rounding.
TEST(EveryOperator, RunsInOneProgram) {
  const Graph graph = EveryOperator::build();
  const std::vector<Matrix> values = reference_values(graph);
  std::vector<NodeId> all;
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) all.push_back(id);
  for (const Kernels* kernels : available_kernels(detect_cpu_features())) {
    const CpuDevice cpu(*kernels);
    const auto one = run_part(cpu, graph, all, values, 1);
    const auto many = run_part(cpu, graph, all, values, 3);
    EXPECT_EQ(one, many) << kernels->name;
    for (const Matrix& output : one)
      for (const double value : output) ASSERT_TRUE(std::isfinite(value)) << kernels->name;
  }
}

// A Linear of int8 codes between Quantize and Dequantize, alone and with its sums wanted besides,
// which keeps the two from being computed together.
TEST(Int8Linear, GivesTheSameBitsTogetherAndApart) {
  Random random(6);
  for (const bool dynamic : {false, true})
    for (const bool bias : {false, true})
      for (const std::int64_t k : {64, 100, 257}) {
        const std::int64_t n = 70;
        Graph graph;
        const ValueId x = graph.add_input({.name = "x", .width = k});
        std::vector<ValueId> codes;
        if (dynamic) {
          codes = graph.add_node(Op::kDynamicQuantize, "codes", 0, {x});
        } else {
          codes = {graph.add(Op::kQuantize, "codes", 0, {x}, QuantizeAttributes{0.03F})};
        }
        Tensor added;
        if (bias) added = Tensor::from_floats(testing::normal_floats(random, n), {n});
        const ValueId sums = graph.add(Op::kLinear, "sums", 0, {codes[0]},
                                       LinearAttributes{testing::int8_weight(random, n, k), {}});
        codes[0] = sums;
        const ValueId y = graph.add(Op::kDequantize, "y", 0, codes, DequantizeAttributes{added});
        graph.set_outputs({y});
        const auto numbers = testing::normal_floats(random, kRows * k);
        const Matrix input(numbers.begin(), numbers.end());
        const std::vector<Matrix> want = interpret_values(graph, {&input, 1});
        const std::vector<NodeId> all = {0, 1, 2};
        for (const Kernels* kernels : available_kernels(detect_cpu_features())) {
          const CpuDevice cpu(*kernels);
          const auto together = run_part(cpu, graph, all, {input}, 2);
          const auto apart = run_part(cpu, graph, all, {input}, 2, {{sums}});
          ASSERT_EQ(together.size(), 1U);
          ASSERT_EQ(apart.size(), 2U);
          EXPECT_EQ(together[0], apart[1]) << kernels->name << ' ' << k;
          EXPECT_EQ(apart[0], want[static_cast<std::size_t>(sums)]) << kernels->name;
          EXPECT_EQ(apart[1], want[static_cast<std::size_t>(y)]) << kernels->name;
        }
      }
}

// Several Linears on the same codes, one of which gives its sums to a Requantize.
TEST(Int8Linear, GivesSumsAndFloatsFromTheSameCodes) {
  Random random(8);
  Graph graph;
  const ValueId x = graph.add_input({.name = "x", .width = 96});
  const ValueId codes = graph.add(Op::kQuantize, "codes", 0, {x}, QuantizeAttributes{0.03F});
  const ValueId a =
      add_static_int8(graph, "a", 0, codes, testing::int8_weight(random, 130, 96), {});
  const ValueId sums =
      graph.add(Op::kLinear, "b", 0, {codes},
                LinearAttributes{testing::int8_weight(random, 40, 96, false, true), {}});
  const ValueId narrow =
      graph.add(Op::kRequantize, "narrow", 0, {sums}, RequantizeAttributes{DType::kI8, {9}});
  const ValueId c = add_static_int8(graph, "c", 0, codes, testing::int8_weight(random, 3, 96), {});
  const ValueId again =
      add_static_int8(graph, "d", 0, narrow, testing::int8_weight(random, 5, 40), {});
  graph.set_outputs({a, narrow, c, again});
  const auto numbers = testing::normal_floats(random, kRows * 96);
  const Matrix input(numbers.begin(), numbers.end());
  const std::vector<Matrix> want = interpret_values(graph, {&input, 1});
  std::vector<NodeId> all;
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) all.push_back(id);
  for (const Kernels* kernels : available_kernels(detect_cpu_features())) {
    const auto got = run_part(CpuDevice(*kernels), graph, all, {input}, 3);
    const ValueId outputs[] = {a, narrow, c, again};
    for (std::size_t i = 0; i < 4; ++i)
      EXPECT_EQ(got[i], want[static_cast<std::size_t>(outputs[i])]) << kernels->name << ' ' << i;
  }
}

// Every code that an int16 has, times extreme weights, some of them int4 in blocks.
TEST(Int16Linear, SumsExactly) {
  Random random(9);
  const std::int64_t k = 8192, n = 130;
  Graph graph;
  const ValueId codes = graph.add_input(
      {.name = "codes",
       .dtype = DType::kI16,
       .width = k,
       .quantization = Quantization{Tensor::from_floats(std::vector<float>{0.001F}, {1})}});
  const ChannelCodes weights[] = {testing::int8_weight(random, n, k),
                                  testing::int8_weight(random, 3, k, true),
                                  testing::block_weight(random, n, k, 32, true)};
  std::vector<ValueId> outputs;
  for (const ChannelCodes& weight : weights) {
    const std::string number = std::to_string(outputs.size());
    outputs.push_back(
        graph.add(Op::kLinear, "sums" + number, 0, {codes}, LinearAttributes{weight, {}}));
    const Tensor bias = Tensor::from_floats(testing::normal_floats(random, weight.n), {weight.n});
    outputs.push_back(add_static_int8(graph, "floats" + number, 0, codes, weight, bias));
  }
  graph.set_outputs(outputs);
  Matrix input;
  for (int code = -32768; code < 32768; ++code) input.push_back(code);
  // Rows that are all extremes have large sums.
  for (const int code : {-32768, kMaxInt16Code, 32767}) input.insert(input.end(), k, code);
  ASSERT_EQ(std::ssize(input), kRows * k);
  const std::vector<Matrix> want = interpret_values(graph, {&input, 1});
  std::vector<NodeId> all;
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) all.push_back(id);
  for (const Kernels* kernels : available_kernels(detect_cpu_features())) {
    const auto got = run_part(CpuDevice(*kernels), graph, all, {input}, 3);
    for (std::size_t i = 0; i < outputs.size(); ++i)
      EXPECT_EQ(got[i], want[static_cast<std::size_t>(outputs[i])]) << kernels->name << ' ' << i;
  }
}

}  // namespace
}  // namespace tandem
