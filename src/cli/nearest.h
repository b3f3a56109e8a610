// What the user may have meant by a word that the program does not know.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace tandem::cli {

// The number of letters to insert, delete, replace or swap with their neighbour that turns `a` into
// `b` (optimal string alignment).
std::size_t edit_distance(std::string_view a, std::string_view b);

// The candidate that is nearest to `word`: at most a third of its letters differ (one in short
// words), or `word` is the beginning of it, three letters at least. Upper and lower case are the
// same. Empty if nothing is that near. Of equally near candidates the one that shares the longer
// beginning wins, then the first.
std::string nearest(std::string_view word, std::span<const std::string> candidates);

// "; did you mean 'quantize'?", or nothing if no candidate is near.
std::string did_you_mean(std::string_view word, std::span<const std::string> candidates);

// The same for a path that does not exist: the nearest name in its folder, or in the folder that is
// nearest to that. Nothing if the path exists.
std::string did_you_mean_path(const std::string& path);

}  // namespace tandem::cli
