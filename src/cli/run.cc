// tandem run: continues a prompt, printing text as it is generated.
#include "cli/run.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <iostream>
#include <limits>

#include "base/error.h"
#include "base/staged_file.h"
#include "cli/log.h"
#include "cli/terminal_observer.h"
#include "devices/placement.h"
#include "execute/trace.h"

namespace tandem::cli {
namespace {

using Clock = std::chrono::steady_clock;

void print_placement(const Engine& engine) {
  for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) {
    Placement placement = engine.placement(phase);
    placement.spec.phase = phase;
    std::cerr << to_table(engine.graph(phase), placement);
  }
}

[[noreturn]] void fail_without_prompt() {
  fail(ErrorCode::kInvalidArgument,
       "[run] expected a prompt with -p or -f, or --chat for a conversation");
}

// True if something was piped or redirected to the program.
bool has_piped_input() {
  struct stat status{};
  return ::fstat(STDIN_FILENO, &status) == 0 &&
         (S_ISFIFO(status.st_mode) || S_ISREG(status.st_mode) || S_ISSOCK(status.st_mode));
}

// The prompt. Editors end a file with a newline that is no part of its text.
std::string read_prompt(const RunFlags& flags) {
  if (flags.prompt_given) return flags.prompt;
  std::string prompt = read_plain_text("run", flags.prompt_file);
  if (!prompt.ends_with('\n')) return prompt;
  prompt.pop_back();
  if (prompt.ends_with('\r')) prompt.pop_back();
  return prompt;
}

// A user's turn as mllm has it for models whose files hold no chat template.
std::vector<TokenId> encode_for_mllm(LocalModel& model, const std::string& prompt) {
  const std::string before =
      "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n";
  const TextSpan user{before.size(), before.size() + prompt.size()};
  EncodeOptions options;
  options.plain = {&user, 1};
  return model.text.tokenizer().encode(before + prompt + "<|im_end|>\n<|im_start|>assistant\n",
                                       options);
}

std::vector<TokenId> encode_prompt(LocalModel& model, const RunFlags& flags) {
  const std::string prompt = read_prompt(flags);
  const bool asked_for = flags.prompt_given || !flags.prompt_file.empty();
  if (prompt.empty() && !asked_for) fail_without_prompt();
  if (!flags.qnn_model.empty() && !flags.raw && !flags.chat) {
    if (model.text.has_chat_template())
      return model.text.encode_chat(prompt, flags.system, flags.chat_options());
    if (model.text.tokenizer().token_to_id("<|im_start|>")) return encode_for_mllm(model, prompt);
  }
  if (flags.chat) return model.text.encode_chat(prompt, flags.system, flags.chat_options());
  return model.text.encode_prompt(prompt);
}

[[noreturn]] void fail_bias(const std::string& text) {
  fail(ErrorCode::kInvalidArgument,
       "[run] --logit-bias: expected a token's id and what to add to its score, such as 15043+1.5, "
       "15043-100 or {{\"15043\": -100}}, got \"{}\"",
       text);
}

TokenId parse_token(std::string_view digits, const std::string& text) {
  TokenId token = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), token);
  if (error != std::errc() || end != digits.data() + digits.size()) fail_bias(text);
  return token;
}

// Adds to `biases` what one --logit-bias says: in llama.cpp's form, ID+BIAS or ID-BIAS, or in the
// OpenAI API's, an object.
void parse_bias(const std::string& text, std::map<TokenId, float>& biases) {
  if (text.starts_with('{')) {
    const Json json = parse_json(text, "--logit-bias");
    for (const auto& [token, bias] : json.items()) {
      if (!bias.is_number()) fail_bias(text);
      biases[parse_token(token, text)] = bias.get<float>();
    }
    return;
  }
  const std::size_t sign = text.find_first_of("+-", 1);
  if (sign == std::string::npos) fail_bias(text);
  const std::string_view number =
      std::string_view(text).substr(text[sign] == '+' ? sign + 1 : sign);
  float bias = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), bias);
  if (error != std::errc() || end != number.data() + number.size()) fail_bias(text);
  biases[parse_token(std::string_view(text).substr(0, sign), text)] = bias;
}

