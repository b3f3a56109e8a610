// Handles Ctrl-C.
#include "cli/interrupt.h"

#include <atomic>
#include <csignal>

namespace tandem::cli {
namespace {

// A signal handler can only change global state; lock-free atomics are safe in one.
std::atomic<int> interrupt_count = 0;
static_assert(std::atomic<int>::is_always_lock_free);

void on_interrupt(int signal) {
  if (interrupt_count.fetch_add(1) > 0) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}

}  // namespace

void catch_interrupt(bool ends_reads) {
  struct sigaction action{};
  action.sa_handler = on_interrupt;
  action.sa_flags = ends_reads ? 0 : SA_RESTART;
  ::sigaction(SIGINT, &action, nullptr);
}
bool interrupted() noexcept { return interrupt_count.load() > 0; }
void reset_interrupt() noexcept { interrupt_count.store(0); }

}  // namespace tandem::cli
