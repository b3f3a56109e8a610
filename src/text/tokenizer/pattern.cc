// Implements Pattern with PCRE2 (8 bit, JIT-compiled if the system allows it).
#include "text/tokenizer/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <ctime>

#include "base/c_handle.h"
#include "base/error.h"
#include "text/tokenizer/regex_dialect.h"
#include "text/tokenizer/tokenizer_json.h"

namespace tandem {
namespace {

using CompileContext = CHandle<pcre2_compile_context, pcre2_compile_context_free>;
using MatchContext = CHandle<pcre2_match_context, pcre2_match_context_free>;
using MatchData = CHandle<pcre2_match_data, pcre2_match_data_free>;
using Code = CHandle<pcre2_code, pcre2_code_free>;

constexpr std::size_t kMaxExpressionBytes = 64 << 10;
// Backtracking steps from one position in the text; measured to take 0.05 s. The expressions of
// GPT-2, Qwen2 and Llama 3 stay below it on a megabyte of one kind of character.
constexpr std::uint32_t kMatchLimit = 4'000'000;
constexpr std::uint32_t kHeapLimitKib = 64 << 10;
// Minimum CPU time for one search: some hundred times what expressions in use need, so that only an
// expression with quadratic time can reach it.
constexpr double kSecondsAtLeast = 1.0;
constexpr double kSecondsPerByte = 4e-6;
constexpr int kMatchesPerClockRead = 16;

std::string pcre2_message(int code) {
  PCRE2_UCHAR buffer[256];
  if (pcre2_get_error_message(code, buffer, sizeof buffer) < 0) return "unknown error";
  return reinterpret_cast<const char*>(buffer);
}

double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace

struct Pattern::Regex {
  Code code;
  std::string place;
};

Pattern::Pattern() = default;
Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;

Pattern Pattern::literal(std::string text) {
  // The empty string matches between all characters; the regex engine handles that.
  if (text.empty()) return regex("", "literal");
  Pattern pattern;
  pattern.literal_ = std::move(text);
  return pattern;
}

Pattern Pattern::regex(std::string_view expression, std::string place) {
  if (expression.size() > kMaxExpressionBytes) {
    fail(ErrorCode::kFormat,
         "[tokenizer] {}: expected a regular expression of at most {} bytes, got {}", place,
         kMaxExpressionBytes, expression.size());
  }
  const std::string translated = to_pcre2(expression, place);
  const CompileContext context(pcre2_compile_context_create(nullptr));
  if (context == nullptr) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  Code code(pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C | PCRE2_USE_OFFSET_LIMIT,
      &error, &offset, context.get()));
  if (code == nullptr) {
    fail(ErrorCode::kFormat, "[tokenizer] {}: malformed regular expression: {} near \"{}\"", place,
         pcre2_message(error),
         replace_invalid_utf8(
             std::string_view(translated).substr(offset > 10 ? offset - 10 : 0, 20)));
  }
  // Without executable memory the interpreter is used, which is slower but equivalent.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  Pattern pattern;
  pattern.regex_ = std::make_unique<Regex>(Regex{std::move(code), std::move(place)});
  return pattern;
}

Pattern Pattern::from_json(const JsonObject& component, std::string_view key) {
  const Json& json = component.at(key);
  const std::string place = key_place(component, key);
  if (json.is_object() && json.size() == 1) {
    if (const auto it = json.find("Regex"); it != json.end()) {
      const std::string inner = place + ".Regex";
      return regex(expect_string(*it, inner), inner);
    }
    if (const auto it = json.find("String"); it != json.end()) {
      return literal(std::string(expect_string(*it, place + ".String")));
    }
  }
  fail(ErrorCode::kFormat, "[tokenizer] {}: expected {{\"Regex\": …}} or {{\"String\": …}}, got {}",
       place, describe(json));
}

struct PatternSearch::State {
  MatchContext context;
  MatchData data;
  // Grows with the number of bytes searched.
  double allowed_seconds = kSecondsAtLeast;
  double started = thread_seconds();
  int until_clock_read = kMatchesPerClockRead;

