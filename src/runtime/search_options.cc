// Checks the ranges of search options.
#include "runtime/search_options.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <string>
#include <string_view>

#include "base/error.h"

namespace tandem {

void validate(const SearchOptions& options) {
  const auto require = [](bool ok, const char* name, const char* expected, auto got) {
    if (!ok)
      fail(ErrorCode::kInvalidArgument, "[search] {}: expected {}, got {}", name, expected, got);
  };
  require(options.temperature > 0 && std::isfinite(options.temperature), "temperature",
          "0 (greedy) or a number above", options.temperature);
  require(options.top_k >= -1, "top_k", "-1 or more", options.top_k);
  require(options.top_p >= 0 && options.top_p <= 1, "top_p", "a number in [0, 1]", options.top_p);
  require(options.repetition_penalty > 0 && std::isfinite(options.repetition_penalty),
          "repetition_penalty", "a number above 0", options.repetition_penalty);
  require(options.min_length >= 0, "min_length", "0 or more", options.min_length);
  require(options.max_length >= 0, "max_length", "0 or more", options.max_length);
  require(options.min_p >= 0 && options.min_p <= 1, "min_p", "a number in [0, 1]", options.min_p);
  require(options.no_repeat_ngram_size >= 0, "no_repeat_ngram_size", "0 or more",
          options.no_repeat_ngram_size);
  require(std::abs(options.presence_penalty) <= 2, "presence_penalty", "a number in [-2, 2]",
          options.presence_penalty);
  require(std::abs(options.frequency_penalty) <= 2, "frequency_penalty", "a number in [-2, 2]",
          options.frequency_penalty);
  for (const auto& [token, bias] : options.logit_bias) {
    if (!(std::abs(bias) <= 100) && bias != -std::numeric_limits<float>::infinity())
      fail(ErrorCode::kInvalidArgument,
           "[search] logit_bias: token {}: expected a number in [-100, 100] or -infinity, got {}",
           token, bias);
  }
  const std::int64_t likeliest = options.logprobs.value_or(0);
  require(likeliest >= 0 && likeliest <= 20, "logprobs", "a number of tokens in [0, 20]",
          likeliest);
  require(options.seed >= -1, "seed", "-1 or more", options.seed);
  require(options.lookup >= 0 && options.lookup <= kMaxLookup, "lookup",
          "a number of tokens in [0, 64]", options.lookup);
}

SearchOptions with_settings(SearchOptions options, const SearchSettings& settings) {
  const bool draws =
      settings.temperature || settings.top_k || settings.top_p || settings.min_p || settings.seed;
  options.do_sample = settings.do_sample.value_or(draws || options.do_sample);
  options.top_k = settings.top_k.value_or(options.top_k);
  options.top_p = settings.top_p.value_or(options.top_p);
  options.min_p = settings.min_p.value_or(options.min_p);
  options.seed = settings.seed.value_or(options.seed);
  options.repetition_penalty = settings.repetition_penalty.value_or(options.repetition_penalty);
  options.no_repeat_ngram_size =
      settings.no_repeat_ngram_size.value_or(options.no_repeat_ngram_size);
  options.presence_penalty = settings.presence_penalty.value_or(options.presence_penalty);
  options.frequency_penalty = settings.frequency_penalty.value_or(options.frequency_penalty);
  if (settings.temperature == 0.0F) {
    options.do_sample = false;
  } else {
    options.temperature = settings.temperature.value_or(options.temperature);
  }
  validate(options);
  return options;
}

OrderedJson to_json(const SearchOptions& options) {
  // 0.9, not the double that is nearest to the float.
  const auto number = [](float value) { return std::stod(fmt::format("{}", value)); };
  OrderedJson json = {{"do_sample", options.do_sample}};
  if (options.do_sample) {
    json["temperature"] = number(options.temperature);
    json["top_k"] = options.top_k;
    json["top_p"] = number(options.top_p);
    json["min_p"] = number(options.min_p);
  }
  json["repetition_penalty"] = number(options.repetition_penalty);
  json["no_repeat_ngram_size"] = options.no_repeat_ngram_size;
  // No model's authors recommend these.
  if (options.presence_penalty != 0) json["presence_penalty"] = number(options.presence_penalty);
  if (options.frequency_penalty != 0) json["frequency_penalty"] = number(options.frequency_penalty);
  for (const auto& [token, bias] : options.logit_bias)
    json["logit_bias"][std::to_string(token)] = bias;
  return json;
}

namespace {

// Warns of settings that change what transformers writes and that are not used here.
void warn_of_unused(const JsonObject& generation_config, Observer& observer) {
  const std::pair<const char*, Json> defaults[] = {{"num_beams", 1},
                                                   {"typical_p", 1.0},
                                                   {"min_new_tokens", 0},
                                                   {"stop_strings", Json::array()},
                                                   {"suppress_tokens", Json::array()},
                                                   {"begin_suppress_tokens", Json::array()},
                                                   {"bad_words_ids", Json::array()},
                                                   {"sequence_bias", Json::object()},
                                                   {"forced_bos_token_id", nullptr},
                                                   {"forced_eos_token_id", nullptr}};
  std::string unused;
  for (const auto& [key, value] : defaults)
    if (generation_config.has(key) && generation_config.at(key) != value)
      unused += fmt::format("{}{}", unused.empty() ? "" : ", ", key);
  if (!unused.empty())
    observer.warn(fmt::format("[search] {}: not used here: {}", generation_config.where(), unused));
}

}  // namespace

SearchOptions recommended_search(const JsonObject& generation_config, Observer& observer) {
  constexpr std::int64_t kMost = std::int64_t{1} << 40;
  warn_of_unused(generation_config, observer);
  SearchOptions options;
  options.do_sample = generation_config.get_bool_or("do_sample", options.do_sample);
  // Takes a value if the options are valid with it.
  const auto take = [&](auto SearchOptions::* member, double value, bool used) {
    SearchOptions with = options;
    with.*member = static_cast<std::decay_t<decltype(with.*member)>>(value);
    try {
      validate(with);
      options = with;
    } catch (const Error& error) {
      // "[search] top_p: expected ..."
      const std::string_view reason = error.what();
      if (used)
        observer.warn(fmt::format("[search] {}: {}; it is not used", generation_config.where(),
                                  reason.substr(reason.find("] ") + 2)));
    }
  };
  const auto number = [&](const char* key, auto SearchOptions::* member, bool used = true) {
    if (generation_config.has(key)) take(member, generation_config.get_number_or(key, 0), used);
  };
  const auto integer = [&](const char* key, auto SearchOptions::* member, bool used = true) {
    if (generation_config.has(key))
      take(member, static_cast<double>(generation_config.get_int_or(key, 0, -kMost, kMost)), used);
  };
  const bool draws = options.do_sample;
  if (generation_config.get_number_or("temperature", 1) == 0) {
    options.do_sample = false;
  } else {
    number("temperature", &SearchOptions::temperature, draws);
  }
  integer("top_k", &SearchOptions::top_k, draws);
  number("top_p", &SearchOptions::top_p, draws);
  number("min_p", &SearchOptions::min_p, draws);
  number("repetition_penalty", &SearchOptions::repetition_penalty);
  integer("no_repeat_ngram_size", &SearchOptions::no_repeat_ngram_size);
  return options;
}

}  // namespace tandem
