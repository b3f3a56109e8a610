// Finds the line of each key by watching how far the parser has read at each event.
#include "base/json_lines.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <utility>
#include <vector>

#include "base/json.h"

namespace tandem {
namespace {

// Feeds the parser and counts the lines it has read.
class LineCounter {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  LineCounter(const char* at, int* line) : at_(at), line_(line) {}
  reference operator*() const { return *at_; }
  LineCounter& operator++() {
    if (*at_ == '\n') ++*line_;
    ++at_;
    return *this;
  }
  LineCounter operator++(int) {
    const LineCounter before = *this;
    ++*this;
    return before;
  }
  bool operator==(const LineCounter& other) const { return at_ == other.at_; }

 private:
  const char* at_;
  int* line_;
};

// Turns the parser's events into paths.
class PathRecorder {
 public:
  explicit PathRecorder(const int& line) : line_(line) {}

  std::map<std::string, int> take() { return std::move(lines_); }

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
    lines_[key_] = line_;
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

  // The path of the next value.
  std::string next_path() {
    if (levels_.empty()) return {};
    Level& level = levels_.back();
    if (!level.is_array) return key_;
    const std::string path = fmt::format("{}[{}]", level.path, level.items++);
    lines_[path] = line_;
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

  const int& line_;
  std::string key_;
  std::vector<Level> levels_;
  std::map<std::string, int> lines_;
};

}  // namespace

std::map<std::string, int> json_lines(std::string_view text) {
  int line = 1;
  PathRecorder recorder(line);
  Json::sax_parse(LineCounter(text.data(), &line), LineCounter(text.data() + text.size(), &line),
                  &recorder);
  return recorder.take();
}

}  // namespace tandem
