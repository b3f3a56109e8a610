// A package in hybrid and in CPU mode: integer sums to the bit, chunks that no one sees, and what
// quantization costs.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "devices/small_graph.h"
#include "package/package.h"
#include "runtime/demo_package.h"
#include "runtime/evaluate.h"

namespace tandem {
namespace {

using testing::all_logits;
using testing::demo_ids;
using testing::demo_package;
using testing::open_demo;

TEST(HybridModel, SumsThePackagesWeightsExactlyWithEveryTable) {
  const auto model = open_demo(Mode::kHybrid);
  testing::Random random(1);
  constexpr std::int64_t kRows = 9;
  int linears = 0;
  for (const Node& node : model->graph(Phase::kPrefill).nodes()) {
    if (node.op != Op::kLinear || node.layer < 0) continue;
    const auto& weight = std::get<Int8Channels>(node.as<LinearAttributes>().weight);
    const testing::Packed packed(weight);
    // Activations as calibration saw them: the largest at a code near 127, a few beyond.
    const auto x = testing::normal_floats(random, kRows * weight.k, 45 * weight.input_scale);
    const std::int64_t stride = padded_k(weight.k);
    std::vector<std::int32_t> expected;
    std::vector<std::byte> expected_codes;
    for (const Kernels* kernels : available_kernels(detect_cpu_features())) {
      testing::Aligned<std::int8_t> codes(kRows * stride, 99);
      std::vector<std::int32_t> code_sums(kRows);
      for (std::int64_t r = 0; r < kRows; ++r)
        kernels->quantize_static(x.data() + r * weight.k, weight.k, weight.input_scale,
                                 codes.data() + r * stride, code_sums.data() + r);
      std::vector<std::int32_t> sums(static_cast<std::size_t>(kRows * weight.n));
      kernels->linear_int8_sums(packed.layout, packed.panels.data(), packed.all(),
                                {codes.data(), stride, code_sums.data(), weight.input_scale}, kRows,
                                sums.data(), weight.n);
      const auto* bytes = reinterpret_cast<const std::byte*>(codes.data());
      if (expected.empty()) {  // the reference comes first
        ASSERT_EQ(kernels->name, "ref");
        expected = sums;
        expected_codes.assign(bytes, bytes + kRows * stride);
      }
      EXPECT_EQ(std::memcmp(bytes, expected_codes.data(), expected_codes.size()), 0)
          << kernels->name << ' ' << node.name;
      ASSERT_EQ(sums, expected) << kernels->name << ' ' << node.name;
    }
    ++linears;
  }
  EXPECT_EQ(linears, 6 * 7);
}

TEST(HybridModel, GivesTheSameBitsInOneChunkInManyAndWithAPaddedTail) {
  const auto whole = open_demo(Mode::kHybrid, {.chunk = 512});
  const auto ids = demo_ids(*whole, "eval_stories.txt", 300);
  const std::vector<float> want = all_logits(*whole, ids);
  const auto vocabulary = static_cast<std::size_t>(whole->info().vocabulary);
  for (const std::int64_t chunk : {16, 32, 128}) {
    const auto model = open_demo(Mode::kHybrid, {.chunk = chunk});
    EXPECT_EQ(model->executor(Phase::kPrefill).max_rows(), chunk);
    EXPECT_TRUE(all_logits(*model, ids) == want) << chunk;
    for (const std::size_t length : {1, 15, 16, 17, 100, 127, 128, 129, 299}) {
      KvSequence sequence = model->new_sequence();
      const auto last = model->prefill(sequence, std::span(ids).first(length));
      EXPECT_EQ(sequence.length(), static_cast<std::int64_t>(length));
      EXPECT_EQ(
          std::memcmp(last.data(), want.data() + (length - 1) * vocabulary, last.size_bytes()), 0)
          << "chunk " << chunk << " length " << length;
    }
    // A prompt in two parts, the second beginning inside a block of the cache.
    KvSequence sequence = model->new_sequence();
    model->prefill(sequence, std::span(ids).first(77));
    const auto last = model->prefill(sequence, std::span(ids).subspan(77));
    EXPECT_EQ(std::memcmp(last.data(), want.data() + 299 * vocabulary, last.size_bytes()), 0);
  }
}

// Every value in memory of its own, all of it NaN before each run: what lies in padding rows, and
// that the executor hands memory on, changes nothing.
TEST(HybridModel, LooksAtNoPaddingRow) {
  const auto model = open_demo(Mode::kHybrid, {.chunk = 32});
  const auto ids = demo_ids(*model, "eval_stories.txt", 75);
  const std::vector<float> want = all_logits(*model, ids);
  NoPackedCache cache;
  const NpuHostDevice npu(model->kernels(), 32);
  const CpuDevice cpu(model->kernels());
  const std::vector<const Device*> devices = {&npu, &cpu};
  testing::PlainExecutor plain(model->graph(Phase::kPrefill), Phase::kPrefill, devices,
                               {model->pool(), cache, 40, 40});
  KvSequence sequence = model->new_sequence();
  std::vector<float> got;
  for (std::size_t first = 0; first < ids.size(); first += 32) {
    const auto part = std::span(ids).subspan(first, std::min<std::size_t>(32, ids.size() - first));
    const auto rows = static_cast<std::int64_t>(part.size());
    sequence.reserve(rows);
    const SequenceSlice slice{0, rows, sequence.length(), sequence.blocks(), sequence.dtype()};
    std::vector<std::int32_t> selected;
    for (std::int64_t r = 0; r < rows; ++r) selected.push_back(static_cast<std::int32_t>(r));
    const auto logits = plain.run(model->pool(), part, {&slice, 1}, selected);
    got.insert(got.end(), logits.begin(), logits.end());
    sequence.advance(part);
  }
  EXPECT_TRUE(got == want);
}

TEST(HybridModel, DoesNotDependOnThreads) {
  const auto one = open_demo(Mode::kHybrid, {.threads = 1});
  const auto three = open_demo(Mode::kHybrid, {.threads = 3});
  const auto ids = demo_ids(*one, "eval_stories.txt", 140);
  KvSequence a = one->new_sequence();
  KvSequence b = three->new_sequence();
  EXPECT_EQ(testing::copy(one->prefill(a, ids)), testing::copy(three->prefill(b, ids)));
  for (const TokenId id : {5, 700, 41})
    EXPECT_EQ(testing::copy(one->decode(a, id)), testing::copy(three->decode(b, id)));
}

// Tables differ in how norms and attention round, and a code may fall to the other side of a half.
TEST(HybridModel, AgreesAcrossTables) {
  const auto expected = open_demo(Mode::kHybrid, {.kernels = "ref"});
  const auto ids = demo_ids(*expected, "eval_stories.txt", 32);
  for (const Kernels* kernels : available_kernels(detect_cpu_features())) {
    const auto model = open_demo(Mode::kHybrid, {.kernels = std::string(kernels->name)});
    const TextScore score = score_text(*model, expected.get(), ids, 32);
    EXPECT_LT(score.kl, 1e-3) << kernels->name;
  }
}

TEST(HybridModel, ReadsOneTokenAsManyInCpuMode) {
  const auto model = open_demo(Mode::kCpu);
  const auto ids = demo_ids(*model, "eval_stories.txt", 130);
  const std::vector<float> whole = all_logits(*model, ids);
  const auto vocabulary = static_cast<std::size_t>(model->info().vocabulary);
  KvSequence sequence = model->new_sequence();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto one = model->decode(sequence, ids[i]);
    ASSERT_EQ(std::memcmp(one.data(), whole.data() + i * vocabulary, one.size_bytes()), 0) << i;
  }
}

TEST(HybridModel, PlacesPromptsOnTheNpuAndAnswersOnTheCpu) {
  const auto model = open_demo(Mode::kHybrid);
  EXPECT_EQ(model->mode(), Mode::kHybrid);
  const Placement& prefill = model->executor(Phase::kPrefill).placement();
  EXPECT_EQ(prefill.devices, (std::vector<std::string>{"npu", "cpu"}));
  EXPECT_EQ(std::ranges::count(prefill.segments, 0U, &Segment::device), 6 * 3);
  const Placement& decode = model->executor(Phase::kDecode).placement();
  EXPECT_EQ(decode.devices, std::vector<std::string>{"cpu"});
  // Int8 panels: a byte per parameter of the blocks, and the head in int4.
  EXPECT_GT(model->executor(Phase::kPrefill).weight_bytes(), model->block_parameters());
  EXPECT_LT(model->executor(Phase::kDecode).weight_bytes(),
            model->executor(Phase::kPrefill).weight_bytes());
  EXPECT_EQ(model->block_parameters(),
            6 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 768));  // q o, k v, gate up down
}

