// Keys that move to other positions: those of the first layer, which know nothing but their token
// and their position, must be those that a model computes there.
#include "execute/key_turner.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "execute/run_graph.h"
#include "support.h"
#include "tensor/half.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::random_ids;
using testing::read_all;
using testing::small_graph;
using testing::SmallSizes;
using testing::SmallWeights;

constexpr std::int64_t kLength = 200;

// The small decoder, which reads up to kLength tokens at once.
class Decoder {
 public:
  Decoder(const SmallSizes& sizes, DType dtype)
      : sizes_(sizes),
        graph_(small_graph(SmallWeights::kFloat, sizes)),
        executor_(graph_, {Phase::kPrefill, kLength}, devices_, cache_, {&kLength, 1}),
        arena_(executor_.make_arena()),
        pool_(
            std::make_shared<KvPool>(KvShape{sizes.layers, sizes.kv_heads, sizes.head_dim, dtype})),
        turner_(graph_, kernels_, dtype) {}

  KvSequence sequence() const { return KvSequence(pool_); }
  void read(KvSequence& sequence, std::span<const std::int32_t> ids) {
    read_all(executor_, arena_, sequence, ids);
  }
  void evict(KvSequence& sequence) { turner_.evict(sequence, threads_); }
  std::int64_t blocks() const { return pool_->blocks_in_use(); }

  // One token's keys, or values, of a layer: [kv_heads * head_dim].
  std::vector<float> row(const KvSequence& sequence, std::int64_t layer, std::int64_t position,
                         bool values) const {
    const KvView view = sequence.view();
    const std::byte* block = view.blocks[static_cast<std::size_t>(position / 64)];
    const std::int64_t slot = position % 64, elements = sizes_.kv_heads * sizes_.head_dim * 64;
    std::vector<float> row;
    for (std::int64_t h = 0; h < sizes_.kv_heads; ++h)
      for (std::int64_t d = 0; d < sizes_.head_dim; ++d) {
        const std::int64_t at = values ? elements + (h * 64 + slot) * sizes_.head_dim + d
                                       : (h * sizes_.head_dim + d) * 64 + slot;
        const std::byte* element =
            block + layer * view.layer_bytes + at * static_cast<std::int64_t>(size_of(view.dtype));
        float value = 0;
        std::uint16_t half = 0;
        if (view.dtype == DType::kF32) {
          std::memcpy(&value, element, sizeof value);
        } else {
          std::memcpy(&half, element, sizeof half);
          value = f16_to_float(half);
        }
        row.push_back(value);
      }
    return row;
  }

 private:
  SmallSizes sizes_;
  const Kernels& kernels_ = select_kernels(detect_cpu_features());
  ThreadPool threads_{2};
  NoPanelCache cache_;
  CpuDevice cpu_{kernels_};
  std::vector<DeviceThreads> devices_ = {{&cpu_, &threads_}};
  Graph graph_;
  Executor executor_;
  Arena arena_;
  std::shared_ptr<KvPool> pool_;
  KeyTurner turner_;
};

std::vector<std::int32_t> without(std::vector<std::int32_t> ids, std::int64_t first,
                                  std::int64_t count) {
  ids.erase(ids.begin() + first, ids.begin() + first + count);
  return ids;
}

float largest(const std::vector<float>& row) {
  float most = 0;
  for (const float value : row) most = std::max(most, std::fabs(value));
  return most;
}

