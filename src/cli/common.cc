// Functions that the subcommands share.
#include <fmt/ranges.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <iostream>
#include <iterator>
#include <set>

#include "base/error.h"
#include "base/hub_cache.h"
#include "base/printable.h"
#include "cli/commands.h"
#include "cli/log.h"
#include "graph/graph.h"
#include "quantize/calibration_text.h"
#include "text/tokenizer/unicode.h"

namespace tandem::cli {
namespace {

// The path of what input_path() read from standard input; empty before.
std::string& standard_input_path() {
  static std::string path;
  return path;
}

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

void require_plain_text(const char* area, const std::string& shown, const std::string& text) {
  if (is_valid_utf8(text) && text.find('\0') == std::string::npos) return;
  fail(ErrorCode::kFormat,
       "[{}] {}: expected plain text in UTF-8, got other bytes: unpack it, or convert it with "
       "iconv",
       area, shown);
}

}  // namespace

std::string read_input(const std::string& file) {
  if (!file.empty() && file != "-") return read_text_file(file);
  return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

std::string read_plain_text(const char* area, const std::string& file) {
  std::string text = read_input(file);
  const bool is_stream = file.empty() || file == "-";
  require_plain_text(area, is_stream ? "standard input" : file, text);
  if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
  return text;
}

OrderedJson read_ordered_json(const std::string& file) {
  return parse_ordered_json(read_input(file), file == "-" ? "standard input" : file);
}

OrderedJson read_json_list(const char* area, const std::string& file, const char* key) {
  OrderedJson json = read_ordered_json(file);
  if (json.is_object() && json.contains(key)) json = OrderedJson(json[key]);
  if (!json.is_array())
    fail(ErrorCode::kFormat, "[{}] {}: expected a list, or an object with a list at \"{}\"", area,
         file == "-" ? "standard input" : file, key);
  return json;
}

std::string input_path(const std::string& file) {
  if (file != "-") return file;
  std::string& path = standard_input_path();
  if (!path.empty()) fail(ErrorCode::kInvalidArgument, "[cli] -: standard input is given twice");
  const std::string content = read_input(file);
  // Lives as long as the process, and on no disk.
  const int memory = ::memfd_create("standard input", MFD_CLOEXEC);
  for (std::size_t at = 0; memory >= 0 && at < content.size();) {
    const ssize_t written = ::write(memory, content.data() + at, content.size() - at);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail(ErrorCode::kIo, "[cli] -: cannot keep standard input in memory");
    at += static_cast<std::size_t>(written);
  }
  if (memory < 0) fail(ErrorCode::kIo, "[cli] -: cannot keep standard input in memory");
  path = fmt::format("/proc/self/fd/{}", memory);
  return path;
}

std::string name_standard_input(std::string message) {
  const std::string& path = standard_input_path();
  for (std::size_t at = 0; !path.empty() && (at = message.find(path)) != std::string::npos;)
    message.replace(at, path.size(), "standard input");
  return message;
}

fs::path plain_text_path(const char* area, const std::string& file) {
  fs::path path = input_path(file);
  const std::string text = read_text_file(path);
  const std::string shown = file == "-" ? "standard input" : file;
  require_plain_text(area, shown, text);
  const std::size_t begin = text.starts_with(kByteOrderMark) ? kByteOrderMark.size() : 0;
  const std::size_t start = text.find_first_not_of(" \t\r\n", begin);
  if (start == std::string::npos || std::string_view("{[\"").find(text[start]) == std::string::npos)
    return path;
  // One JSON value, or one on each line: the first line is enough to tell.
  const std::size_t end = std::min(text.find('\n', start), text.size());
  const std::string first = text.substr(start, end - start);
  const auto opens_and_closes = [](const std::string& part) {
    return part.size() > 2 && Json::accept(part);
  };
  // A line in quotation marks may be a story's first, but not all of it.
  const std::string all = text.substr(start);
  if ((text[start] != '"' && opens_and_closes(first)) || opens_and_closes(all)) {
    fail(ErrorCode::kFormat,
         "[{}] {}: expected plain text, got JSON, whose keys and quotes would be read as text: "
         "write its texts to a file first (jq -r '.text')",
         area, shown);
  }
  return path;
}

fs::path calibration_path(const char* area, const std::string& file) {
  if (file.empty() || has_json_lines(file)) return file;
  return plain_text_path(area, file);
}

std::string kv_text(LocalModel& model) {
  const DType dtype = model.engine.kv_pool().shape().dtype;
  return dtype == DType::kI8 ? "int8" : dtype == DType::kF16 ? "float16" : "float32";
}

std::string mode_text(LocalModel& model) {
  const std::string& mode = model.engine.plan().name;
  if (mode != "float") return mode + (kv_text(model) == "int8" ? " mode, int8 cache" : " mode");
  // A checkpoint may hold codes: what runs then is not float.
  std::set<std::string> kinds;
  const Graph& graph = model.engine.graph(Phase::kDecode);
  for (const Node& node : graph.nodes()) {
    if (node.op != Op::kLinear) continue;
    const std::string kind = describe(node.as<LinearAttributes>().weight);
    if (kind.starts_with("int")) kinds.insert(kind.substr(0, kind.find(" [")));
  }
  if (kinds.empty()) return "float mode";
  return fmt::format("weights as stored ({})", fmt::join(kinds, ", "));
}

void refuse_swapped(const char* area, const std::string& input, const std::string& output) {
  std::error_code ignored;
  if (fs::exists(input, ignored) || !fs::exists(output, ignored)) return;
  // A model's name on the Hugging Face Hub, which may be in its cache: "org/model", in no folder
  // "org".
  const fs::path folder = fs::path(input).parent_path();
  if (!folder.empty() && !fs::exists(folder, ignored)) return;
  fail(ErrorCode::kNotFound,
       "[{}] {}: no such file or folder, but the output {} exists: are the two swapped?", area,
       input, output);
}

void refuse_overwriting(const char* area, const std::string& model, const std::string& output) {
  std::error_code ignored;
  if (!fs::exists(output, ignored)) return;
  const fs::path path = find_model(model);
  if (!fs::equivalent(path, output, ignored) &&
      !fs::equivalent(path, fs::absolute(output).parent_path(), ignored))
    return;
  fail(ErrorCode::kInvalidArgument, "[{}] {}: is a file of the model: choose another name", area,
       output);
}

std::string shell_word(const std::string& word) {
  constexpr const char* kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./,:=@%+";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos && word[0] != '-')
    return word;
  // A name that begins with a hyphen would be taken for a flag.
  std::string quoted = word.starts_with('-') ? "'./" : "'";
  for (const char c : word) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return quoted + "'";
}

Written written(const fs::path& path) {
  Written sum;
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) return {1, static_cast<std::int64_t>(fs::file_size(path))};
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    if (!entry.is_regular_file()) continue;
    ++sum.files;
    sum.bytes += static_cast<std::int64_t>(entry.file_size());
  }
  return sum;
}

