// The subcommands of the program: each registers itself with the command line and runs when parsed.
#pragma once

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <charconv>
#include <limits>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>
#include <vector>

#include "base/json.h"
#include "cli/interrupt.h"
#include "runtime/local_model.h"

namespace tandem::cli {

void add_inspect(CLI::App& app);
void add_quantize(CLI::App& app);
void add_run(CLI::App& app);
void add_logits(CLI::App& app);
void add_template(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_detokenize(CLI::App& app);
void add_eval(CLI::App& app);
void add_compare(CLI::App& app);
void add_bench(CLI::App& app);
void add_devices(CLI::App& app);
void add_cache(CLI::App& app);
void add_report(CLI::App& app);
void add_synth(CLI::App& app);
void add_convert(CLI::App& app);
void add_build(CLI::App& app);
void add_profile(CLI::App& app);
void add_export_qnn(CLI::App& app);
void add_export_rotated(CLI::App& app);
// `app` is the whole program, whose commands are described.
void add_completion(CLI::App& app);

// A command did its work, and the result is not as good as was asked for: exit status 3.
class NotGoodEnough : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The options of every command that loads a model: --mode, --kv, --pipeline, -t, --chunk,
// --kernels, --cache, --cache-limit, --no-cache, --verify.
struct ModelFlags {
  std::string model;
  std::string mode;
  std::string kv;
  std::string pipeline = "off";
  int threads = 0;
  std::int64_t chunk = 0;
  std::string kernels;
  std::string cache;
  std::int64_t cache_limit = EngineOptions{}.cache_limit;
  bool no_cache = false;
  bool verify = false;

  void add_to(CLI::App& command, bool with_mode = true);
  LoadOptions load_options() const;
};

// The token ids of a command that takes them: --ids and -f.
struct IdsFlags {
  std::vector<std::string> ids;
  std::string file;

  void add_to(CLI::App& command);
  // Where they come from, for messages: a file's name, "standard input" or "--ids".
  std::string where() const;
  // From --ids, spelled out or as a file's name, or from the file; standard input without either.
  // Throws kFormat for anything but ids in [0, 2^31).
  std::vector<TokenId> read() const;

 private:
  // Whether --ids holds the ids themselves.
  bool spelled() const;
};

// Reads a file; empty or "-" means standard input.
std::string read_input(const std::string& file);

// Parses such a file as JSON. Throws kFormat naming the file and the position in it.
OrderedJson read_ordered_json(const std::string& file);

// The list in such a file, or the one at `key` of the object in it. Throws kFormat naming the file.
OrderedJson read_json_list(const char* area, const std::string& file, const char* key);

// Such a file as text that a model reads, without a byte order mark. Throws kFormat unless it is
// UTF-8.
std::string read_plain_text(const char* area, const std::string& file);

// For functions that take a path: the file itself or, for "-", a path under which all of standard
// input can be read, any number of times. Throws kInvalidArgument if asked twice for standard
// input.
std::string input_path(const std::string& file);

// The same for a file of plain text. Throws kFormat if it is not UTF-8, or if it is JSON, or JSON
// on each line.
fs::path plain_text_path(const char* area, const std::string& file);
// The same for a text to calibrate on, which may also be NAME.jsonl or NAME.jsonl.zst; empty for
// none.
fs::path calibration_path(const char* area, const std::string& file);

// "hybrid mode", "cpu mode", "float mode"; of a checkpoint whose weights are stored as codes,
// "weights as stored (int4 g32)".
std::string mode_text(LocalModel& model);
// "float32", "float16" or "int8".
std::string kv_text(LocalModel& model);

// A message in which that path is called "standard input".
std::string name_standard_input(std::string message);

// Throws kInvalidArgument, with the reason, if `file` is "-" where a stream cannot serve.
void refuse_standard_stream(const std::string& file, const std::string& what, const char* why);

// Throws kNotFound if the input does not exist but the output does, as when they were swapped.
void refuse_swapped(const char* area, const std::string& input, const std::string& output);

// Throws kInvalidArgument if `output` is a file of the model, or any file in its folder.
void refuse_overwriting(const char* area, const std::string& model, const std::string& output);

// For the values of a flag: a message if `text` is an integer that T has no room for. The parser
// itself would take the nearest one that it has.
template <typename T>
std::string integer_in_range(const std::string& text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool negative = std::is_unsigned_v<T> && text.starts_with('-');
  if (error != std::errc::result_out_of_range && !negative) return {};
  return fmt::format("expected an integer in [{}, {}], got {}", std::numeric_limits<T>::min(),
                     std::numeric_limits<T>::max(), text);
}

// A path as a shell reads it: quoted if it needs to be.
std::string shell_word(const std::string& word);

// What a command wrote: a file, or the files of a folder.
struct Written {
  std::int64_t files = 0;
  std::int64_t bytes = 0;
};
Written written(const fs::path& path);

// Says how to run a model that was just written, as a line to copy.
void suggest_run(const std::string& model);

// Prints one JSON object to standard output.
void print_json(const OrderedJson& object);

// Megabytes (10^6 bytes) with one decimal.
std::string megabytes(std::int64_t bytes);

}  // namespace tandem::cli
