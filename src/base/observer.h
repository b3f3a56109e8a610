// How the library reports progress and messages to its caller. It draws and logs nothing itself.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tandem {

// Does nothing by default; override what is of interest. Calls come from the thread that does the
// work, one at a time. Only advance() and the message functions may throw.
class Observer {
 public:
  virtual ~Observer() = default;

  // A task of `total` units begins ("calibrate", 16, "blocks"), possibly nested in another one.
  virtual void begin(std::string_view task, std::int64_t total, std::string_view unit);
  // `count` more units of the innermost task are done.
  virtual void advance(std::int64_t count);
  // The innermost task has ended: finished or abandoned.
  virtual void end();

  // Messages: warn() for what the user should know, inform() for what the user may want to know.
  // Without a trailing newline.
  virtual void warn(std::string_view message);
  virtual void inform(std::string_view message);

  // True once the work should stop. Polled often, and from any thread.
  virtual bool cancelled() const;
};

// An observer that ignores everything.
Observer& silent();

// A task, as an RAII scope from begin() to end().
class Task {
 public:
  Task(Observer& observer, std::string_view task, std::int64_t total, std::string_view unit);
  ~Task();
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;

  // Throws kCancelled, "[task] interrupted", if the observer is cancelled.
  void advance(std::int64_t count = 1);

 private:
  Observer& observer_;
  std::string task_;
};

}  // namespace tandem
