// The table of live mappings, and the SIGBUS handler that looks up the faulting address in it.
#include "base/mapping_fault.h"

#include <limits.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>

namespace tandem {
namespace {

struct Slot {
  // One past the last byte; 0 in a free slot, 1 in a slot being filled. Published last.
  std::atomic<std::uintptr_t> end{0};
  std::atomic<std::uintptr_t> begin{0};
  std::atomic<const char*> path{nullptr};
};

constexpr std::uintptr_t kFree = 0;
constexpr std::uintptr_t kClaimed = 1;

// A signal handler receives nothing but the address, so what it needs has to be global. It must not
// wait for a lock, so the table consists of lock-free atomics and never moves.
std::array<Slot, 4096> table;
static_assert(std::atomic<std::uintptr_t>::is_always_lock_free);
static_assert(std::atomic<const char*>::is_always_lock_free);

// The path of the mapping that holds `address`, or null.
const char* find_path(std::uintptr_t address) noexcept {
  for (const Slot& slot : table) {
    const std::uintptr_t end = slot.end.load();
    if (end <= address) continue;
    const std::uintptr_t begin = slot.begin.load();
    const char* path = slot.path.load();
    // Unless another thread reused the slot for another mapping while its fields were read.
    if (begin <= address && slot.end.load() == end) return path;
  }
  return nullptr;
}

// Appends to the line, leaving room for its end. POSIX allows strlen and memcpy in a handler.
std::size_t append(std::span<char> line, std::size_t used, const char* text) noexcept {
  const std::size_t length = std::min(std::strlen(text), line.size() - used);
  std::memcpy(line.data() + used, text, length);
  return used + length;
}

void on_bus_error(int signal, siginfo_t* info, void*) {
  const char* path =
      info->si_code > 0 ? find_path(reinterpret_cast<std::uintptr_t>(info->si_addr)) : nullptr;
  if (path == nullptr) {
    ::signal(signal, SIG_DFL);
    // A fault recurs when the instruction is retried; a signal that was sent does not.
    if (info->si_code <= 0) ::raise(signal);
    return;
  }
  std::array<char, PATH_MAX + 128> line;
  std::size_t used = append(line, 0, "tandem: error: [files] ");
  used = append(std::span(line).first(PATH_MAX + 32), used, path);
  used = append(line, used, ": was cut short or could not be read while it was in use\n");
  // If standard error cannot be written, the exit status has to do.
  [[maybe_unused]] const ssize_t wrote = ::write(STDERR_FILENO, line.data(), used);
  ::_exit(1);
}

}  // namespace

ListedMapping::ListedMapping(std::span<const std::byte> bytes, const char* path) noexcept
    : slot_(-1) {
  if (bytes.empty()) return;
  const auto begin = reinterpret_cast<std::uintptr_t>(bytes.data());
  for (std::size_t i = 0; i < table.size(); ++i) {
    std::uintptr_t expected = kFree;
    if (!table[i].end.compare_exchange_strong(expected, kClaimed)) continue;
    table[i].begin = begin;
    table[i].path = path;
    table[i].end = begin + bytes.size();
    slot_ = static_cast<int>(i);
    return;
  }
}

ListedMapping::~ListedMapping() {
  if (slot_ >= 0) table[static_cast<std::size_t>(slot_)].end = kFree;
}

void install_mapping_fault_handler() noexcept {
  struct sigaction action{};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, nullptr);
}

}  // namespace tandem
