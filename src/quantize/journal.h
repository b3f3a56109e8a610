// What a long quantization has finished, in a folder beside its target, so that an interrupted one
// goes on after its last block.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "base/observer.h"
#include "tensor/tensor.h"

namespace tandem {

class Journal;

// Between two times that something is written; a run that is shorter leaves nothing.
inline constexpr std::chrono::milliseconds kJournalInterval{10'000};

using NamedTensors = std::map<std::string, Tensor>;

// The part of one pass over the blocks of a model.
class BlockJournal {
 public:
  BlockJournal(Journal& journal, std::string name);

  // The last decoder block that an earlier run finished; -1: none.
  std::int32_t finished() const noexcept { return finished_; }
  // What it learned of a finished block, and the values with which the next one began.
  NamedTensors learned(std::int32_t layer) const;
  NamedTensors values() const;

  // Throws kFormat: what was read is not what was written.
  [[noreturn]] void fail_damaged() const;

  // A block is finished. Written at once, or with one of the next if the last time is not long ago.
  // `values` is called if it is.
  void save(std::int32_t layer, NamedTensors learned, bool is_last,
            const std::function<NamedTensors()>& values);

 private:
  fs::path file(const std::string& what) const;

  Journal& journal_;
  std::string name_;
  std::int32_t finished_ = -1;
  // By layer, what is not written yet.
  std::map<std::int32_t, NamedTensors> waiting_;
};

class Journal {
 public:
  struct Options {
    fs::path folder;
    // All that the result depends on: what was begun for another job is not gone on with.
    OrderedJson job;
    bool resume = false;
    std::chrono::milliseconds interval = kJournalInterval;
  };
  // With `resume`, throws kInvalidArgument for a folder of another job, naming what differs, and
  // kFormat for one that is damaged; a folder that is missing is no error. Without, what is there
  // is overwritten by the first write.
  Journal(Options options, Observer& observer);
  // Says where to go on from if something was written and finish() was not reached.
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  // The work is done: removes the folder.
  void finish();

 private:
  friend class BlockJournal;
  bool is_time() const;
  // Makes the folder on the first call. False if it can't be written to, which was said.
  bool begin_write();
  // Of a file in the folder.
  void write(const fs::path& path, const NamedTensors& tensors,
             const std::map<std::string, std::string>& metadata);

  Options options_;
  Observer& observer_;
  bool goes_on_ = false;
  bool has_written_ = false;
  bool has_failed_ = false;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace tandem
