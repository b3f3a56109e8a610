// Finds the line of each key by watching how far the parser has read at each event.
#include "base/json_lines.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/json_cursor.h"

namespace tandem {
namespace {

// Turns the parser's events into paths.
class PathRecorder {
 public:
  explicit PathRecorder(std::string_view text)
      : text_(text), counted_(text.data()), read_(counted_) {}

  std::map<std::string, int> record() {
    const char* begin = text_.data();
    Json::sax_parse(JsonCursor(begin, &read_), JsonCursor(begin + text_.size(), &read_), this);
    return std::move(lines_);
  }

  bool null() { return value(); }
  bool boolean(bool) { return value(); }
  bool number_integer(std::int64_t) { return value(); }
  bool number_unsigned(std::uint64_t) { return value(); }
  bool number_float(double, const std::string&) { return value(); }
  bool string(std::string&) { return value(); }
  bool binary(Json::binary_t&) { return value(); }
  bool start_object(std::size_t) { return open(); }
  bool end_object() { return close(); }
  bool start_array(std::size_t) {
    open();
    levels_.back().is_array = true;
    return true;
  }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    const std::string& parent = levels_.back().path;
    key_ = parent.empty() ? name : parent + "." + name;
    lines_[key_] = line();
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) {
    return false;
  }

 private:
  struct Level {
    std::string path;
    bool is_array = false;
    std::int64_t items = 0;
  };

  // The line that the parser has reached.
  int line() {
    line_ += static_cast<int>(std::count(counted_, read_, '\n'));
    counted_ = read_;
    return line_;
  }

  // The path of the next value.
  std::string next_path() {
    if (levels_.empty()) return {};
    Level& level = levels_.back();
    if (!level.is_array) return key_;
    const std::string path = fmt::format("{}[{}]", level.path, level.items++);
    lines_[path] = line();
    return path;
  }
  bool value() {
    next_path();
    return true;
  }
  bool open() {
    levels_.push_back({next_path()});
    return true;
  }
  bool close() {
    levels_.pop_back();
    return true;
  }

  std::string_view text_;
  // Lines are counted up to here.
  const char* counted_;
  const char* read_;
  int line_ = 1;
  std::string key_;
  std::vector<Level> levels_;
  std::map<std::string, int> lines_;
};

}  // namespace

std::map<std::string, int> json_lines(std::string_view text) { return PathRecorder(text).record(); }

}  // namespace tandem
