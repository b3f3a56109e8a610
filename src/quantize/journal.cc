// A folder of safetensors files: PASS-LAYER for what was learned of a block, PASS-values for what
// the next one begins with, whose metadata says after which block. Each is renamed into place when
// it is whole.
#include "quantize/journal.h"

#include <fmt/format.h>

#include <charconv>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "checkpoint/safetensors.h"

namespace tandem {
namespace {

constexpr const char* kJobFile = "job.json";
constexpr const char* kValues = "values";
constexpr const char* kLayer = "layer";

void require_same_job(const fs::path& folder, const OrderedJson& job) {
  const fs::path path = folder / kJobFile;
  const OrderedJson begun = parse_ordered_json(read_text_file(path), path.string());
  if (begun == job) return;
  for (const auto& [key, value] : job.items())
    if (!begun.is_object() || !begun.contains(key) || begun[key] != value)
      fail(ErrorCode::kInvalidArgument,
           "[quantize] {}: was begun with another {}: run without --resume to begin again",
           folder.string(), key);
  fail(ErrorCode::kFormat, "[quantize] {}: expected the job {}", path.string(), job.dump());
}

std::int32_t layer_of(const SafetensorsFile& file, const fs::path& path) {
  std::int32_t layer = -1;
  const auto found = file.metadata.find(kLayer);
  if (found != file.metadata.end()) {
    const std::string& text = found->second;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), layer);
    if (error == std::errc() && end == text.data() + text.size() && layer >= 0) return layer;
  }
  fail(ErrorCode::kFormat, "[quantize] {}: expected metadata with the number of a layer",
       path.string());
}

}  // namespace

Journal::Journal(Options options, Observer& observer)
    : options_(std::move(options)), observer_(observer) {
  if (!fs::exists(options_.folder / kJobFile)) return;
  if (!options_.resume) {
    observer.inform(
        fmt::format("[quantize] {}: holds blocks of a run that was interrupted: beginning again "
                    "(--resume goes on from them)",
                    options_.folder.string()));
    return;
  }
  require_same_job(options_.folder, options_.job);
  goes_on_ = has_written_ = true;
}

Journal::~Journal() {
  if (!has_written_) return;
  observer_.inform(
      fmt::format("[quantize] {}: holds the blocks that are finished: the same "
                  "command with --resume goes on from them",
                  options_.folder.string()));
}

void Journal::finish() {
  has_written_ = false;
  std::error_code ignored;
  if (fs::exists(options_.folder / kJobFile, ignored)) fs::remove_all(options_.folder, ignored);
}

bool Journal::is_time() const {
  return std::chrono::steady_clock::now() - last_ >= options_.interval;
}

bool Journal::begin_write() {
  if (has_written_ || has_failed_) return !has_failed_;
  try {
    if (fs::exists(options_.folder / kJobFile)) fs::remove_all(options_.folder);
    fs::create_directories(options_.folder);
    write_text_file(options_.folder / kJobFile, options_.job.dump(2) + "\n");
    has_written_ = true;
  } catch (const std::exception& error) {
    has_failed_ = true;
    observer_.warn(fmt::format("[quantize] {}: finished blocks can't be kept for --resume: {}",
                               options_.folder.string(), error.what()));
  }
  return has_written_;
}

void Journal::write(const fs::path& path, const NamedTensors& tensors,
                    const std::map<std::string, std::string>& metadata) {
  const fs::path unfinished = path.string() + ".tmp";
  write_safetensors(unfinished, tensors, metadata);
  fs::rename(unfinished, path);
  last_ = std::chrono::steady_clock::now();
}

BlockJournal::BlockJournal(Journal& journal, std::string name)
    : journal_(journal), name_(std::move(name)) {
  const fs::path path = file(kValues);
  if (!journal.goes_on_ || !fs::exists(path)) return;
  finished_ = layer_of(SafetensorsFile::open(path), path);
  journal.observer_.inform(
      fmt::format("[quantize] {}: going on after block {}", name_, finished_ + 1));
}

fs::path BlockJournal::file(const std::string& what) const {
  return journal_.options_.folder / fmt::format("{}-{}.safetensors", name_, what);
}

NamedTensors BlockJournal::learned(std::int32_t layer) const {
  return SafetensorsFile::open(file(std::to_string(layer))).tensors;
}

NamedTensors BlockJournal::values() const { return SafetensorsFile::open(file(kValues)).tensors; }

void BlockJournal::fail_damaged() const {
  fail(ErrorCode::kFormat,
       "[quantize] {}: expected what an interrupted run kept of {}, got something else: run "
       "without --resume to begin again",
       journal_.options_.folder.string(), name_);
}

void BlockJournal::save(std::int32_t layer, NamedTensors learned, bool is_last,
                        const std::function<NamedTensors()>& values) {
  waiting_[layer] = std::move(learned);
  // The end of a pass is worth keeping if anything of this run is.
  if (!journal_.is_time() && !(is_last && journal_.has_written_)) return;
  if (!journal_.begin_write()) return;
  try {
    for (const auto& [finished, tensors] : waiting_)
      journal_.write(file(std::to_string(finished)), tensors, {});
    journal_.write(file(kValues), values(), {{kLayer, std::to_string(layer)}});
  } catch (const Error& error) {
    journal_.has_failed_ = true;
    journal_.observer_.warn(fmt::format(
        "[quantize] finished blocks are no longer kept for --resume: {}", error.what()));
  }
  waiting_.clear();
}

}  // namespace tandem
