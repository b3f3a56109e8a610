// The text that scales and passes are calibrated on: from a file, or the built-in one.
#pragma once

#include <cstdint>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "base/observer.h"
#include "graph/model_info.h"
#include "quantize/block_runner.h"
#include "quantize/recipe.h"

namespace tandem {

class Checkpoint;

// The tokens of a text, of every document in it; empty: of the built-in text. Throws as
// read_calibration_text().
std::vector<std::int32_t> tokenize_text(const fs::path& file, const Checkpoint& checkpoint);

// The same with the tokenizer at that path.
std::vector<std::int32_t> tokenize_text(const fs::path& file, const fs::path& tokenizer);

// The first `count` documents with any tokens in a file of JSON lines, each by itself. Of "text" the
// first `longest` characters are read.
std::vector<std::vector<std::int32_t>> tokenize_documents(const fs::path& file,
                                                          const fs::path& tokenizer,
                                                          std::size_t longest, std::int64_t count);

struct CalibrationText {
  CalibrationWindows windows;
  // Windows behind those, for measuring on what nothing was calibrated on.
  CalibrationWindows held_out;
  // What a package says of it: file, hash, windows, window_tokens.
  OrderedJson source;
};

// Whether a file is JSON lines by its name: NAME.jsonl, or compressed NAME.jsonl.zst.
bool has_json_lines(const fs::path& file);

// Tokenizes the file with the checkpoint's tokenizer and cuts it into windows, of the model's
// context at most. A file of JSON lines holds a JSON object on each line, with a document at "text",
// or with chat messages at "messages", which go through the checkpoint's chat template; documents
// are tokenized one by one and joined. Any other file is one text. Empty: the built-in text, with a
// warning, as there is for less than half of the tokens that the settings ask for. Throws kFormat,
// naming file and line, and kInvalidArgument for less than a window. `held_out`: windows to be held
// back, taken from the end of a text that is too short for all, an eighth of it at most but one
// window at least.
CalibrationText read_calibration_text(const fs::path& file, const Checkpoint& checkpoint,
                                      const ModelInfo& info, const CalibrationSettings& settings,
                                      Observer& observer, std::int64_t held_out = 0);

}  // namespace tandem
