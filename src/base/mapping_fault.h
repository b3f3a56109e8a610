// A clear error message when a mapped file is truncated, or its disk fails, while in use: the
// system then sends SIGBUS to the thread that touches a page that is no longer there.
#pragma once

#include <cstddef>
#include <span>

namespace tandem {

// Registers one mapping with the handler below for as long as it lives. `path` must outlive it.
// When the table (4096 mappings) is full, the mapping is not registered.
class ListedMapping {
 public:
  ListedMapping(std::span<const std::byte> bytes, const char* path) noexcept;
  ~ListedMapping();
  ListedMapping(const ListedMapping&) = delete;
  ListedMapping& operator=(const ListedMapping&) = delete;

 private:
  // Index into the table; -1 if it is not registered.
  int slot_;
};

// For programs, not libraries: from now on a SIGBUS within a registered mapping prints "tandem:
// error: [files] PATH: was cut short or could not be read while it was in use" to standard error
// and ends the process with status 1, without unwinding. Any other SIGBUS gets the default action.
void install_mapping_fault_handler() noexcept;

}  // namespace tandem
