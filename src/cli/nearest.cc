// Finds the nearest of a few words.
#include "cli/nearest.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <vector>

namespace tandem::cli {
namespace {

namespace fs = std::filesystem;

std::string lower(std::string_view word) {
  std::string text(word);
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

std::size_t common_prefix(std::string_view a, std::string_view b) {
  return static_cast<std::size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
}

// Folders with more entries than this are not searched for a name.
constexpr std::size_t kMaxEntries = 4096;

// The entry of `folder` nearest to `name`; empty if there is none.
std::string nearest_entry(const fs::path& folder, const std::string& name) {
  std::error_code failed;
  std::vector<std::string> names;
  for (fs::directory_iterator at(folder.empty() ? fs::path(".") : folder, failed), end;
       !failed && at != end && names.size() < kMaxEntries; at.increment(failed))
    names.push_back(at->path().filename().string());
  // The order of a folder's entries is arbitrary.
  std::ranges::sort(names);
  return nearest(name, names);
}

}  // namespace

std::size_t edit_distance(std::string_view a, std::string_view b) {
  // Rows of the table of distances between beginnings: the last but one, the last, and this one.
  std::vector<std::size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    before.swap(last);
    last.swap(row);
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
  }
  return row[b.size()];
}

std::string nearest(std::string_view word, std::span<const std::string> candidates) {
  // Long words are not typos, and the table of distances grows with their length.
  constexpr std::size_t kMaxWord = 256;
  if (word.empty() || word.size() > kMaxWord) return {};
  const std::string wanted = lower(word);
  const std::string* best = nullptr;
  std::size_t best_distance = 0, best_prefix = 0;
  for (const std::string& candidate : candidates) {
    if (candidate.size() > kMaxWord) continue;
    const std::string known = lower(candidate);
    const std::size_t distance = edit_distance(wanted, known);
    const std::size_t limit = std::max<std::size_t>(1, std::min(wanted.size(), known.size()) / 3);
    if (distance > limit || distance >= known.size()) continue;
    const std::size_t prefix = common_prefix(wanted, known);
    if (best == nullptr || distance < best_distance ||
        (distance == best_distance && prefix > best_prefix)) {
      best = &candidate;
      best_distance = distance;
      best_prefix = prefix;
    }
  }
  if (best != nullptr) return *best;
  if (wanted.size() >= 3) {
    for (const std::string& candidate : candidates)
      if (lower(candidate).starts_with(wanted)) return candidate;
  }
  return {};
}

std::string did_you_mean(std::string_view word, std::span<const std::string> candidates) {
  const std::string near = nearest(word, candidates);
  return near.empty() ? "" : fmt::format("; did you mean '{}'?", near);
}

std::string did_you_mean_path(const std::string& path) {
  std::error_code ignored;
  if (path.empty() || fs::exists(path, ignored)) return {};
  fs::path wanted = path;
  // "models/demo/" and "models/demo" are the same folder.
  if (wanted.filename().empty()) wanted = wanted.parent_path();
  fs::path folder = wanted.parent_path();
  if (!folder.empty() && !fs::exists(folder, ignored)) {
    const std::string near = nearest_entry(folder.parent_path(), folder.filename().string());
    if (near.empty()) return {};
    folder = folder.parent_path() / near;
    if (fs::exists(folder / wanted.filename(), ignored))
      return fmt::format("; did you mean '{}'?", (folder / wanted.filename()).string());
  }
  const std::string near = nearest_entry(folder, wanted.filename().string());
  return near.empty() ? "" : fmt::format("; did you mean '{}'?", (folder / near).string());
}

}  // namespace tandem::cli
