// Plain text as a whole, JSON line by line.
#include "quantize/calibration_text.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "base/zstd_file.h"
#include "checkpoint/checkpoint.h"
#include "quantize/built_in_text.h"
#include "quantize/calibration.h"
#include "text/chat_template.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem {
namespace {

// Of valid UTF-8.
std::string first_characters(std::string text, std::size_t count) {
  std::size_t seen = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const bool begins = (static_cast<unsigned char>(text[at]) & 0xC0) != 0x80;
    if (begins && seen++ == count) text.resize(at);
  }
  return text;
}

class Documents {
 public:
  // `longest`: characters of a line's text that are read, at most.
  Documents(fs::path text_path, std::string where, std::size_t longest = std::string::npos)
      : text_path_(std::move(text_path)),
        where_(std::move(where)),
        longest_(longest),
        tokenizer_(Tokenizer::open(text_path_)) {}

  std::vector<TokenId> of_text(std::string_view text) const { return tokenizer_.encode(text); }

  // Calls visit(ids) with each document until it returns false.
  template <typename Visit>
  void visit_lines(std::string_view text, Visit visit) {
    for (int line = 1; !text.empty(); ++line) {
      const std::size_t end = std::min(text.find('\n'), text.size());
      const std::string_view one = text.substr(0, end);
      text.remove_prefix(std::min(end + 1, text.size()));
      if (one.find_first_not_of(" \t\r") == std::string_view::npos) continue;
      if (!visit(of_line(one, fmt::format("{}:{}", where_, line)))) return;
    }
  }

 private:
  std::vector<TokenId> of_line(std::string_view line, const std::string& place) {
    const OrderedJson json = parse_ordered_json(line, place);
    const auto has = [&](const char* key, auto test) {
      return json.is_object() && json.contains(key) && test(json[key]);
    };
    if (has("text", [](const OrderedJson& text) { return text.is_string(); }))
      return of_text(first_characters(json["text"].get<std::string>(), longest_));
    if (!has("messages", [](const OrderedJson& list) { return list.is_array(); }))
      fail(ErrorCode::kFormat,
           "[quantize] {}: expected an object with a string at \"text\" or a list at \"messages\"",
           place);
    if (!template_) {
      template_ = ChatTemplate::open(text_path_);
      context_ = read_special_tokens(text_path_);
      for (const char* key : {"tools", "documents"}) context_[key] = nullptr;
      context_["add_generation_prompt"] = false;
    }
    OrderedJson context = context_;
    context["messages"] = json["messages"];
    const RenderedChat chat = template_->render_marked(context);
    return tokenizer_.encode(chat.text, {.add_special_tokens = false, .plain = chat.from_chat});
  }

  fs::path text_path_;
  std::string where_;
  std::size_t longest_;
  Tokenizer tokenizer_;
  // Opened for the first conversation.
  std::optional<ChatTemplate> template_;
  OrderedJson context_;
};

std::string text_of(const fs::path& file) {
  if (file.empty()) return std::string(built_in_text());
  const bool is_packed = has_json_lines(file) && file.extension() == ".zst";
  return is_packed ? read_zstd_file(file) : read_text_file(file);
}

std::vector<TokenId> tokenize(const std::string& text, const fs::path& file,
                              const fs::path& text_path) {
  Documents documents(text_path, file.string());
  if (!has_json_lines(file)) return documents.of_text(text);
  std::vector<TokenId> ids;
  documents.visit_lines(text, [&](const std::vector<TokenId>& more) {
    ids.insert(ids.end(), more.begin(), more.end());
    return true;
  });
  return ids;
}

// Moves the windows behind the first `samples`, or the last eighth, out of `windows`.
CalibrationWindows split_off(CalibrationWindows& windows, std::int64_t samples,
                             std::int64_t held_out) {
  const std::int64_t count = windows.tokens() / windows.window;
  if (count < 2)
    fail(ErrorCode::kInvalidArgument,
         "[quantize] the text has {} tokens, expected two windows of {}: one to calibrate on, one "
         "to measure on",
         windows.tokens(), windows.window);
  const std::int64_t least = std::min(held_out, std::max<std::int64_t>(1, count / 8));
  const std::int64_t kept = std::min(samples, count - least);
  const auto end = windows.ids.begin() + kept * windows.window;
  CalibrationWindows rest{{end, windows.ids.end()}, windows.window};
  windows.ids.erase(end, windows.ids.end());
  return rest;
}

}  // namespace

bool has_json_lines(const fs::path& file) {
  const std::string name = file.filename().string();
  return name.ends_with(".jsonl") || name.ends_with(".jsonl.zst");
}

std::vector<std::int32_t> tokenize_text(const fs::path& file, const Checkpoint& checkpoint) {
  return tokenize(text_of(file), file, checkpoint.text_path());
}

std::vector<std::int32_t> tokenize_text(const fs::path& file, const fs::path& tokenizer) {
  return tokenize(text_of(file), file, tokenizer);
}

std::vector<std::vector<std::int32_t>> tokenize_documents(const fs::path& file,
                                                          const fs::path& tokenizer,
                                                          std::size_t longest, std::int64_t count) {
  const std::string text = text_of(file);
  std::vector<std::vector<std::int32_t>> documents;
  Documents(tokenizer, file.string(), longest).visit_lines(text, [&](std::vector<TokenId> ids) {
    if (!ids.empty()) documents.push_back(std::move(ids));
    return std::ssize(documents) < count;
  });
  return documents;
}

CalibrationText read_calibration_text(const fs::path& file, const Checkpoint& checkpoint,
                                      const ModelInfo& info, const CalibrationSettings& settings,
                                      Observer& observer, std::int64_t held_out) {
  const bool is_built_in = file.empty();
  if (is_built_in)
    observer.warn(
        "[quantize] calibrating on a built-in text, the documentation of this program: text of the "
        "kind that the model will read loses less (--calib FILE)");
  const std::string text = text_of(file);
  CalibrationText result;
  result.windows =
      cut_windows(tokenize(text, file, checkpoint.text_path()),
                  std::min(settings.window, info.longest_sequence()), settings.samples + held_out);
  if (held_out > 0) result.held_out = split_off(result.windows, settings.samples, held_out);
  const std::int64_t tokens = result.windows.tokens(), window = result.windows.window;
  // Statistics change little with the last windows of a text, and much with its first.
  const bool is_short = tokens < settings.samples * settings.window / 2;
  if (!is_built_in && (window < settings.window || is_short)) {
    observer.warn(fmt::format(
        "[quantize] {}: has text for {} windows of {} tokens ({} tokens) to calibrate on, fewer "
        "than the recipe's {} of {} ({})",
        file.string(), tokens / window, window, tokens, settings.samples, settings.window,
        settings.samples * settings.window));
  }
  result.source = {{"file", is_built_in ? "built-in" : file.filename().string()},
                   {"hash", content_hash(text)},
                   {"windows", tokens / window},
                   {"window_tokens", window}};
  return result;
}

}  // namespace tandem