TEST(KeyTurner, MovesTheFirstLayersKeysToWhereTheyWouldHaveBeenComputed) {
  for (const SmallSizes& sizes :
       {SmallSizes{}, SmallSizes{.hadamard = 8}, SmallSizes{.rotates = false},
        SmallSizes{.rotates = false, .hadamard = 4}})
    for (const DType dtype : {DType::kF32, DType::kF16}) {
      Decoder decoder(sizes, dtype);
      const auto ids = random_ids(kLength, 70);
      for (const auto& [sinks, count] :
           {std::pair<std::int64_t, std::int64_t>{4, 64}, {0, 1}, {5, 63}, {64, 100}, {70, 129}}) {
        KvSequence sequence = decoder.sequence();
        sequence.set_eviction({kLength, sinks, count});
        decoder.read(sequence, ids);
        EXPECT_EQ(sequence.room(), 0);
        decoder.evict(sequence);
        EXPECT_EQ(sequence.room(), count);
        EXPECT_EQ(sequence.length(), kLength - count);
        EXPECT_EQ(sequence.evicted(), count);
        EXPECT_EQ(sequence.given(), kLength);
        const auto kept = without(ids, sinks, count);
        EXPECT_TRUE(std::ranges::equal(sequence.ids(), kept));
        EXPECT_EQ(decoder.blocks(), (kLength - count + 63) / 64);

        KvSequence anew = decoder.sequence();
        decoder.read(anew, kept);
        for (std::int64_t p = 0; p < kLength - count; ++p) {
          EXPECT_EQ(decoder.row(sequence, 0, p, true), decoder.row(anew, 0, p, true)) << p;
          const auto got = decoder.row(sequence, 0, p, false);
          const auto want = decoder.row(anew, 0, p, false);
          // Both were rounded to 11 bits, the turned one twice.
          const float allowed = largest(want) * (dtype == DType::kF32 ? 0x1p-19F
                                                 : p < sinks          ? 0.0F
                                                                      : 0x1p-9F);
          for (std::size_t i = 0; i < got.size(); ++i)
            ASSERT_NEAR(got[i], want[i], allowed) << p << ' ' << i << ' ' << count;
        }
      }
    }
}

// Of the layers behind, which know more than their token, by the formula in double precision.
TEST(KeyTurner, TurnsTheKeysOfEveryLayerByTheSameAngles) {
  const SmallSizes sizes;
  Decoder decoder(sizes, DType::kF32);
  constexpr std::int64_t kSinks = 3, kCount = 90;
  KvSequence sequence = decoder.sequence();
  sequence.set_eviction({kLength, kSinks, kCount});
  decoder.read(sequence, random_ids(kLength, 70));
  const KvSequence before = sequence.fork(kLength);
  decoder.evict(sequence);
  EXPECT_EQ(before.evicted(), 0);
  const std::int64_t half = sizes.head_dim / 2;
  for (std::int64_t p = 0; p < kLength - kCount; ++p) {
    const std::int64_t from = p < kSinks ? p : p + kCount;
    EXPECT_EQ(decoder.row(sequence, 1, p, true), decoder.row(before, 1, from, true));
    const auto got = decoder.row(sequence, 1, p, false);
    const auto old = decoder.row(before, 1, from, false);
    for (std::int64_t h = 0; h < sizes.kv_heads; ++h)
      for (std::int64_t i = 0; i < half; ++i) {
        // The inverse frequencies of the small decoder.
        const double angle = static_cast<double>(p - from) / static_cast<double>(1 + i);
        const auto x = static_cast<std::size_t>(h * sizes.head_dim + i);
        const auto y = x + static_cast<std::size_t>(half);
        const double cosine = std::cos(angle), sine = std::sin(angle);
        EXPECT_NEAR(got[x], old[x] * cosine - old[y] * sine, 1e-4 * largest(old));
        EXPECT_NEAR(got[y], old[y] * cosine + old[x] * sine, 1e-4 * largest(old));
      }
  }
}

// Blocks that others share are not written to, and what they hold in front stays shared.
TEST(KeyTurner, LeavesSharedBlocksAlone) {
  Decoder decoder({}, DType::kF16);
  KvSequence sequence = decoder.sequence();
  sequence.set_eviction({kLength, 70, 64});
  decoder.read(sequence, random_ids(kLength, 70));
  const KvSequence copy = sequence.fork(kLength);
  std::vector<std::vector<float>> before;
  for (std::int64_t p = 0; p < kLength; ++p) before.push_back(decoder.row(copy, 1, p, false));
  decoder.evict(sequence);
  for (std::int64_t p = 0; p < kLength; ++p)
    EXPECT_EQ(decoder.row(copy, 1, p, false), before[static_cast<std::size_t>(p)]);
  EXPECT_EQ(sequence.view().blocks[0], copy.view().blocks[0]);
  EXPECT_NE(sequence.view().blocks[1], copy.view().blocks[1]);
  EXPECT_EQ(decoder.blocks(), 4 + 2);
}

