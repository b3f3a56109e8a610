// Refuses a checkpoint whose weights are not numbers before any time is spent on it.
#pragma once

#include <set>
#include <string>

#include "base/observer.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"

namespace tandem {

// Reads the float tensors behind `names` (as in Checkpoint::contents()): norms, biases, embeddings,
// float weights, and the scales of packed ones. Throws kFormat ("[quantize] FILE:
// model.norm.weight: element [3]: expected a finite number, got nan"). Takes as long as reading the
// files; memory stays at one tensor. The observer can cancel (kCancelled).
void require_finite(const Checkpoint& checkpoint, const std::set<std::string>& names,
                    ThreadPool& pool, const Observer& observer);

}  // namespace tandem
