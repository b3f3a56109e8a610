// Handles Ctrl-C and SIGTERM.
#include "cli/interrupt.h"

#include <termios.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <string_view>

namespace tandem::cli {
namespace {

// A signal handler can only change global state; lock-free atomics are safe in one.
std::atomic<int> interrupt_count = 0;
std::atomic<int> last_signal = SIGINT;
std::atomic<unsigned> grace_seconds = 0;
static_assert(std::atomic<int>::is_always_lock_free);
static_assert(std::atomic<unsigned>::is_always_lock_free);

void on_interrupt(int signal) {
  last_signal.store(signal);
  if (interrupt_count.fetch_add(1) > 0) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
  if (const unsigned grace = grace_seconds.load(); grace > 0) ::alarm(grace);
}

void on_alarm(int) {
  constexpr std::string_view kMessage = "tandem: error: [cli] interrupted\n";
  static_cast<void>(::write(STDERR_FILENO, kMessage.data(), kMessage.size()) < 0);
  ::_exit(interrupt_status());
}

// The terminal as it was before lines were edited on it.
termios terminal{};
bool has_terminal = false;

void on_death(int signal) {
  if (has_terminal) ::tcsetattr(STDIN_FILENO, TCSANOW, &terminal);
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void handle(int signal, void (*handler)(int), int flags) {
  struct sigaction action{};
  action.sa_handler = handler;
  action.sa_flags = flags;
  ::sigaction(signal, &action, nullptr);
}

}  // namespace

void catch_interrupt(unsigned grace) {
  grace_seconds.store(grace);
  handle(SIGALRM, on_alarm, SA_RESTART);
  handle(SIGINT, on_interrupt, SA_RESTART);
  handle(SIGTERM, on_interrupt, SA_RESTART);
}
void catch_interrupt_in_reads() {
  grace_seconds.store(0);
  ::alarm(0);
  has_terminal = ::tcgetattr(STDIN_FILENO, &terminal) == 0;
  handle(SIGINT, on_interrupt, 0);
  for (const int signal : {SIGTERM, SIGHUP, SIGQUIT}) handle(signal, on_death, 0);
  // One that came before is not forgotten: it meant the whole program.
  if (!interrupted()) return;
  std::signal(last_signal.load(), SIG_DFL);
  std::raise(last_signal.load());
}
bool interrupted() noexcept { return interrupt_count.load() > 0; }
int interrupt_status() noexcept { return 128 + last_signal.load(); }
void reset_interrupt() noexcept { interrupt_count.store(0); }

}  // namespace tandem::cli