void suggest_run(const std::string& model) {
  spdlog::info("next: tandem run {} -p \"Once upon a time\"", shell_word(model));
}

void refuse_standard_stream(const std::string& file, const std::string& what, const char* why) {
  if (file == "-")
    fail(ErrorCode::kInvalidArgument, "[cli] {}: expected the name of a file or folder, got -: {}",
         what, why);
}

namespace {

// Ids from a JSON array, {"ids": […]}, or plain numbers separated by white space or commas.
std::vector<TokenId> parse_ids(const std::string& text, const std::string& where) {
  const std::size_t start = text.find_first_not_of(" \t\r\n");
  std::vector<TokenId> ids;
  if (start != std::string::npos && (text[start] == '[' || text[start] == '{')) {
    const Json json = parse_json(text, where);
    const Json& list = json.is_object() && json.contains("ids") ? json["ids"] : json;
    if (!list.is_array())
      fail(ErrorCode::kFormat, "[ids] {}: expected an array of token ids", where);
    for (const Json& id : list) {
      // As a double, a number with any number of digits can be compared.
      if (!id.is_number_integer() || id.get<double>() < 0 || id.get<double>() > INT32_MAX) {
        fail(ErrorCode::kFormat, "[ids] {}: entry {}: expected a token id, got {}", where,
             ids.size(), id.dump());
      }
      ids.push_back(id.get<TokenId>());
    }
    return ids;
  }
  std::size_t at = 0;
  while ((at = text.find_first_not_of(" ,\t\r\n", at)) != std::string::npos) {
    const std::size_t end = std::min(text.find_first_of(" ,\t\r\n", at), text.size());
    const std::string word = text.substr(at, end - at);
    if (word.size() > 9 || word.find_first_not_of("0123456789") != std::string::npos) {
      fail(ErrorCode::kFormat, "[ids] {}: entry {}: expected a token id, got \"{}\"", where,
           ids.size(), printable(word));
    }
    ids.push_back(std::stoi(word));
    at = end;
  }
  return ids;
}

}  // namespace

