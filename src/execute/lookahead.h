// A search for the shortest schedule of the chunks of a prompt.
#pragma once

#include <optional>
#include <span>

#include "execute/schedule.h"

namespace tandem {

// The shortest schedule that is found, if it takes clearly less than `limit` seconds: a saving of a
// thousandth is not looked for. Tasks are as for schedule(), `segments` to a chunk.
std::optional<Schedule> look_ahead(std::span<const ChunkTask> tasks, int segments, int in_flight,
                                   double limit);

}  // namespace tandem