// A decoder of one layer whose keys are the embeddings, half of each head rotated.
struct OneLayer {
  Graph graph;
  ValueId x = -1, keys = -1;
};
OneLayer one_layer() {
  OneLayer layer;
  Graph& graph = layer.graph;
  const ValueId ids = graph.add_input({.name = "ids", .dtype = DType::kI32, .width = 1});
  const Tensor table = Tensor::from_floats(std::vector<float>(64, 0.5F), {4, 16});
  layer.x = graph.add(Op::kEmbedding, "embed", -1, {ids}, EmbeddingAttributes{table});
  const ValueId angles = graph.add(Op::kRotaryAngles, "angles", -1, {ids},
                                   RotaryAnglesAttributes{.inverse_frequencies = {1, 0.5F}});
  layer.keys = graph.add(Op::kRotaryEmbedding, "turned", 0, {layer.x, angles},
                         RotaryAttributes{.heads = 2, .head_dim = 8});
  return layer;
}

const AttentionAttributes kAttention{.heads = 2, .kv_heads = 2, .head_dim = 8, .scale = 0.1F};

// To the nearest code, by the formula in double precision.
TEST(KeyTurner, TurnsCodesWithAScaleForEachChannel) {
  OneLayer layer = one_layer();
  AttentionAttributes attributes = kAttention;
  std::vector<float> scales;
  for (int c = 0; c < 16; ++c) scales.push_back(0.01F * static_cast<float>(1 + c % 5));
  attributes.k_scales = attributes.v_scales = Tensor::from_floats(scales, {16});
  layer.graph.add(Op::kGroupQueryAttention, "attention", 0, {layer.x, layer.keys, layer.x},
                  attributes);
  const KeyTurner turner(layer.graph, select_kernels(detect_cpu_features()), DType::kI8);
  KvSequence sequence(std::make_shared<KvPool>(KvShape{1, 2, 8, DType::kI8}));
  constexpr std::int64_t kSinks = 3, kCount = 40, kHeld = 100;
  sequence.set_eviction({kHeld, kSinks, kCount});
  sequence.reserve(kHeld);
  const auto noise = random_ids(2 * 2048, 255);
  for (std::size_t i = 0; i < noise.size(); ++i)
    sequence.view().blocks[i / 2048][i % 2048] = static_cast<std::byte>(noise[i] - 127);
  sequence.advance(random_ids(kHeld, 4));
  const KvSequence before = sequence.fork(kHeld);
  ThreadPool pool(2);
  turner.evict(sequence, pool);
  const auto code = [](const KvSequence& of, std::int64_t position, std::int64_t at) {
    return static_cast<int>(
        static_cast<std::int8_t>(of.view().blocks[static_cast<std::size_t>(position / 64)][at]));
  };
  for (std::int64_t p = 0; p < kHeld - kCount; ++p) {
    const std::int64_t from = p < kSinks ? p : p + kCount;
    for (std::int64_t c = 0; c < 16; ++c) {
      const auto value = [&](std::int64_t channel) {
        return static_cast<double>(scales[static_cast<std::size_t>(channel)]) *
               code(before, from, channel * 64 + from % 64);
      };
      // Pairs (0, 2) and (1, 3) of each head.
      const std::int64_t d = c % 8;
      double want = value(c);
      if (d < 4) {
        const double angle = static_cast<double>(p - from) * (d % 2 == 0 ? 1 : 0.5);
        want = d < 2 ? value(c) * std::cos(angle) - value(c + 2) * std::sin(angle)
                     : value(c) * std::cos(angle) + value(c - 2) * std::sin(angle);
      }
      const double scale = scales[static_cast<std::size_t>(c)];
      const double exact = std::clamp(want / scale, -127.0, 127.0);
      EXPECT_NEAR(code(sequence, p, c * 64 + p % 64), exact, 0.501) << p << ' ' << c;
      const std::int64_t head = 1024 + c / 8 * 512;
      EXPECT_EQ(code(sequence, p, head + p % 64 * 8 + d),
                code(before, from, head + from % 64 * 8 + d));
    }
  }
}

