// Calibration texts: plain, and documents and conversations in JSON lines.
#include "quantize/calibration_text.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <span>

#include "checkpoint/checkpoint.h"
#include "models/model.h"
#include "support.h"
#include "text/chat_template.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem::testing {
namespace {

class CalibrationTexts : public ::testing::Test {
 protected:
  std::vector<std::int32_t> ids_of(const std::string& name, const std::string& content,
                                   std::int64_t window = 4) {
    write_text_file(folder_ / name, content);
    const CalibrationText text = read_calibration_text(
        folder_ / name, checkpoint_, info_, {.samples = 100, .window = window}, silent());
    EXPECT_EQ(text.source["file"], name);
    return text.windows.ids;
  }
  std::vector<std::int32_t> encoded(const std::string& text) const {
    return tokenizer_.encode(text);
  }
  // Whole windows.
  static std::vector<std::int32_t> cut(std::vector<std::int32_t> ids, std::size_t window = 4) {
    ids.resize(ids.size() / window * window);
    return ids;
  }
  std::string error(const std::string& name, const std::string& content) {
    return error_of([&] { ids_of(name, content); });
  }

  const ScratchFolder folder_;
  const Checkpoint checkpoint_ = Checkpoint::open(demo_dir());
  const ModelInfo info_ =
      read_model_info(checkpoint_.config_object(), &checkpoint_.generation_config());
  const Tokenizer tokenizer_ = Tokenizer::open(demo_dir());
};

TEST_F(CalibrationTexts, PlainTextIsOneText) {
  const std::string text = "Once upon a time there was a fox.\n{\"text\": \"x\"}\n";
  EXPECT_EQ(ids_of("a.txt", text), cut(encoded(text)));
}

TEST_F(CalibrationTexts, DocumentsAreJoined) {
  const std::string lines = R"({"text": "Once upon a time", "meta": {"text": 1}})"
                            "\r\n\n"
                            R"({"text": "there was a \"fox\""})";
  std::vector<std::int32_t> expected = encoded("Once upon a time");
  const std::vector<std::int32_t> more = encoded("there was a \"fox\"");
  expected.insert(expected.end(), more.begin(), more.end());
  EXPECT_EQ(ids_of("a.jsonl", lines, 2), cut(expected, 2));
}

TEST_F(CalibrationTexts, ConversationsGoThroughTheTemplate) {
  const std::string messages = R"([{"role": "user", "content": "What is <|im_end|>?"},)"
                               R"( {"role": "assistant", "content": "A mark."}])";
  const std::string rendered = ChatTemplate::open(demo_dir())
                                   .render(OrderedJson{{"messages", OrderedJson::parse(messages)},
                                                       {"add_generation_prompt", false}});
  const std::vector<std::int32_t> ids = ids_of("a.jsonl", "{\"messages\": " + messages + "}", 1);
  EXPECT_EQ(tokenizer_.decode(ids), rendered);
  // What a message says is no control token: there are only the template's own, one for each
  // message and the system's.
  EXPECT_EQ(std::ranges::count(ids, tokenizer_.token_to_id("<|im_end|>").value()), 3);
}

// Compressed by the zstd program: printf '{"text": "Once upon a time"}\n{"text": "there was a
// \\"fox\\""}\n' | zstd -o fixtures/lines.jsonl.zst
TEST_F(CalibrationTexts, LinesMayBeCompressed) {
  const fs::path stored = fixture("quantize/fixtures/lines.jsonl.zst");
  const std::string packed = read_text_file(stored);
  std::vector<std::int32_t> expected = encoded("Once upon a time");
  const std::vector<std::int32_t> more = encoded("there was a \"fox\"");
  expected.insert(expected.end(), more.begin(), more.end());
  EXPECT_EQ(ids_of("a.jsonl.zst", packed, 2), cut(expected, 2));
  EXPECT_NE(error("a.jsonl.zst", packed.substr(0, packed.size() - 1)).find("a.jsonl.zst: ends in"),
            std::string::npos);
  EXPECT_NE(error("a.jsonl.zst", "{\"text\": \"a\"}").find("a.jsonl.zst: expected a zstd file"),
            std::string::npos);
}

TEST_F(CalibrationTexts, HoldsBackTheLastWindows) {
  std::string text;
  while (encoded(text).size() < 80) text += "Once upon a time there was a fox. ";
  std::vector<std::int32_t> ids = encoded(text);
  ids.resize(80);
  write_text_file(folder_ / "a.txt", tokenizer_.decode(ids));
  const auto read = [&](std::int64_t samples, std::int64_t window, std::int64_t held_out) {
    return read_calibration_text(folder_ / "a.txt", checkpoint_, info_,
                                 {.samples = samples, .window = window}, silent(), held_out);
  };
  // What is behind the samples, or an eighth of a text that has no more.
  for (const auto& [samples, calibrated, held] :
       {std::array{10, 10, 8}, std::array{100, 18, 2}, std::array{19, 18, 2}}) {
    const CalibrationText split = read(samples, 4, 8);
    EXPECT_EQ(split.windows.tokens(), calibrated * 4) << samples;
    EXPECT_EQ(split.held_out.tokens(), held * 4) << samples;
    EXPECT_EQ(split.source["windows"], calibrated);
    std::vector<std::int32_t> joined = split.windows.ids;
    joined.insert(joined.end(), split.held_out.ids.begin(), split.held_out.ids.end());
    EXPECT_TRUE(std::ranges::equal(joined, std::span(ids).first(joined.size())));
  }
  EXPECT_EQ(read(100, 4, 0).held_out.tokens(), 0);
  EXPECT_NE(error_of([&] { read(1, 60, 8); }).find("expected two windows of 60"),
            std::string::npos);
}

TEST_F(CalibrationTexts, MistakesNameTheLine) {
  const std::string good = "{\"text\": \"Once upon a time\"}\n";
  EXPECT_NE(error("a.jsonl", good + "{\"text\": 7}").find("a.jsonl:2: expected an object with"),
            std::string::npos);
  EXPECT_NE(error("a.jsonl", good + "\n[1]").find("a.jsonl:3: expected"), std::string::npos);
  EXPECT_NE(error("a.jsonl", good + good + "{\"text\": ").find("a.jsonl:3"), std::string::npos);
  EXPECT_NE(error("a.jsonl", "{\"messages\": {}}").find("a.jsonl:1"), std::string::npos);
  EXPECT_NE(error("a.jsonl", "").find("expected at least one window"), std::string::npos);
  EXPECT_NE(error_of([&] {
              read_calibration_text(folder_ / "none.jsonl", checkpoint_, info_, {}, silent());
            }).find("none.jsonl"),
            std::string::npos);
}

}  // namespace
}  // namespace tandem::testing
