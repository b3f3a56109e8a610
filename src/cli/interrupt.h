// Ctrl-C and SIGTERM as a flag that long-running work polls, instead of the end of the program.
#pragma once

namespace tandem::cli {

// From now on Ctrl-C and SIGTERM only make interrupted() true; a second one ends the program
// immediately. With `grace`, so does the first if the program still runs that many seconds later:
// for commands that leave nothing behind, but may compute for long between two polls.
void catch_interrupt(unsigned grace = 0);
// The same for Ctrl-C alone, which then makes a blocked read of standard input fail with EINTR, and
// may be pressed any number of times; SIGTERM ends the program, with the terminal as it was at this
// call. So does either if it came before.
void catch_interrupt_in_reads();
// True once one of them arrived.
bool interrupted() noexcept;
// The exit status after it, 128 and the signal's number as in shells: 130 or 143.
int interrupt_status() noexcept;
// Clears the flag.
void reset_interrupt() noexcept;

// Seconds that commands without output files may go on to the next poll, to print what they have.
inline constexpr unsigned kInterruptGrace = 5;

}  // namespace tandem::cli
