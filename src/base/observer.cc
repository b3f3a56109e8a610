// The observer that ignores everything, and tasks.
#include "base/observer.h"

#include "base/error.h"

namespace tandem {

void Observer::begin(std::string_view, std::int64_t, std::string_view) {}
void Observer::advance(std::int64_t) {}
void Observer::end() {}
void Observer::warn(std::string_view) {}
void Observer::inform(std::string_view) {}
bool Observer::cancelled() const { return false; }

Observer& silent() {
  // Stateless, so sharing it is harmless.
  static Observer observer;
  return observer;
}

Task::Task(Observer& observer, std::string_view task, std::int64_t total, std::string_view unit)
    : observer_(observer), task_(task) {
  observer_.begin(task, total, unit);
}

Task::~Task() { observer_.end(); }

void Task::advance(std::int64_t count) {
  observer_.advance(count);
  if (observer_.cancelled()) fail(ErrorCode::kCancelled, "[{}] interrupted", task_);
}

}  // namespace tandem
