// Ctrl-C as a flag that long-running work polls, instead of the end of the program.
#pragma once

namespace tandem::cli {

// From now on Ctrl-C only makes interrupted() true; a second one ends the program immediately. With
// `ends_reads`, a blocked read of standard input then fails with EINTR.
void catch_interrupt(bool ends_reads = false);
// True once Ctrl-C was pressed.
bool interrupted() noexcept;
// Clears the flag.
void reset_interrupt() noexcept;

}  // namespace tandem::cli
