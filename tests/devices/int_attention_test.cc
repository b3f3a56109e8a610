// Attention on the NPU: the same bits in a context of any length, in chunks of any size and in a tree
// of drafts, near what floats compute; and when the device offers it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "devices/small_graph.h"
#include "graph/rewriter.h"
#include "support.h"

namespace tandem::testing {
namespace {

constexpr std::int64_t kVocabulary = SmallSizes{}.vocabulary;

// With scales of int8 codes in [-range, range] of each attention, and other attributes.
Graph with_scales(const Graph& graph, float q_range, float k_range, float v_range,
                  std::int64_t window = 0, float softcap = 0) {
  Rewriter rewriter(graph);
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    if (node.op != Op::kGroupQueryAttention) {
      rewriter.copy(id);
      continue;
    }
    auto attention = node.as<AttentionAttributes>();
    const std::int64_t width = attention.kv_heads * attention.head_dim;
    std::vector<float> k, v;
    for (std::int64_t c = 0; c < width; ++c) {
      // No two alike.
      const float factor = 1 + 0.01F * static_cast<float>(c % 7);
      k.push_back(k_range * factor / 127);
      v.push_back(v_range * factor / 127);
    }
    attention.window = window;
    attention.softcap = softcap;
    attention.k_scales = Tensor::from_floats(k, {width});
    attention.v_scales = Tensor::from_floats(v, {width});
    const float scales[] = {q_range / 32767, k_range / 32767,
                            q_range * k_range * 1.07F / 127 / 32767};
    attention.int16_scales = Tensor::from_floats(scales, {3});
    rewriter.copy(id, std::move(attention));
  }
  return std::move(rewriter).finish();
}

Graph scaled(std::int64_t window = 0) {
  return with_scales(small_graph(SmallWeights::kInt8), 30, 30, 30, window);
}

// Reads what it is given behind what was read before.
class Reader {
 public:
  Reader(const Graph& graph, std::int64_t chunk, std::int64_t context, int threads = 2)
      : pool_(threads),
        executor_(graph, {Phase::kPrefill, chunk, context}, devices(), pool_, panels_, {chunk}),
        chunk_(chunk) {}

  // Logits of all tokens.
  std::vector<float> read(std::span<const std::int32_t> ids) {
    std::vector<float> logits;
    for (std::size_t at = 0; at < ids.size(); at += static_cast<std::size_t>(chunk_)) {
      const auto rows =
          ids.subspan(at, std::min(ids.size() - at, static_cast<std::size_t>(chunk_)));
      const auto some = run(rows, {});
      logits.insert(logits.end(), some.begin(), some.end());
      position_ += std::ssize(rows);
    }
    return logits;
  }
  // The same of a tree, which leaves the sequence as it is.
  std::vector<float> run(std::span<const std::int32_t> ids, std::span<const std::int32_t> parents) {
    SequenceSlice slice = blocks_.slice(0, std::ssize(ids), position_);
    slice.parents = parents;
    std::vector<std::int32_t> every(ids.size());
    for (std::size_t i = 0; i < every.size(); ++i) every[i] = static_cast<std::int32_t>(i);
    return executor_.run(pool_, ids, {&slice, 1}, every);
  }

 private:
  std::span<const Device* const> devices() const { return devices_; }

