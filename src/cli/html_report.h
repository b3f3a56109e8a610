// What was measured of a model as one page of HTML that needs nothing else: tables, and plots beside
// them. It is well-formed XML, too, follows the reader's light or dark colors, and prints.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/staged_file.h"
#include "quantize/quality_gate.h"

namespace tandem::cli {

struct HtmlReport {
  std::string title;
  // What was measured, and how: name and value.
  std::vector<std::pair<std::string, std::string>> facts;
  // texts[] and questions as tandem eval --json prints them; null: none.
  const OrderedJson* scores = nullptr;
  // Modules, and what was repaired; null: none.
  const GateReport* doctor = nullptr;
};
std::string html_of(const HtmlReport& report);

// A file for a report, begun before the long-running work, so that one that can't be written is
// reported then. Nothing is left of it without write().
class ReportFile {
 public:
  // Throws kInvalidArgument for "-" and for a file of one of these models. `area`: the command.
  ReportFile(const char* area, const std::string& file, const std::vector<std::string>& models);
  void write(const HtmlReport& report);

 private:
  StagedFile file_;
};

}  // namespace tandem::cli
