// Checkpoints as they are found in the wild, with small faults that other programs read over.
#include <gtest/gtest.h>

#include "cli/program.h"

namespace tandem {
namespace {

using testing::expect_refusal;
using testing::Outcome;
using testing::run_program;
using testing::ScratchFolder;
using testing::shared_data;

std::string report(const std::string& name) { return (shared_data() / "reports" / name).string(); }

// Two tokens are written; the one warning on standard error holds `warning`.
void expect_two_tokens(const std::string& model, const std::string& warning) {
  const Outcome outcome =
      run_program({"run", model, "-p", "A", "-n", "2", "--ignore-eos", "-t", "1", "--no-cache"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_FALSE(outcome.out.empty());
  const auto at = outcome.err.find("warning: " + warning);
  if (warning.empty()) {
    EXPECT_EQ(outcome.err.find("warning: "), std::string::npos) << outcome.err;
  } else {
    ASSERT_NE(at, std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find("warning: ", at + 1), std::string::npos) << outcome.err;
  }
}

TEST(FoundModels, EndTokenOutsideTheVocabulary) {
  TANDEM_REQUIRE_SHARED("reports/config_eos_id_out_of_vocabulary");
  const std::string model = report("config_eos_id_out_of_vocabulary");
  expect_two_tokens(model, "[models] " + model + "/config.json: eos_token_id: ");
}

TEST(FoundModels, PaddingTokenOutsideTheVocabularyOfAGguf) {
  TANDEM_REQUIRE_SHARED("reports/gguf_pad_id_minus_one");
  const std::string model = report("gguf_pad_id_minus_one") + "/model.gguf";
  expect_two_tokens(model, "[models] " + model + ": pad_token_id: 4294967295 is outside");
}

}  // namespace
}  // namespace tandem