// Throws unless the prompt leaves room, and the answer may end where it must.
void check_lengths(std::int64_t prompt, const SearchOptions& search, const RunFlags& flags,
                   const ModelInfo& info) {
  const bool limited = search.max_length > 0;
  const std::int64_t most = limited           ? search.max_length
                            : search.eviction ? kLongestSequence
                                              : info.longest_sequence();
  if (prompt > most || (prompt == most && flags.tokens > 0))
    fail(ErrorCode::kInvalidArgument, "[run] the prompt has {} tokens, {} is {}", prompt,
         limited ? "--max-length" : "the context", most);
  const std::int64_t longest = std::min(most - prompt, flags.tokens) + prompt;
  if (search.min_length > longest)
    fail(ErrorCode::kInvalidArgument,
         "[run] --min-length: expected at most {}, which is {} of prompt and {} of answer, got {}",
         longest, prompt, longest - prompt, search.min_length);
}

// A file for what is run, begun before the long-running work, so that one that can't be written is
// reported then.
struct TraceFile {
  explicit TraceFile(const RunFlags& flags)
      : file([&] {
          refuse_standard_stream(flags.trace, "--trace", "a trace is a file");
          refuse_overwriting("run", flags.model.model, flags.trace);
          return fs::path(flags.trace);
        }()) {}
  void write() {
    const std::string json = to_chrome_json(recorder.trace());
    file.write_at(0, std::as_bytes(std::span(json)));
    file.commit();
  }

  TraceRecorder recorder;
  StagedFile file;
};

void run(const RunFlags& flags) {
  const auto start = Clock::now();
  catch_interrupt(kInterruptGrace);
  LoadOptions load = flags.model.load_options();
  load.chat_template = input_path(flags.chat_template);
  load.prefill_model = flags.qnn_model;
  load.vocabulary = {flags.vocabulary, flags.merges};
  std::optional<TraceFile> trace;
  if (!flags.trace.empty()) load.engine.trace = &trace.emplace(flags).recorder;
  TerminalObserver observer;
  const auto model = LocalModel::open(flags.model.model, load, observer);
  if (flags.placement) print_placement(model->engine);
  if (!flags.prompt_given && flags.prompt_file.empty()) {
    if (flags.chat) {
      run_chat(*model, flags);
      if (trace) trace->write();
      return;
    }
    if (flags.placement) return;
    if (!has_piped_input()) fail_without_prompt();
  }
  const std::vector<TokenId> ids = encode_prompt(*model, flags);
  const SearchOptions search = flags.search(*model->model);
  check_lengths(static_cast<std::int64_t>(ids.size()), search, flags, model->info());

  const bool as_mllm = !flags.qnn_model.empty() && !flags.json;
  if (as_mllm) std::cout << "[Q] " << model->text.tokenizer().decode(ids) << "\n[A] " << std::flush;
  const auto loaded = Clock::now();
  const Completion completion =
      complete(*model, ids, search, flags.tokens, [&](std::string_view text) {
        if (!flags.json) std::cout << text << std::flush;
        return !interrupted();
      });
  if (trace) trace->write();

  if (flags.json) {
    OrderedJson json = {
        {"prompt_tokens", completion.prompt_tokens},
        {"tokens", completion.tokens},
        {"dropped_tokens", completion.dropped_tokens},
        {"decode_runs", completion.lookup.runs},
        {"drafted_tokens", completion.lookup.drafted},
        {"accepted_tokens", completion.lookup.accepted},
        {"text", completion.text},
        {"ids", completion.ids},
        {"ended", to_string(completion.finish_reason)},
        {"mode", model->engine.plan().name},
        {"kv", kv_text(*model)},
        {"load_ms", std::chrono::duration<double, std::milli>(loaded - start).count()},
        {"ttft_ms", completion.ttft_ms},
        {"prefill_tokens_per_s",
         static_cast<double>(completion.prompt_tokens) / completion.ttft_ms * 1e3},
        {"decode_tokens_per_s", completion.decode_tokens_per_s}};
    if (search.logprobs) json["logprobs"] = logprobs_to_json(completion.logprobs);
    print_json(json);
  } else {
    std::cout << '\n' << std::flush;
    print_logprobs(completion.logprobs);
    spdlog::info(
        "{}, {} threads: {} prompt tokens, first token after {:.1f} ms; {} tokens written, "
        "{:.1f} tokens/s{}",
        mode_text(*model), model->engine.pool().threads(), completion.prompt_tokens,
        completion.ttft_ms, completion.tokens, completion.decode_tokens_per_s, notes(completion));
    // Last, so that looking for a template delays no token.
    if (!flags.chat && !flags.raw && !as_mllm && model->text.has_chat_template())
      spdlog::info(
          "the text was continued as it is; --chat has this model answer it (--raw: no such hint)");
  }
  if (completion.finish_reason == FinishReason::kLength && completion.tokens < flags.tokens &&
      flags.tokens != std::numeric_limits<std::int64_t>::max())
    spdlog::warn("[run] the {} is full: the answer was cut short after {} of {} tokens",
                 flags.max_length > 0 ? "--max-length" : "context", completion.tokens,
                 flags.tokens);
  if (interrupted())
    fail(ErrorCode::kCancelled, "[run] interrupted after {} tokens", completion.tokens);
}

}  // namespace

