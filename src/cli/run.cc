// tandem run: continues a prompt, printing text as it is generated.
#include "cli/run.h"

#include <chrono>
#include <iostream>

#include "base/error.h"
#include "cli/log.h"
#include "cli/terminal_observer.h"
#include "devices/placement.h"
#include "runtime/complete.h"

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

void run(const RunFlags& flags) {
  const auto start = Clock::now();
  catch_interrupt(kInterruptGrace);
  LoadOptions load = flags.model.load_options();
  load.chat_template = input_path(flags.chat_template);
  TerminalObserver observer;
  const auto model = LocalModel::open(flags.model.model, load, observer);
  if (flags.placement) print_placement(model->engine);
  if (flags.prompt.empty() && flags.prompt_file.empty()) {
    if (flags.prompt_given) fail(ErrorCode::kInvalidArgument, "[run] the prompt is empty");
    if (flags.chat) {
      run_chat(*model, flags);
      return;
    }
    if (flags.placement) return;
    fail(ErrorCode::kInvalidArgument,
         "[run] expected a prompt with -p or -f, or --chat for a conversation");
  }
  const std::string prompt =
      flags.prompt_file.empty() ? flags.prompt : read_input(flags.prompt_file);
  const std::vector<TokenId> ids =
      flags.chat ? model->text.encode_chat(prompt, flags.system, flags.chat_options())
                 : model->text.tokenizer().encode(prompt);

  if (ids.empty()) fail(ErrorCode::kInvalidArgument, "[run] the prompt is empty");

  const auto loaded = Clock::now();
  const Completion completion =
      complete(*model, ids, flags.search, flags.tokens, [&](std::string_view text) {
        if (!flags.json) std::cout << text << std::flush;
        return !interrupted();
      });

  if (flags.json) {
    print_json({{"prompt_tokens", completion.prompt_tokens},
                {"tokens", completion.tokens},
                {"text", completion.text},
                {"ids", completion.ids},
                {"ended", to_string(completion.finish_reason)},
                {"mode", model->engine.plan().name},
                {"load_ms", std::chrono::duration<double, std::milli>(loaded - start).count()},
                {"ttft_ms", completion.ttft_ms},
                {"prefill_tokens_per_s",
                 static_cast<double>(completion.prompt_tokens) / completion.ttft_ms * 1e3},
                {"decode_tokens_per_s", completion.decode_tokens_per_s}});
  } else {
    std::cout << std::endl;
    spdlog::info(
        "{}, {} threads: {} prompt tokens, first token after {:.1f} ms; {} tokens written, "
        "{:.1f} tokens/s",
        mode_text(*model), model->engine.pool().threads(), completion.prompt_tokens,
        completion.ttft_ms, completion.tokens, completion.decode_tokens_per_s);
  }
  if (interrupted())
    fail(ErrorCode::kCancelled, "[run] interrupted after {} tokens", completion.tokens);
}

}  // namespace

void add_run(CLI::App& app) {
  auto* command =
      app.add_subcommand("run", "continue a prompt with a package or a float checkpoint");
  auto flags = std::make_shared<RunFlags>();
  flags->model.add_to(*command);
  SearchOptions& search = flags->search;
  auto* prompt = command->add_option("-p,--prompt", flags->prompt, "text to continue");
  command->add_option("-f,--file", flags->prompt_file, "file with the text to continue")
      ->excludes(prompt);
  command->add_option("-n,--tokens", flags->tokens, "tokens to write, at most")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 31));
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
  command->add_flag(
      "--sample", flags->sample,
      "draw from the distribution (default: greedy, unless a setting below is given)");
  auto* temperature =
      command->add_option("--temperature", search.temperature, "softmax temperature")
          ->capture_default_str();
  auto* top_k = command->add_option("--top-k", search.top_k, "draw from the k likeliest; 0: all")
                    ->capture_default_str();
  auto* top_p =
      command->add_option("--top-p", search.top_p, "draw from the likeliest that sum to p")
          ->capture_default_str();
  command
      ->add_option("--repetition-penalty", search.repetition_penalty,
                   "above 1 discourages repetition")
      ->capture_default_str();
  auto* seed =
      command->add_option("--seed", search.seed, "same seed, same text; -1: a new one each time")
          ->capture_default_str();
  command->add_option("--max-length", search.max_length,
                      "tokens of prompt and answer together (default: the context; no limit "
                      "with dynamic rope scaling)");
  command->add_option("--min-length", search.min_length,
                      "tokens of prompt and answer before the answer may end");
  command->add_flag("--ignore-eos", flags->ignore_eos, "go on after an end token");
  command->add_flag("--placement", flags->placement,
                    "print which device runs which operator, and why, on standard error");
  command->add_flag("--json", flags->json,
                    "one JSON object on standard output at the end, or after each turn");
  command->callback([=] {
    flags->search.do_sample =
        flags->sample || temperature->count() + top_k->count() + top_p->count() + seed->count() > 0;
    flags->prompt_given = prompt->count() > 0;
    if (flags->ignore_eos) flags->search.eos = {-1};
    run(*flags);
  });
}

}  // namespace tandem::cli
