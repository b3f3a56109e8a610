// Encoding speed on one core: tokenizer_bench TOKENIZER TEXT...
// Each text is encoded as a whole. Reports the best of several runs in CPU time of this thread, to
// reduce the influence of other programs. 1 MB is 1e6 bytes of UTF-8.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <span>
#include <string>

#include "base/error.h"
#include "base/files.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem {
namespace {

constexpr int kRuns = 7;

double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// CPU time of the fastest of kRuns calls.
template <typename Action>
double best_seconds(Action action) {
  double best = 1e30;
  for (int run = 0; run < kRuns; ++run) {
    const double start = thread_seconds();
    action();
    best = std::min(best, thread_seconds() - start);
  }
  return best;
}

void measure(const fs::path& path, std::span<char*> files) {
  const double start = thread_seconds();
  const Tokenizer tokenizer = Tokenizer::open(path);
  std::printf("%s: opened in %.0f ms\n", path.c_str(), 1e3 * (thread_seconds() - start));
  for (const char* file : files) {
    const std::string text = read_text_file(file);
    std::vector<TokenId> ids;
    const double encode = best_seconds([&] { ids = tokenizer.encode(text); });
    const double decode = best_seconds([&] { tokenizer.decode(ids); });
    const double megabytes = 1e-6 * static_cast<double>(text.size());
    std::printf("  encode %6.1f MB/s  decode %6.1f MB/s  %8zu tokens  %s\n", megabytes / encode,
                megabytes / decode, ids.size(), file);
  }
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: tokenizer_bench TOKENIZER TEXT...\n");
    return 2;
  }
  try {
    tandem::measure(argv[1], std::span(argv + 2, argv + argc));
  } catch (const tandem::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