std::string notes(const Completion& completion) {
  std::string notes;
  if (completion.lookup.drafted > 0)
    notes += fmt::format("; {} of {} drafted tokens accepted, {} runs", completion.lookup.accepted,
                         completion.lookup.drafted, completion.lookup.runs);
  if (completion.dropped_tokens > 0)
    notes += fmt::format("; {} old tokens dropped", completion.dropped_tokens);
  return notes;
}

OrderedJson logprobs_to_json(const std::vector<ChosenToken>& tokens) {
  const auto entry = [](const TokenLogprob& token) {
    return OrderedJson{{"id", token.id}, {"token", token.text}, {"logprob", token.logprob}};
  };
  OrderedJson list = OrderedJson::array();
  for (const ChosenToken& token : tokens) {
    list.push_back(entry(token));
    list.back()["top_logprobs"] = OrderedJson::array();
    for (const TokenLogprob& other : token.likeliest)
      list.back()["top_logprobs"].push_back(entry(other));
  }
  return list;
}

void print_logprobs(const std::vector<ChosenToken>& tokens) {
  const auto quoted = [](const std::string& text) {
    return OrderedJson(text).dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
  };
  for (const ChosenToken& token : tokens) {
    std::string line = fmt::format("{:8.4f} {:<16}", token.logprob, quoted(token.text));
    for (const TokenLogprob& other : token.likeliest)
      line += fmt::format(" {:8.4f} {}", other.logprob, quoted(other.text));
    std::cerr << line << '\n';
  }
}

SearchOptions RunFlags::search(const LoadedModel& loaded) const {
  SearchSettings asked = settings;
  if (sample) asked.do_sample = true;
  if (greedy) asked.do_sample = false;
  TerminalObserver observer;
  SearchOptions options = with_settings(loaded.recommended_search(observer), asked);
  options.min_length = min_length;
  options.lookup = lookup;
  if (endless) {
    options.eviction = eviction;
    options.eviction->context = max_length;
  } else {
    options.max_length = max_length;
  }
  for (const std::string& text : logit_bias) parse_bias(text, options.logit_bias);
  options.logprobs = logprobs;
  options.stop = stop;
  validate(options);
  if (ignore_eos) options.eos = {-1};
  spdlog::debug("search: {}", to_json(options).dump());
  return options;
}