TEST(KeyTurner, RefusesKeysThatComeFromAnythingElse) {
  OneLayer layer = one_layer();
  const auto refusal = [&](ValueId keys, DType dtype = DType::kF16) {
    Graph decoder = layer.graph;
    decoder.add(Op::kGroupQueryAttention, "attention", 0, {layer.x, keys, layer.x}, kAttention);
    return error_of([&] { KeyTurner(decoder, select_kernels(detect_cpu_features()), dtype); });
  };
  const ValueId sum = layer.graph.add(Op::kAdd, "sum", 0, {layer.keys, layer.x});
  EXPECT_EQ(refusal(sum),
            "[eviction] attention: its keys come from Add sum, so they cannot be turned to other "
            "positions: expected a rotary embedding, or a Hadamard transform of parts of heads "
            "behind one");
  // A transform that mixes heads.
  const ValueId mixed =
      layer.graph.add(Op::kHadamard, "mixed", 0, {layer.keys}, HadamardAttributes{16});
  EXPECT_NE(refusal(mixed).find("come from Hadamard mixed"), std::string::npos);
  EXPECT_EQ(refusal(layer.keys, DType::kI8), "[eviction] attention: has no scales for keys in I8");
  EXPECT_EQ(refusal(layer.keys, DType::kBF16),
            "[eviction] keys in BF16 cannot be turned: expected a cache in F16, F32 or I8");
}

TEST(Eviction, CountsWhatIsDroppedByLength) {
  const Eviction eviction{.context = 10, .sinks = 2, .count = 3};
  for (const auto& [length, dropped] :
       {std::pair{0, 0}, {9, 0}, {10, 0}, {11, 3}, {13, 3}, {14, 6}, {16, 6}, {17, 9}})
    EXPECT_EQ(eviction.dropped(length), dropped) << length;
}

TEST(KvSequence, CountsWhatItDropped) {
  const auto pool = std::make_shared<KvPool>(KvShape{1, 1, 8});
  KvSequence sequence(pool);
  EXPECT_EQ(sequence.room(), std::numeric_limits<std::int64_t>::max());
  sequence.set_eviction({.context = 100, .sinks = 4, .count = 20});
  EXPECT_EQ(sequence.room(), 100);
  sequence.reserve(100);
  sequence.advance(random_ids(100, 70));
  const std::vector<std::int32_t> ids(sequence.ids().begin(), sequence.ids().end());
  sequence.own_from(4);
  sequence.drop(4, 20);
  EXPECT_TRUE(std::ranges::equal(sequence.ids(), without(ids, 4, 20)));
  EXPECT_EQ(sequence.given(), 100);
  KvSequence fork = sequence.fork(50);
  EXPECT_EQ(fork.evicted(), 20);
  EXPECT_EQ(fork.room(), 50);
  // With nothing left behind them, nothing is missing behind the first ones.
  EXPECT_EQ(sequence.fork(4).evicted(), 0);
  fork.rewind(5);
  EXPECT_EQ(fork.evicted(), 20);
  fork.rewind(4);
  EXPECT_EQ(fork.evicted(), 0);
  fork.skip(30);
  EXPECT_EQ(fork.given(), 34);
  KvSequence moved = std::move(fork);
  EXPECT_EQ(moved.evicted(), 30);
  EXPECT_EQ(moved.eviction()->count, 20);
  moved.clear();
  EXPECT_EQ(moved.evicted(), 0);
}

}  // namespace
}  // namespace tandem
