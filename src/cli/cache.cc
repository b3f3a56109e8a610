// tandem cache: what the cache of packed weights holds, and getting rid of it.
#include <algorithm>
#include <chrono>
#include <iostream>
#include <map>

#include "base/error.h"
#include "cli/commands.h"
#include "package/cache_folder.h"
#include "package/panel_cache.h"

namespace tandem::cli {
namespace {

struct CacheFlags {
  std::string action = "list";
  std::string folder;
  std::int64_t max_size = 0;
  std::int64_t unused_days = 0;
  bool json = false;
};

// As a date, in UTC.
std::string day_of(std::chrono::sys_seconds time) {
  const std::chrono::year_month_day day(std::chrono::floor<std::chrono::days>(time));
  return fmt::format("{:04}-{:02}-{:02}", static_cast<int>(day.year()),
                     static_cast<unsigned>(day.month()), static_cast<unsigned>(day.day()));
}

void list(const CacheFlags& flags, const fs::path& folder) {
  const std::vector<CacheFile> files = list_cache(folder);
  std::int64_t bytes = 0;
  for (const CacheFile& file : files) bytes += file.bytes;
  if (flags.json) {
    OrderedJson all = OrderedJson::array();
    for (const CacheFile& file : files)
      all.push_back({{"name", file.name},
                     {"bytes", file.bytes},
                     {"last_used", file.last_used.time_since_epoch().count()}});
    print_json({{"folder", folder.string()}, {"bytes", bytes}, {"files", std::move(all)}});
    return;
  }
  std::map<std::string, RemovedFiles> days;
  for (const CacheFile& file : files) {
    RemovedFiles& day = days[day_of(file.last_used)];
    ++day.files;
    day.bytes += file.bytes;
  }
  for (const auto& [day, of] : days)
    std::cout << fmt::format("last used {}  {:6} files  {:>10} MB\n", day, of.files,
                             megabytes(of.bytes));
  std::cout << fmt::format("{}: {} files, {} MB\n", folder.string(), files.size(),
                           megabytes(bytes));
}

void remove(const CacheFlags& flags, const fs::path& folder) {
  RemovedFiles removed;
  if (flags.action == "clear") {
    removed = clear_cache(folder);
  } else {
    if (flags.max_size == 0 && flags.unused_days == 0)
      fail(ErrorCode::kInvalidArgument,
           "[cache] prune: expected --max-size or --unused-days (clear removes everything)");
    CachePruning pruning{.max_bytes = flags.max_size};
    if (flags.unused_days > 0)
      pruning.unused_since =
          std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now()) -
          std::chrono::days(flags.unused_days);
    removed = prune_cache(folder, pruning);
  }
  if (flags.json) {
    print_json({{"folder", folder.string()},
                {"removed_files", removed.files},
                {"removed_bytes", removed.bytes}});
    return;
  }
  std::cout << fmt::format("{}: {} files removed, {} MB\n", folder.string(), removed.files,
                           megabytes(removed.bytes));
}

void cache(const CacheFlags& flags) {
  const fs::path folder = flags.folder.empty() ? default_cache_folder() : fs::path(flags.folder);
  if (folder.empty())
    fail(ErrorCode::kNotFound,
         "[cache] there is none without a home directory: name one (--cache)");
  if (flags.action != "prune" && (flags.max_size > 0 || flags.unused_days > 0))
    fail(ErrorCode::kInvalidArgument,
         "[cache] --max-size and --unused-days: expected with prune, got {}", flags.action);
  if (flags.action == "list") {
    list(flags, folder);
  } else {
    remove(flags, folder);
  }
}

}  // namespace

void add_cache(CLI::App& app) {
  auto* command = app.add_subcommand(
      "cache", "list, prune or clear the packed weights that are kept for the next start");
  auto flags = std::make_shared<CacheFlags>();
  command->add_option("action", flags->action, "list (default), prune or clear")
      ->check(CLI::IsMember({"list", "prune", "clear"}));
  command->add_option("--cache", flags->folder,
                      "its folder (default: ~/.cache/tandem, or $TANDEM_CACHE)");
  command
      ->add_option("--max-size", flags->max_size,
                   "with prune: bytes to keep, such as 2GB; the longest unused files go first")
      ->transform(CLI::AsSizeValue(true));
  command
      ->add_option("--unused-days", flags->unused_days,
                   "with prune: files that were not used for so many days go")
      ->check(CLI::Range(1, 36500));
  command->add_flag("--json", flags->json, "one JSON object on standard output");
  command->callback([flags] { cache(*flags); });
}

}  // namespace tandem::cli