void add_run(CLI::App& app) {
  auto* command =
      app.add_subcommand("run", "continue a prompt with a package or a float checkpoint");
  auto flags = std::make_shared<RunFlags>();
  flags->model.add_to(*command);
  command->add_option("--qnn-model", flags->qnn_model,
                      "mllm's pair of models: the int8 one, which reads the prompt as a user's "
                      "turn; the other one, "
                      "--decoding-model, writes the answer");
  auto* vocabulary = command->add_option("--vocab", flags->vocabulary,
                                         "tokenizer file (default: the one beside the model)");
  command->add_option("--merge", flags->merges, "its merges (default: merges.txt beside it)")
      ->needs(vocabulary);
  auto* prompt = command->add_option("-p,--prompt", flags->prompt, "text to continue");
  command->add_option("-f,--file", flags->prompt_file, "file with the text to continue")
      ->excludes(prompt);
  command
      ->add_option("-n,--tokens", flags->tokens,
                   "tokens to write, at most; -1: up to an end token or the end of the context")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{-1}, std::int64_t{1} << 31));
  command->add_flag("--chat", flags->chat,
                    "send the prompt as a user's turn through the chat template; without a prompt, "
                    "hold a conversation, one line of standard input a turn");
  command->add_option("--system", flags->system, "system line of the chat")->needs("--chat");
  command
      ->add_option("--chat-template", flags->chat_template,
                   "file with the template (default: the model's)")
      ->needs("--chat");
  command
      ->add_flag("--parse-special", flags->parse_special,
                 "special tokens spelled out in the chat's text become those tokens")
      ->needs("--chat");
  command->add_flag("--raw", flags->raw, "continue the text, though the model has a chat template")
      ->excludes("--chat");
  // Unless given, a setting is the one that the model's authors recommend.
  auto* sample = command->add_flag(
      "--sample", flags->sample,
      "draw from the distribution (default: as generation_config.json says, else greedy, unless a "
      "setting of the draw is given)");
  command->add_flag("--greedy", flags->greedy, "choose the likeliest, whatever the model's default")
      ->excludes(sample);
  command->add_option("--temperature", flags->settings.temperature,
                      "softmax temperature; 0: greedy (default: the model's, else 1)");
  command->add_option("--top-k", flags->settings.top_k,
                      "draw from the k likeliest; 0: all (default: the model's, else 50)");
  command->add_option("--top-p", flags->settings.top_p,
                      "draw from the likeliest that sum to p (default: the model's, else 1)");
  command->add_option("--min-p", flags->settings.min_p,
                      "draw from those at least p times as likely as the likeliest (default: the "
                      "model's, else 0)");
  command->add_option("--repetition-penalty", flags->settings.repetition_penalty,
                      "above 1 discourages repetition (default: the model's, else 1)");
  command->add_option("--no-repeat-ngram-size", flags->settings.no_repeat_ngram_size,
                      "write no run of so many tokens twice; 0: no limit (default: the model's, "
                      "else 0)");
  command->add_option("--presence-penalty", flags->settings.presence_penalty,
                      "subtracted from the score of every token that the answer holds, in [-2, 2] "
                      "(default: 0)");
  command->add_option("--frequency-penalty", flags->settings.frequency_penalty,
                      "the same, times how often the answer holds it (default: 0)");
  command
      ->add_option("--logit-bias", flags->logit_bias,
                   "ID+BIAS or ID-BIAS adds to a token's score, -inf rules it out; may be "
                   "repeated, or a JSON object")
      ->allow_extra_args(false);
  command
      ->add_option("--logprobs", flags->logprobs,
                   "report the log-probability of each token, beside those of the N likeliest "
                   "(0 to 20)")
      ->check(CLI::Range(0, 20));
  command
      ->add_option("--seed", flags->settings.seed,
                   "same seed, same text; -1: a new one each time (the default)")
      ->check(integer_in_range<std::int64_t>);
  command
      ->add_option("--stop", flags->stop,
                   "text that ends the answer and is not printed; may be repeated")
      ->allow_extra_args(false);
  command->add_option("--max-length", flags->max_length,
                      "tokens of prompt and answer together (default: the context; no limit "
                      "with dynamic rope scaling); with --endless those that are kept");
  command
      ->add_option("--lookup", flags->lookup,
                   "draft up to so many tokens from what followed the last ones before, and check "
                   "them in one run, which changes nothing but the time; 0: none")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{0}, kMaxLookup));
  auto* endless =
      command->add_flag("--endless", flags->endless,
                        "when the context is full, drop old tokens and go on, instead of ending");
  command
      ->add_option("--sink", flags->eviction.sinks,
                   "first tokens that are never dropped, on which attention rests")
      ->capture_default_str()
      ->needs(endless);
  command
      ->add_option("--evict", flags->eviction.count,
                   "tokens to drop at once, behind those (default: an eighth of the context)")
      ->needs(endless);
  command->add_option("--min-length", flags->min_length,
                      "tokens of prompt and answer before the answer may end");
  command->add_flag("--ignore-eos", flags->ignore_eos, "go on after an end token");
  command->add_flag("--placement", flags->placement,
                    "print which device runs which operator, and why, on standard error");
  command->add_option("--trace", flags->trace,
                      "write what ran when on which device to this file, for tandem report, "
                      "chrome://tracing and Perfetto");
  command->add_flag("--json", flags->json,
                    "one JSON object on standard output at the end, or after each turn");
  command->callback([=] {
    flags->prompt_given = prompt->count() > 0;
    if (flags->tokens < 0) flags->tokens = std::numeric_limits<std::int64_t>::max();
    run(*flags);
  });
}

}  // namespace tandem::cli