  NpuHostDevice npu_{select_kernels(detect_cpu_features())};
  CpuDevice cpu_{select_kernels(detect_cpu_features())};
  std::vector<const Device*> devices_{&npu_, &cpu_};
  ThreadPool pool_;
  NoPanelCache panels_;
  PlainExecutor executor_;
  Blocks blocks_{{}, 512, DType::kI8};
  std::int64_t chunk_;
  std::int64_t position_ = 0;
};

TEST(IntAttention, IsTheSameInEveryContextAndChunk) {
  const auto ids = random_ids(100, kVocabulary);
  for (const std::int64_t window : {0, 20}) {
    const Graph graph = scaled(window);
    const auto expected = Reader(graph, 100, 100).read(ids);
    ASSERT_TRUE(std::ranges::all_of(expected, [](float x) { return std::isfinite(x); }));
    for (const std::int64_t context : {128, 512, 2048})
      for (const std::int64_t chunk : {1, 2, 7, 64, 100, 128})
        EXPECT_TRUE(Reader(graph, chunk, context, 3).read(ids) == expected)
            << "chunks of " << chunk << " in " << context;
  }
}

TEST(IntAttention, ReadsATreeAsEachPathAlone) {
  const auto past = random_ids(70, kVocabulary), drafts = random_ids(9, kVocabulary, 5);
  // Two roots; from the first one a fork, and a path that goes on to the last row.
  const std::int32_t parents[] = {-1, 0, 0, -1, 1, 2, 3, 4, 7};
  for (const std::int64_t window : {0, 3, 30}) {
    const Graph graph = scaled(window);
    Reader reader(graph, 70, 128);
    reader.read(past);
    const auto tree = reader.run(drafts, parents);
    for (std::size_t row = 0; row < drafts.size(); ++row) {
      std::vector<std::int32_t> path;
      for (auto at = static_cast<std::int32_t>(row); at >= 0;
           at = parents[static_cast<std::size_t>(at)])
        path.insert(path.begin(), drafts[static_cast<std::size_t>(at)]);
      Reader alone(graph, 70, 512);
      alone.read(past);
      const auto expected = alone.read(path);
      EXPECT_TRUE(std::equal(expected.end() - kVocabulary, expected.end(),
                             tree.begin() + static_cast<std::ptrdiff_t>(row) * kVocabulary))
          << "row " << row << ", window " << window;
    }
  }
}

TEST(IntAttention, RefusesWhatIsNoTree) {
  const Graph graph = scaled();
  Reader reader(graph, 8, 128);
  const auto ids = random_ids(3, kVocabulary);
  const std::int32_t later[] = {-1, 1, 0}, few[] = {-1, 0}, below[] = {-1, -2, 0};
  EXPECT_EQ(error_of([&] { reader.run(ids, later); }),
            "[program] row 1 continues row 1: expected an earlier one, or -1");
  EXPECT_EQ(error_of([&] { reader.run(ids, below); }),
            "[program] row 1 continues row -2: expected an earlier one, or -1");
  EXPECT_EQ(error_of([&] { reader.run(ids, few); }), "[program] parents of 2 rows, expected 3");
}

// One attention of float inputs, with and without rotary embeddings: the only losses are those of
// rounding.
TEST(IntAttention, IsNearWhatFloatsCompute) {
  constexpr std::int64_t kHeads = 4, kKvHeads = 2, kDim = 24, kTurned = 16, kRows = 50;
  for (const bool turns : {false, true}) {
    Graph graph;
    const ValueId ids = graph.add_input({.name = "ids", .dtype = DType::kI32, .width = 1});
    ValueId q = graph.add_input({.name = "q", .width = kHeads * kDim});
    ValueId k = graph.add_input({.name = "k", .width = kKvHeads * kDim});
    const ValueId v = graph.add_input({.name = "v", .width = kKvHeads * kDim});
    RotaryAnglesAttributes turn;
    for (std::int64_t i = 0; i < kTurned / 2; ++i)
      turn.inverse_frequencies.push_back(1.0F / static_cast<float>(1 + i));
    turn.attention_factor = 1.3F;
    const ValueId angles = graph.add(Op::kRotaryAngles, "angles", -1, {ids}, std::move(turn));
    if (turns) {
      q = graph.add(Op::kRotaryEmbedding, "q_rotary", 0, {q, angles},
                    RotaryAttributes{.heads = kHeads, .head_dim = kDim});
      k = graph.add(Op::kRotaryEmbedding, "k_rotary", 0, {k, angles},
                    RotaryAttributes{.heads = kKvHeads, .head_dim = kDim});
    }
    AttentionAttributes attention{
        .heads = kHeads, .kv_heads = kKvHeads, .head_dim = kDim, .scale = 0.3F};
    graph.set_outputs({graph.add(Op::kGroupQueryAttention, "attention", 0, {q, k, v}, attention)});
    const Graph with = with_scales(graph, 7, 7, 4.5F);

    Random random(3);
    ThreadPool pool(2);
    NoPanelCache panels;
    const NpuHostDevice npu(select_kernels(detect_cpu_features()));
    const CpuDevice cpu(select_kernels(detect_cpu_features()));
    std::vector<std::vector<float>> given;
    for (const std::int64_t heads : {kHeads, kKvHeads, kKvHeads})
      given.push_back(normal_floats(random, kRows * heads * kDim));
    const auto compute = [&](const Device& device, std::int64_t context, DType cache) {
      const CompileContext compile{pool, panels, {Phase::kPrefill, kRows, context}, {kRows}};
      // The angles are the CPU's.
      Graph part = with;
      const std::vector<const Device*> devices = context > 0
                                                     ? std::vector<const Device*>{&device, &cpu}
                                                     : std::vector<const Device*>{&device};
      const Placement placement = place(part, compile.spec, devices);
      std::vector<Buffer> memory;
      for (const Value& value : part.values()) memory.emplace_back(value, kRows);
      memory[0].write(std::vector<double>(kRows, 1));
      for (std::size_t i = 0; i < given.size(); ++i)
        memory[i + 1].write(std::vector<double>(given[i].begin(), given[i].end()));
      const Blocks blocks({.layers = 1, .heads = kHeads, .kv_heads = kKvHeads, .head_dim = kDim},
                          kRows, cache);
      const SequenceSlice slice = blocks.slice(0, kRows, 0);
      for (const Segment& segment : placement.segments) {
        const Extracted piece = extract(part, segment.nodes);
        const auto program = devices[segment.device]->compile(piece.graph, compile);
        Aligned<std::byte> scratch(program->needs().scratch_bytes, kPoison);
        std::vector<std::byte*> inputs, outputs;
        for (const ValueId id : piece.inputs)
          inputs.push_back(memory[static_cast<std::size_t>(id)].data());
        for (const ValueId id : piece.outputs)
          outputs.push_back(memory[static_cast<std::size_t>(id)].data());
        const std::int64_t rows[] = {kRows};
        program->run({pool, rows, {&slice, 1}, inputs, outputs, scratch.data()});
      }
      return memory[static_cast<std::size_t>(part.outputs()[0])].read(kRows);
    };
    const auto exact = compute(cpu, 0, DType::kF32), on_npu = compute(npu, 64, DType::kI8);
    ASSERT_EQ(exact.size(), on_npu.size());
    double error = 0, size = 0;
    for (std::size_t i = 0; i < exact.size(); ++i) {
      error += (exact[i] - on_npu[i]) * (exact[i] - on_npu[i]);
      size += exact[i] * exact[i];
    }
    // Keys and values of up to four deviations have 32 steps for one: an error of a hundredth of one.
    EXPECT_LT(std::sqrt(error / size), 0.03) << turns;
    EXPECT_GT(std::sqrt(error / size), 1e-4);
  }
}

TEST(IntAttention, IsOfferedForAContextAndWithScales) {
  const NpuHostDevice npu(reference());
  const auto refusal = [&](const Graph& graph, std::int64_t context, const std::string& name) {
    for (const Refusal& each : npu.offer(graph, {Phase::kPrefill, 16, context}).refusals)
      if (graph.node(each.node).name == name) return each.reason;
    return std::string("claimed");
  };
  const Graph graph = scaled(), without = small_graph(SmallWeights::kInt8);
  for (const char* name : {"layers.1.attention", "layers.1.q_rotary", "layers.1.k_rotary"})
    EXPECT_EQ(refusal(graph, 128, name), "claimed");
  EXPECT_EQ(refusal(graph, 128, "angles"), "depends on the position; float32 on the CPU");
  EXPECT_EQ(refusal(graph, 0, "layers.0.attention"), "reads a cache whose length changes");
  EXPECT_EQ(refusal(graph, 0, "layers.0.q_rotary"), "depends on the position; float32 on the CPU");
  EXPECT_EQ(refusal(without, 128, "layers.0.attention"), "has no scales; float32 on the CPU");
  EXPECT_EQ(refusal(graph, 65537, "layers.0.attention"),
            "the context is too long; float32 on the CPU");
  EXPECT_EQ(refusal(with_scales(without, 9, 9, 9, 0, 30), 128, "layers.0.attention"),
            "caps scores; float32 on the CPU");
  // One claim from the inputs of q, k and v to the output projection, and the MLP.
  const Offer offer = npu.offer(graph, {Phase::kPrefill, 16, 128});
  ASSERT_EQ(offer.claims.size(), 4U);
  const auto& nodes = offer.claims[0].nodes;
  const auto at = std::ranges::find_if(
      nodes, [&](NodeId id) { return graph.node(id).name == "layers.0.attention"; });
  ASSERT_NE(at, nodes.end());
  EXPECT_EQ(offer.claims[0].reasons[static_cast<std::size_t>(at - nodes.begin())],
            "context of 128, int8 cache");
}

}  // namespace
}  // namespace tandem::testing
