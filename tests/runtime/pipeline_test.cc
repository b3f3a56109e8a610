// Prompts read with chunks in flight: the logits and the cache of one chunk after the other, alone
// and in batches, and nothing of a prompt that can't be read whole.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "runtime/demo_package.h"

namespace tandem::testing {
namespace {

constexpr std::array kPolicies = {SchedulePolicy::kFifo, SchedulePolicy::kLlmNpu,
                                  SchedulePolicy::kLookahead};

TEST(PipelinedPrompts, HaveTheBitsOfOneChunkAfterTheOther) {
  const auto in_turn = open_demo(Mode::kHybrid, {.chunk = 16});
  const std::vector<TokenId> ids = demo_ids(*in_turn, "eval_stories.txt", 16 * 7 + 5);
  for (const SchedulePolicy policy : kPolicies) {
    const auto model = open_demo(Mode::kHybrid, {.threads = 2, .chunk = 16, .pipeline = policy});
    for (const std::size_t length : {9, 15, 16, 17, 32, 33, 64, 80, 117}) {
      const auto prompt = std::span(ids).first(length);
      EXPECT_EQ(all_logits(*model, prompt), all_logits(*in_turn, prompt))
          << to_string(policy) << ", " << length << " tokens";
      // And what follows them.
      KvSequence a = model->engine.new_sequence(), b = in_turn->engine.new_sequence();
      for (KvSequence* each : {&a, &b}) {
        Engine& engine = each == &a ? model->engine : in_turn->engine;
        engine.prefill(*each, prompt);
        EXPECT_EQ(each->length(), static_cast<std::int64_t>(length));
      }
      EXPECT_EQ(copy(model->engine.decode(a, 5)), copy(in_turn->engine.decode(b, 5)));
    }
  }
}

TEST(PipelinedPrompts, ShareChunksInBatches) {
  const auto in_turn = open_demo(Mode::kHybrid, {.chunk = 16});
  const std::vector<TokenId> ids = demo_ids(*in_turn, "eval_stories.txt", 100);
  const std::span<const TokenId> all(ids);
  const std::array<std::span<const TokenId>, 4> prompts = {all.first(21), all.subspan(3, 70),
                                                           all.subspan(50, 9), all.subspan(10, 33)};
  for (const SchedulePolicy policy : kPolicies) {
    const auto model = open_demo(Mode::kHybrid, {.threads = 2, .chunk = 16, .pipeline = policy});
    std::vector<std::vector<float>> logits;
    for (LocalModel* each : {model.get(), in_turn.get()}) {
      std::vector<KvSequence> sequences;
      std::vector<KvSequence*> pointers;
      for (std::size_t i = 0; i < prompts.size(); ++i)
        sequences.push_back(each->engine.new_sequence());
      for (KvSequence& sequence : sequences) pointers.push_back(&sequence);
      logits.push_back(copy(each->engine.prefill_batch(pointers, prompts)));
    }
    EXPECT_EQ(logits[0], logits[1]) << to_string(policy);
  }
}

TEST(PipelinedPrompts, LeaveASequenceAsItWasIfTheyFail) {
  const auto model =
      open_demo(Mode::kHybrid, {.threads = 2, .chunk = 16, .pipeline = SchedulePolicy::kFifo});
  const std::vector<TokenId> ids = demo_ids(*model, "eval_stories.txt", 100);
  KvSequence sequence = model->engine.new_sequence();
  model->engine.prefill(sequence, std::span(ids).first(20));
  int chunks = 0;
  EXPECT_EQ(error_of([&] {
              model->engine.prefill_all(sequence, std::span(ids).subspan(20),
                                        [&](std::int64_t, std::span<const float>) {
                                          if (++chunks == 3)
                                            fail(ErrorCode::kInternal, "[test] enough");
                                        });
            }),
            "[test] enough");
  EXPECT_EQ(sequence.length(), 20);
  KvSequence fresh = model->engine.new_sequence();
  model->engine.prefill(fresh, std::span(ids).first(20));
  EXPECT_EQ(copy(model->engine.prefill(sequence, std::span(ids).subspan(20))),
            copy(model->engine.prefill(fresh, std::span(ids).subspan(20))));
}

// One device has nothing to work beside.
TEST(PipelinedPrompts, MeanNothingToOneDevice) {
  const auto model = open_demo(Mode::kCpu, {.chunk = 16, .pipeline = SchedulePolicy::kLookahead});
  const auto plain = open_demo(Mode::kCpu, {.chunk = 16});
  const std::vector<TokenId> ids = demo_ids(*model, "eval_stories.txt", 40);
  EXPECT_EQ(all_logits(*model, ids), all_logits(*plain, ids));
}

// Every segment of every chunk, in numbers that follow each other, whichever ran when.
TEST(PipelinedPrompts, AreTracedChunkByChunk) {
  TraceRecorder recorder;
  const auto model = open_demo(
      Mode::kHybrid,
      {.threads = 2, .chunk = 16, .trace = &recorder, .pipeline = SchedulePolicy::kLlmNpu});
  const std::vector<TokenId> ids = demo_ids(*model, "eval_stories.txt", 16 * 6);
  const std::size_t before = recorder.trace().events.size();
  KvSequence sequence = model->engine.new_sequence();
  model->engine.prefill(sequence, ids);
  const Trace trace = recorder.trace();
  const std::size_t segments = model->engine.placement(Phase::kPrefill).segments.size();
  ASSERT_EQ(trace.events.size() - before, 6 * segments);
  std::vector<std::size_t> counts(6);
  for (std::size_t i = before; i < trace.events.size(); ++i)
    ++counts[static_cast<std::size_t>(trace.events[i].chunk - trace.events[before].chunk)];
  EXPECT_EQ(counts, std::vector<std::size_t>(6, segments));
}

}  // namespace
}  // namespace tandem::testing
