// Progress of long work: one line that is redrawn on a terminal, a line every few seconds
// elsewhere.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

namespace tandem {

class Progress {
 public:
  // Writes to standard error "label  34 % (12 of 35 blocks), 8 s left". Silent when the log is
  // quiet.
  Progress(std::string label, std::int64_t total, std::string unit);
  ~Progress();  // ends the line
  void advance(std::int64_t count = 1);

 private:
  void draw();
  std::string label_;
  std::string unit_;
  std::int64_t total_;
  std::int64_t done_ = 0;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point drawn_;
  bool terminal_;
};

}  // namespace tandem
