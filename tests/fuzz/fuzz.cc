#include "fuzz.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace tandem::fuzz {

void require(bool holds, std::string_view what) {
  if (holds) return;
  std::fprintf(stderr, "finding: %.*s\n", static_cast<int>(what.size()), what.data());
  std::abort();
}

InputFile::InputFile(Input input) : file_(::memfd_create("input", MFD_CLOEXEC)) {
  require(file_ >= 0, "no file in memory can be made");
  std::size_t written = 0;
  while (written < input.size()) {
    const ssize_t n = ::write(file_, input.data() + written, input.size() - written);
    require(n > 0, "a file in memory cannot be written");
    written += static_cast<std::size_t>(n);
  }
}

InputFile::~InputFile() { ::close(file_); }

fs::path InputFile::path() const { return "/proc/self/fd/" + std::to_string(file_); }

}  // namespace tandem::fuzz