void IdsFlags::add_to(CLI::App& command) {
  auto* given = command
                    .add_option("--ids", ids,
                                "token ids such as 1,2,3, or a file with them; -: standard "
                                "input")
                    ->allow_extra_args(false);
  command.add_option("-f,--file", file, "file with ids, JSON or plain (default: standard input)")
      ->excludes(given);
}

bool IdsFlags::spelled() const {
  if (ids.size() != 1) return !ids.empty();
  // Anything but numbers or a JSON text names a file.
  const std::string& text = ids.front();
  return text != "-" && (text.find_first_not_of("0123456789,- ") == std::string::npos ||
                         text.starts_with('[') || text.starts_with('{'));
}

std::string IdsFlags::where() const {
  if (spelled()) return "--ids";
  const std::string& name = ids.empty() ? file : ids.front();
  return name.empty() || name == "-" ? "standard input" : name;
}

std::vector<TokenId> IdsFlags::read() const {
  if (!spelled()) return parse_ids(read_input(ids.empty() ? file : ids.front()), where());
  return parse_ids(fmt::format("{}", fmt::join(ids, ",")), where());
}

void ModelFlags::add_to(CLI::App& command, bool with_mode) {
  command
      .add_option("model", model,
                  "package, checkpoint folder, a checkpoint's file such as a GGUF, or ORG/MODEL in "
                  "the Hugging Face cache")
      ->required();
  if (with_mode) {
    command
        .add_option("--mode", mode,
                    "hybrid (default for a package), npu (int8 throughout, with an int8 cache "
                    "attention, too), cpu (int4 only) or float (checkpoints)")
        ->check(CLI::IsMember({"hybrid", "npu", "cpu", "float"}));
    command
        .add_option("--kv", kv,
                    "KV cache: float16, float32, or int8, for a package that has its scales "
                    "(default: int8 where it has, float32 in mode float, else float16)")
        ->check(CLI::IsMember({"float16", "float32", "int8"}));
    command
        .add_option(
            "--pipeline", pipeline,
            fmt::format("policy by which the NPU and the CPU, each with half of the threads, "
                        "work on up to {} chunks of a prompt at once, which takes as many "
                        "times the memory of one: fifo, llm.npu or lookahead; off: one "
                        "segment after the other",
                        Pipeline::kChunks))
        ->capture_default_str()
        ->check(CLI::IsMember({"off", "fifo", "llm.npu", "lookahead"}));
  }
  command.add_option("-t,--threads", threads, "threads (default: one per core)")
      ->check(CLI::Range(1, 64));
  command
      .add_option("--chunk", chunk,
                  "prompt tokens that a program reads at once (default: the package's)")
      ->check(CLI::Range(1, 4096));
  command
      .add_option("--kernels", kernels,
                  "kernel table, as tandem devices lists them (default: the fastest)")
      ->type_name("NAME");
  command.add_option("--cache", cache,
                     "folder of packed weights (default: ~/.cache/tandem, or $TANDEM_CACHE)");
  command
      .add_option("--cache-limit", cache_limit,
                  "bytes that its files may have together, such as 8GB; 0: any. The longest unused "
                  "go first (default: 32GB, or $TANDEM_CACHE_LIMIT)")
      ->envname("TANDEM_CACHE_LIMIT")
      ->transform(CLI::AsSizeValue(true));
  command.add_flag("--no-cache", no_cache, "pack weights in memory, keep no files");
  command.add_flag("--verify", verify,
                   "read and check every byte of a package, whatever was checked before");
}

LoadOptions ModelFlags::load_options() const {
  refuse_standard_stream(model, "model", "a model is mapped into memory");
  LoadOptions options;
  if (!mode.empty()) options.mode = mode_from_string(mode);
  if (!kv.empty())
    options.engine.kv = kv == "int8" ? DType::kI8 : kv == "float16" ? DType::kF16 : DType::kF32;
  if (pipeline != "off") options.engine.pipeline = policy_from_string(pipeline);
  options.engine.threads = threads;
  options.engine.chunk = chunk;
  options.engine.kernels = kernels;
  options.engine.cache_limit = cache_limit;
  options.verify = verify;
  if (no_cache) {
    options.cache = fs::path();
  } else if (!cache.empty()) {
    options.cache = cache;
  }
  return options;
}

void print_json(const OrderedJson& object) {
  // Text from files may contain invalid UTF-8: it is replaced, not an error.
  std::cout << object.dump(2, ' ', false, OrderedJson::error_handler_t::replace) << '\n'
            << std::flush;
}

std::string megabytes(std::int64_t bytes) {
  return fmt::format("{:.1f}", static_cast<double>(bytes) * 1e-6);
}

}  // namespace tandem::cli
