// Checkpoints with random weights: progress reported to an observer, and cancellation.
#include "models/synth.h"

#include <gtest/gtest.h>

#include "checkpoint/safetensors.h"
#include "support.h"

namespace tandem {
namespace {

class Counter : public Observer {
 public:
  void begin(std::string_view task, std::int64_t total, std::string_view) override {
    EXPECT_EQ(task, "synth");
    left = total;
  }
  void advance(std::int64_t count) override { left -= count; }
  void end() override { ended = true; }
  bool cancelled() const override { return left == stop_at; }

  std::int64_t left = 0;
  std::int64_t stop_at = -1;
  bool ended = false;
};

TEST(Synth, TellsItsObserverOfEveryTensor) {
  const testing::ScratchFolder folder;
  ThreadPool pool(2);
  Counter counter;
  EXPECT_GT(write_synth_checkpoint("demo", folder / "out", 1, pool, counter), 1'000'000);
  EXPECT_EQ(counter.left, 0);
  EXPECT_TRUE(counter.ended);
  EXPECT_EQ(SafetensorsFile::open(folder / "out/model.safetensors").tensors.size(), 74u);
}

TEST(Synth, LeavesTheFolderAsItWasWhenItIsCancelled) {
  const testing::ScratchFolder folder;
  fs::create_directory(folder / "out");
  write_text_file(folder / "out/kept", "x");
  ThreadPool pool(2);
  Counter counter;
  counter.stop_at = 70;
  EXPECT_EQ(
      testing::error_of([&] { write_synth_checkpoint("demo", folder / "out", 1, pool, counter); }),
      "[synth] interrupted");
  EXPECT_TRUE(counter.ended);
  EXPECT_EQ(read_text_file(folder / "out/kept"), "x");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace tandem
