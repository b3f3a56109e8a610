// What other programs print: Python's scripts that read and judge files written here.
#pragma once

#include <array>
#include <cstdio>
#include <string>

namespace tandem::testing {

struct PipedOutput {
  // As wait() has it; 0 of a success.
  int status = -1;
  std::string text;
};

// Of the shell's `command`, whose standard error goes where the test's does.
inline PipedOutput piped_output(const std::string& command) {
  PipedOutput output;
  std::FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return output;
  std::array<char, 4096> buffer;
  for (std::size_t n; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    output.text.append(buffer.data(), n);
  output.status = ::pclose(pipe);
  return output;
}

}  // namespace tandem::testing
