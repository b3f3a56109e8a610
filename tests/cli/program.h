// Runs the program as a user does: arguments in, exit status and both outputs out.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <string>
#include <vector>

#include "base/json.h"
#include "support.h"

namespace tandem::testing {

struct Outcome {
  int status = -1;  // exit status; 128 + N after signal N
  std::string out;
  std::string err;
};

// A started program. Its outputs go to files, so that no pipe can fill up.
class Program {
 public:
  // With `waits`, its standard input never ends.
  explicit Program(const std::vector<std::string>& arguments, const std::string& input = "",
                   bool waits = false);
  ~Program();  // kills it if it still runs
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void send(int signal) const;
  std::string out_so_far() const;
  std::string err_so_far() const;
  Outcome wait();

 private:
  pid_t pid_ = -1;
  // The end of the pipe that is its standard input.
  int input_ = -1;
  fs::path folder_;
};

Outcome run_program(const std::vector<std::string>& arguments, const std::string& input = "");

// The one JSON object that a command with --json prints; fails the test if it does not succeed.
Json run_for_json(std::vector<std::string> arguments);

// Status 2, nothing on standard output, one line "tandem: error: …" with every one of `parts`.
void expect_refusal(const std::vector<std::string>& arguments,
                    const std::vector<std::string>& parts, const std::string& input = "");

// The demo checkpoint and a package of it, made with the program when first asked for.
std::string demo();
std::string demo_package();

std::vector<std::string> names_in(const fs::path& folder);
void write_bytes(const fs::path& path, const std::string& bytes);

}  // namespace tandem::testing