  void check_clock(const std::string& place) {
    until_clock_read = kMatchesPerClockRead;
    if (thread_seconds() - started > allowed_seconds) {
      fail(ErrorCode::kUnsupported,
           "[tokenizer] {}: this regular expression takes too long on this text", place);
    }
  }

  // Finds the next match at or after `start`: returns true, with its position in `found`.
  bool next(const Pattern::Regex& regex, std::string_view text, std::size_t start,
            TextSpan& found) {
    // In the expressions of tokenizers a match begins at `start` or soon after. Otherwise the
    // search proceeds in growing steps and checks the clock in between, because a search over a
    // whole text can't be interrupted.
    std::size_t step = 1;
    while (true) {
      const std::size_t limit = std::min(text.size(), start + step - 1);
      pcre2_set_offset_limit(context.get(), limit);
      int result = pcre2_match(regex.code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()),
                               text.size(), start, PCRE2_NO_UTF_CHECK, data.get(), context.get());
      if (result == PCRE2_ERROR_JIT_STACKLIMIT) {
        // The interpreter keeps its stack on the heap, limited by kHeapLimitKib.
        result =
            pcre2_match(regex.code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                        start, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data.get(), context.get());
      }
      if (result >= 0) {
        const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(data.get());
        found = {ends[0], ends[1]};
        if (found.begin < start || found.end < found.begin) {
          fail(ErrorCode::kUnsupported,
               "[tokenizer] {}: this regular expression moves a match before its search",
               regex.place);
        }
        if (--until_clock_read == 0) check_clock(regex.place);
        return true;
      }
      if (result != PCRE2_ERROR_NOMATCH) {
        fail(ErrorCode::kUnsupported,
             "[tokenizer] {}: this regular expression fails on this text: {}", regex.place,
             pcre2_message(result));
      }
      if (limit >= text.size()) return false;
      check_clock(regex.place);
      start = limit + 1;
      while (start < text.size() && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80)
        ++start;
      step = std::min<std::size_t>(step * 2, 4096);
    }
  }
};

PatternSearch::PatternSearch(const Pattern& pattern) : pattern_(&pattern) {
  if (pattern.regex_ == nullptr) return;
  state_ = std::make_unique<State>();
  state_->context.reset(pcre2_match_context_create(nullptr));
  state_->data.reset(pcre2_match_data_create(1, nullptr));
  if (state_->context == nullptr || state_->data == nullptr) throw std::bad_alloc();
  pcre2_set_match_limit(state_->context.get(), kMatchLimit);
  pcre2_set_heap_limit(state_->context.get(), kHeapLimitKib);
}

PatternSearch::~PatternSearch() = default;
PatternSearch::PatternSearch(PatternSearch&&) noexcept = default;

void PatternSearch::find_all(std::string_view text, std::vector<TextSpan>& matches) {
  if (pattern_->regex_ == nullptr) {
    const std::string& wanted = pattern_->literal_;
    for (std::size_t at = text.find(wanted); at != std::string_view::npos;
         at = text.find(wanted, at + wanted.size())) {
      matches.push_back({at, at + wanted.size()});
    }
    return;
  }
  state_->allowed_seconds += kSecondsPerByte * static_cast<double>(text.size());
  constexpr std::size_t kNone = static_cast<std::size_t>(-1);
  std::size_t start = 0;
  std::size_t last_end = kNone;
  TextSpan found;
  while (start <= text.size() && state_->next(*pattern_->regex_, text, start, found)) {
    if (found.size() == 0 && found.end == last_end) {
      // The reference skips one character and searches again.
      if (start >= text.size()) return;
      next_character(text, start);
      continue;
    }
    matches.push_back(found);
    start = found.end;
    last_end = found.end;
  }
}

void replace_all(const Pattern& pattern, std::string_view content, std::string& text) {
  std::vector<TextSpan> matches;
  PatternSearch(pattern).find_all(text, matches);
  if (matches.empty()) return;
  std::string out;
  out.reserve(text.size());
  std::size_t done = 0;
  for (const TextSpan& match : matches) {
    out.append(text, done, match.begin - done);
    out.append(content);
    done = match.end;
  }
  out.append(text, done);
  text = std::move(out);
}

}  // namespace tandem
