// tandem eval --by-layer and --fix: what single modules lose, and a recipe that buys it back.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/observer.h"
#include "base/staged_file.h"
#include "base/thread_pool.h"
#include "cli/commands.h"
#include "quantize/examination.h"

namespace tandem::cli {

struct ExamineFlags {
  bool by_layer = false;
  std::string fix;
  std::string recipe;
  std::string calibration;
  std::optional<std::int64_t> windows;
  std::optional<double> max_kl;
  double max_size_increase = GateOptions{}.max_size_increase_percent;

  void add_to(CLI::App& command);
  // Repairs are chosen by what single modules lose.
  bool given() const { return by_layer || !fix.empty(); }
  // Throws kInvalidArgument for a flag that means nothing without those.
  void require_given() const;
};

class Examiner {
 public:
  // Says all that is wrong with the flags and files. `reference`: the checkpoint that a package is
  // compared with.
  Examiner(const ExamineFlags& flags, const ModelFlags& model, const std::string& reference,
           Observer& observer);

  // Of all windows of the texts, on some. Writes the recipe, unless a limit can't be kept.
  GateReport run(const CalibrationWindows& all);
  // What is to be done with the recipe, as a line to copy.
  std::string next_command() const;

 private:
  const ExamineFlags& flags_;
  // What the recipe is for.
  std::string checkpoint_;
  ThreadPool pool_;
  std::optional<Package> package_;
  std::unique_ptr<Examination> examination_;
  std::optional<StagedFile> recipe_;
};

// False with --fix for a recipe that does not keep to the limit.
bool is_written(const GateReport& result, const ExamineFlags& flags);
// What docs/json.md lists, added to the report of tandem eval.
void add_examination(const GateReport& result, const ExamineFlags& flags, OrderedJson& report);

}  // namespace tandem::cli
