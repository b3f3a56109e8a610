// Engines in threads of their own, of one model and of several: the texts of one after the other.
#include <gtest/gtest.h>

#include <thread>

#include "runtime/chat.h"
#include "runtime/demo_package.h"

namespace tandem {
namespace {

using testing::demo_dir;
using testing::demo_package;
using testing::open_demo;

using Tokens = std::vector<TokenId>;

// An answer to a prompt that takes several runs, and one after a turn and a rewind.
Tokens texts(Engine& engine, std::span<const TokenId> prompt) {
  Generator generator(engine, {});
  generator.append(prompt);
  for (int i = 0; i < 6 && !generator.done(); ++i) generator.next();
  generator.rewind(static_cast<std::int64_t>(prompt.size()) - 3);
  generator.append(Tokens{633, 463});
  for (int i = 0; i < 6 && !generator.done(); ++i) generator.next();
  return {generator.sequence().begin(), generator.sequence().end()};
}

// What each function gives, all at once in threads of their own.
std::vector<Tokens> at_once(const std::vector<std::function<Tokens()>>& functions) {
  std::vector<Tokens> results(functions.size());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < functions.size(); ++i)
    threads.emplace_back([&, i] { results[i] = functions[i](); });
  for (std::thread& thread : threads) thread.join();
  return results;
}

class Threads : public ::testing::Test {
 protected:
  // A story of 70 tokens and another.
  std::span<const TokenId> prompt(std::size_t index) {
    if (ids_.empty()) ids_ = testing::demo_ids(*open_demo(Mode::kFloat), "eval_stories.txt", 200);
    return std::span(ids_).subspan(70 * index, 70);
  }

  const EngineOptions options_ = {.threads = 2, .chunk = 32};

 private:
  Tokens ids_;
};

TEST_F(Threads, RunEnginesOfOneModel) {
  ThreadPool pool(2);
  for (const Mode mode : {Mode::kFloat, Mode::kCpu, Mode::kHybrid}) {
    const auto model = LoadedModel::open(mode == Mode::kFloat ? demo_dir() : demo_package(), pool);
    const Plan plan = plan_for(mode);
    std::vector<Tokens> want;
    for (const std::size_t index : {0, 1}) {
      Engine engine(model, plan, options_, silent());
      want.push_back(texts(engine, prompt(index)));
    }
    EXPECT_NE(want[0], want[1]);
    // Engines that are there already, and engines that are made at the same time.
    Engine a(model, plan, options_, silent());
    Engine b(model, plan, options_, silent());
    EXPECT_EQ(at_once({[&] { return texts(a, prompt(0)); }, [&] { return texts(b, prompt(1)); }}),
              want)
        << to_string(mode);
    const auto makes = [&](std::size_t index) {
      return [&, ids = prompt(index)] {
        Engine engine(model, plan, options_, silent());
        return texts(engine, ids);
      };
    };
    EXPECT_EQ(at_once({makes(0), makes(1)}), want) << to_string(mode);
  }
}

TEST_F(Threads, RunSeveralModels) {
  const auto says = [&](Mode mode) {
    return [this, mode] {
      LoadOptions options{.mode = mode, .engine = options_, .cache = fs::path()};
      const auto model =
          LocalModel::open(mode == Mode::kFloat ? demo_dir() : demo_package(), options);
      Chat chat(*model, {});
      Tokens ids = chat.say("What is 10 plus 1?", 20).ids;
      const Tokens more = chat.say("Spell the word cat.", 10).ids;
      ids.insert(ids.end(), more.begin(), more.end());
      return ids;
    };
  };
  demo_package();
  const std::vector<std::function<Tokens()>> functions = {says(Mode::kFloat), says(Mode::kHybrid),
                                                          says(Mode::kHybrid)};
  std::vector<Tokens> want;
  for (const auto& function : functions) want.push_back(function());
  EXPECT_EQ(at_once(functions), want);
}

// Of one folder of packed weights: each finds whole files, or packs anew.
TEST_F(Threads, ShareAFolderOfPackedWeights) {
  const testing::ScratchFolder scratch;
  ThreadPool pool(2);
  const auto model = LoadedModel::open(demo_package(), pool);
  EngineOptions options = options_;
  const auto run = [&] {
    Engine engine(model, plan_for(Mode::kHybrid), options, silent());
    return texts(engine, prompt(0));
  };
  const Tokens want = run();
  options.cache = scratch / "cache";
  for (int time = 0; time < 2; ++time)
    EXPECT_EQ(at_once({run, run}), (std::vector<Tokens>{want, want}));
}

}  // namespace
}  // namespace tandem
