// Reads PEFT's keys and matches its patterns, which are Python's regular expressions.
#include "checkpoint/lora_config.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cmath>
#include <memory>

#include "base/c_handle.h"
#include "base/error.h"
#include "base/printable.h"

namespace tandem {
namespace {

constexpr std::int64_t kMaxRank = 1 << 16;
constexpr std::size_t kMaxConfigBytes = std::size_t{16} << 20;
constexpr std::size_t kMaxPatternBytes = 4096;
// Backtracking steps for one name: thousands of times what the name of a module needs.
constexpr std::uint32_t kMatchLimit = 100'000;
constexpr std::uint32_t kHeapLimitKib = 8 << 10;

using Code = CHandle<pcre2_code, pcre2_code_free>;
using MatchData = CHandle<pcre2_match_data, pcre2_match_data_free>;
using MatchContext = CHandle<pcre2_match_context, pcre2_match_context_free>;

[[noreturn]] void fail_pattern(const std::string& place, int error) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(error, text, sizeof text);
  fail(ErrorCode::kFormat, "[lora] {}: expected a regular expression for names of modules: {}",
       place, reinterpret_cast<const char*>(text));
}

// Matches all of a name, or what follows one of its dots.
Code compile_end(const std::string& pattern, const std::string& place) {
  const std::string whole = "\\A(.*\\.)?(" + pattern + ")$";
  int error = 0;
  PCRE2_SIZE offset = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(whole.data()), whole.size(),
                          PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr));
  if (code == nullptr) fail_pattern(place, error);
  return code;
}

bool matches(const pcre2_code& code, const std::string& name, const std::string& place) {
  const MatchData data(pcre2_match_data_create(1, nullptr));
  const MatchContext context(pcre2_match_context_create(nullptr));
  if (data == nullptr || context == nullptr) throw std::bad_alloc();
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  const int result = pcre2_match(&code, reinterpret_cast<PCRE2_SPTR>(name.data()), name.size(), 0,
                                 0, data.get(), context.get());
  if (result < 0 && result != PCRE2_ERROR_NOMATCH) fail_pattern(place, result);
  return result >= 0;
}

// False, 0, null, and an empty list or object.
bool is_off(const Json& value) {
  return value.is_null() || value == false || value == 0 ||
         (value.is_structured() && value.empty());
}

// What changes the meaning of the tensors, or adds what is no change of one weight.
void refuse_other_kinds(const JsonObject& config) {
  const std::string type = config.get_string("peft_type");
  if (type != "LORA")
    fail(ErrorCode::kUnsupported, "[lora] {}: peft_type: expected \"LORA\", got \"{}\"",
         config.where(), printable(type));
  for (const char* key : {"layer_replication", "target_parameters", "trainable_token_indices",
                          "use_qalora", "alora_invocation_tokens", "arrow_config", "use_bdlora",
                          "monteclora_config", "kasa_config"}) {
    const auto found = config.json().find(key);
    if (found != config.json().end() && !is_off(*found))
      fail(ErrorCode::kUnsupported, "[lora] {}: {}: is not merged here: expected null",
           config.where(), key);
  }
  const auto init = config.json().find("init_lora_weights");
  if (init == config.json().end() || !init->is_string()) return;
  const auto name = init->get<std::string>();
  for (const char* changes : {"pissa", "corda", "olora", "loftq", "lora_ga"})
    if (name.starts_with(changes))
      fail(ErrorCode::kUnsupported,
           "[lora] {}: init_lora_weights: \"{}\" changes the base model, too: expected an adapter "
           "saved with path_initial_model_for_weight_conversion",
           config.where(), printable(name));
}

bool is_rank(double value) {
  return value >= 1 && value <= static_cast<double>(kMaxRank) && value == std::floor(value);
}

}  // namespace

struct LoraConfig::Entry {
  Code code;
  // For errors.
  std::string place;
  double value;
};

LoraConfig::~LoraConfig() = default;

LoraConfig::LoraConfig(fs::path file) : file_(std::move(file)) {
  const std::string text = read_text_file(file_, kMaxConfigBytes);
  const Json json = parse_json(text, file_.string());
  const JsonObject config(json, file_.string());
  refuse_other_kinds(config);
  rank_ = static_cast<double>(config.get_int("r", 1, kMaxRank));
  alpha_ = config.get_number("lora_alpha");
  use_rslora_ = config.get_bool_or("use_rslora", false);
  use_dora_ = config.get_bool_or("use_dora", false);
  ensure_weight_tying_ = config.get_bool_or("ensure_weight_tying", false);
  const OrderedJson ordered = parse_ordered_json(text, file_.string());
  rank_pattern_ = read_pattern(ordered, "rank_pattern");
  alpha_pattern_ = read_pattern(ordered, "alpha_pattern");
  for (const Entry& entry : rank_pattern_)
    if (!is_rank(entry.value))
      fail(ErrorCode::kFormat, "[lora] {}: expected an integer in [1, {}], got {}", entry.place,
           kMaxRank, entry.value);
}

LoraConfig::Entries LoraConfig::read_pattern(const OrderedJson& config, const char* key) const {
  const auto found = config.find(key);
  Entries entries;
  if (found == config.end() || found->is_null()) return entries;
  if (!found->is_object())
    fail(ErrorCode::kFormat, "[lora] {}: {}: expected an object", file_.string(), key);
  for (const auto& [pattern, value] : found->items()) {
    std::string place = fmt::format("{}: {}: {}", file_.string(), key, printable(pattern));
    if (!value.is_number() || !std::isfinite(value.get<double>()))
      fail(ErrorCode::kFormat, "[lora] {}: expected a finite number", place);
    if (pattern.size() > kMaxPatternBytes)
      fail(ErrorCode::kFormat, "[lora] {}: expected at most {} bytes, got {}", place,
           kMaxPatternBytes, pattern.size());
    entries.push_back({compile_end(pattern, place), std::move(place), value.get<double>()});
  }
  return entries;
}

double LoraConfig::find(const Entries& entries, const std::string& module, double fallback) const {
  for (const Entry& entry : entries)
    if (matches(*entry.code, module, entry.place)) return entry.value;
  return fallback;
}

std::int64_t LoraConfig::rank(const std::string& module) const {
  return static_cast<std::int64_t>(find(rank_pattern_, module, rank_));
}

double LoraConfig::scale(const std::string& module) const {
  const auto rank = static_cast<double>(this->rank(module));
  return find(alpha_pattern_, module, alpha_) / (use_rslora_ ? std::sqrt(rank) : rank);
}

}  // namespace tandem