// Measured: hybrid loses 0.6 % and cpu 0.2 %, with a KL divergence of 0.013 and 0.005.
TEST(HybridModel, LosesLittle) {
  const auto reference = open_demo(Mode::kFloat);
  const auto ids = demo_ids(*reference, "eval_stories.txt", 24 * 512);
  const auto some = std::span(ids).first(6 * 512);
  const double expected = score_text(*reference, nullptr, ids, 512).perplexity;
  const double expected_handover = score_handover(*reference, some, 512).perplexity;
  for (const Mode mode : {Mode::kHybrid, Mode::kCpu}) {
    const auto model = open_demo(mode);
    const TextScore score = score_text(*model, reference.get(), ids, 512);
    const TextScore handover = score_handover(*model, some, 512);
    EXPECT_EQ(score.windows, 24);
    EXPECT_EQ(score.tokens, 24 * 511);
    EXPECT_EQ(handover.tokens, 6 * 256);
    EXPECT_LT(score.perplexity, 1.015 * expected) << to_string(mode);
    EXPECT_LT(handover.perplexity, 1.015 * expected_handover) << to_string(mode);
    EXPECT_GT(score.kl, 0) << to_string(mode);
    EXPECT_LT(score.kl, mode == Mode::kHybrid ? 0.02 : 0.01) << to_string(mode);
  }
}

TEST(HybridModel, StillAnswersQuestions) {
  const auto questions = read_questions(testing::demo_dir() / "eval_questions.json");
  const Json reference = read_json_file(testing::demo_dir() / "reference.json");
  const double least = 200 * (reference["questions_right"].get<double>() - 0.03);
  for (const Mode mode : {Mode::kHybrid, Mode::kCpu}) {
    const QuestionScore score = ask_questions(*open_demo(mode), questions);
    EXPECT_EQ(score.total, 200);
    EXPECT_GE(static_cast<double>(score.right), least) << to_string(mode);
  }
}

}  // namespace
}  // namespace tandem
