// tandem eval: perplexity, KL divergence and correctly answered questions of one model in one mode.
#include <iostream>
#include <optional>

#include "base/cpu_features.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/doctor_text.h"
#include "cli/examine.h"
#include "cli/html_report.h"
#include "cli/log.h"
#include "cli/terminal_observer.h"
#include "runtime/evaluate.h"

namespace tandem::cli {
namespace {

struct EvalFlags {
  ModelFlags model;
  std::vector<std::string> texts;
  std::string questions;
  std::string against;
  std::int64_t window = 512;
  std::int64_t max_windows = 0;
  bool handover = false;
  ExamineFlags examine;
  std::string report;
  bool json = false;
};

// A callback that advances the observer's task, and ends the evaluation after Ctrl-C.
EvaluationProgress advance(Observer& observer) {
  return [&observer](std::int64_t, std::int64_t) {
    observer.advance(1);
    return !observer.cancelled();
  };
}

void add_comparison(const TextScore& score, OrderedJson& result) {
  result["reference_perplexity"] = score.reference_perplexity;
  result["log_perplexity_ratio"] = score.log_ratio;
  result["log_perplexity_ratio_error"] = score.log_ratio_error;
  result["kl"] = score.kl;
  result["kl_error"] = score.kl_error;
  result["kl_p99"] = score.kl_p99;
  result["kl_max"] = score.kl_max;
  result["percent_same_top"] = 100 * score.agreement;
}

OrderedJson evaluate_text(const EvalFlags& flags, LocalModel& model, LocalModel* reference,
                          const std::string& file, const fs::path& path, Observer& observer) {
  const TextWindows cut = read_windows(model, path, flags.window, flags.max_windows);
  const auto& [ids, window] = cut;
  if (window < flags.window) {
    observer.warn(fmt::format("[eval] {}: windows of {} tokens, the model's context, instead of {}",
                              file, window, flags.window));
  }
  const std::int64_t windows = cut.count();
  OrderedJson result = {{"file", file}};
  {
    Task task(observer, fs::path(file).filename().string(), windows, "windows");
    const TextScore score = score_text(model, reference, ids, window, advance(observer));
    result["tokens"] = score.tokens;
    result["windows"] = score.windows;
    result["perplexity"] = score.perplexity;
    result["perplexity_error"] = score.perplexity_error;
    if (reference != nullptr) add_comparison(score, result);
  }
  if (flags.handover && !observer.cancelled()) {
    Task task(observer, fs::path(file).filename().string() + " (hand-over)", windows, "windows");
    const TextScore score = score_handover(model, ids, window, advance(observer));
    result["tokens_handover"] = score.tokens;
    result["perplexity_handover"] = score.perplexity;
    result["perplexity_handover_error"] = score.perplexity_error;
  }
  return result;
}

OrderedJson evaluate_questions(LocalModel& model, LocalModel* reference,
                               const std::vector<Question>& questions, Observer& observer) {
  const auto count = static_cast<std::int64_t>(questions.size());
  const auto ask = [&](LocalModel& asked, const char* task) {
    Task progress(observer, task, count, "questions");
    return ask_questions(asked, questions, advance(observer));
  };
  const QuestionScore score = ask(model, "questions");
  OrderedJson result = {{"right", score.right}, {"total", score.total}};
  // After Ctrl-C the two would not have answered the same questions.
  if (reference == nullptr || observer.cancelled()) return result;
  const QuestionScore expected = ask(*reference, "questions (reference)");
  if (expected.total == score.total) result["reference_right"] = expected.right;
  return result;
}

// The second line of a text: the reference, and what sets the two apart.
void print_comparison(const OrderedJson& text, const std::string& reference) {
  const auto figure = [&](const char* key) { return text[key].get<double>(); };
  std::cout << fmt::format(
      "  {}: perplexity {:.4f}, ln ratio {:+.5f} ± {:.5f}; same top token {:.2f} %; KL of 99 % of "
      "tokens at most {:.4f}, of all {:.4f}",
      reference, figure("reference_perplexity"), figure("log_perplexity_ratio"),
      figure("log_perplexity_ratio_error"), figure("percent_same_top"), figure("kl_p99"),
      figure("kl_max"));
}

void print_questions(const OrderedJson& questions) {
  const auto total = questions["total"].get<std::int64_t>();
  const auto share = [&](const char* key) {
    const auto right = questions[key].get<std::int64_t>();
    return fmt::format(
        "{} of {} right ({:.1f} %)", right, total,
        total == 0 ? 0.0 : 100.0 * static_cast<double>(right) / static_cast<double>(total));
  };
  std::cout << "questions: " << share("right");
  if (questions.contains("reference_right"))
    std::cout << ", of the reference " << share("reference_right");
  std::cout << '\n';
}

// The windows of all texts, for measuring module by module.
CalibrationWindows all_windows(const EvalFlags& flags, LocalModel& model,
                               const std::vector<fs::path>& texts) {
  CalibrationWindows all;
  for (const fs::path& text : texts) {
    const TextWindows cut = read_windows(model, text, flags.window, flags.max_windows);
    all.window = cut.window;
    all.ids.insert(all.ids.end(), cut.ids.begin(), cut.ids.begin() + cut.count() * cut.window);
  }
  return all;
}

std::string names_of(const std::vector<std::string>& files) {
  std::string names;
  for (const std::string& file : files)
    names += (names.empty() ? "" : ", ") + fs::path(file).filename().string();
  return names;
}

void print_text(const OrderedJson& report) {
  for (const auto& text : report["texts"]) {
    std::cout << fmt::format("{}: {} tokens, perplexity {:.4f} ± {:.4f}",
                             text["file"].get<std::string>(), text["tokens"].get<std::int64_t>(),
                             text["perplexity"].get<double>(),
                             text["perplexity_error"].get<double>());
    if (text.contains("perplexity_handover")) {
      std::cout << fmt::format(", hand-over {:.4f} ± {:.4f}",
                               text["perplexity_handover"].get<double>(),
                               text["perplexity_handover_error"].get<double>());
    }
    if (text.contains("kl")) {
      std::cout << fmt::format(", KL {:.5f} ± {:.5f} nats/token\n", text["kl"].get<double>(),
                               text["kl_error"].get<double>());
      print_comparison(text, report["against"].get<std::string>());
    }
    std::cout << '\n';
  }
  if (report.contains("questions")) print_questions(report["questions"]);
}

// Nothing after Ctrl-C.
std::optional<GateReport> examine(Examiner& examiner, const CalibrationWindows& windows,
                                  const EvalFlags& flags, const Observer& observer) {
  try {
    GateReport result = examiner.run(windows);
    result.text = names_of(flags.texts);
    return result;
  } catch (const Error&) {
    if (!observer.cancelled()) throw;
    return std::nullopt;
  }
}

HtmlReport html_report(const OrderedJson& report, const std::string& how,
                       const GateReport* layers) {
  const auto model = report["model"].get<std::string>();
  HtmlReport page{"Quality of " + model, {{"model", model}}, &report, layers};
  if (report.contains("against"))
    page.facts.emplace_back("compared with", report["against"].get<std::string>());
  page.facts.emplace_back("measured in", how);
  return page;
}

void eval(const EvalFlags& flags) {
  catch_interrupt(kInterruptGrace);
  flags.examine.require_given();
  // All that may be wrong with files is said before the first of them is scored.
  std::vector<fs::path> paths;
  for (const std::string& file : flags.texts) paths.push_back(plain_text_path("eval", file));
  std::vector<Question> questions;
  if (!flags.questions.empty()) questions = read_questions(input_path(flags.questions));
  TerminalObserver observer;
  auto model = LocalModel::open(flags.model.model, flags.model.load_options(), observer);
  std::unique_ptr<LocalModel> reference;
  if (!flags.against.empty()) {
    LoadOptions options = flags.model.load_options();
    options.mode.reset();
    options.engine.kv.reset();
    options.engine.chunk = 0;
    reference = LocalModel::open(flags.against, options, observer);
  }
  std::optional<ReportFile> page;
  if (!flags.report.empty())
    page.emplace("eval", flags.report, std::vector{flags.model.model, flags.against});
  std::optional<Examiner> examiner;
  if (flags.examine.given()) examiner.emplace(flags.examine, flags.model, flags.against, observer);
  OrderedJson report = {{"model", flags.model.model}, {"mode", model->engine.plan().name}};
  report["kv"] = kv_text(*model);
  report["cpu"] = detect_cpu_features().model;
  if (reference != nullptr) report["against"] = flags.against;
  report["texts"] = OrderedJson::array();
  for (std::size_t i = 0; i < flags.texts.size() && !observer.cancelled(); ++i)
    report["texts"].push_back(
        evaluate_text(flags, *model, reference.get(), flags.texts[i], paths[i], observer));
  if (!questions.empty() && !observer.cancelled())
    report["questions"] = evaluate_questions(*model, reference.get(), questions, observer);
  const std::string how =
      fmt::format("{}, {} threads, {}", mode_text(*model), model->engine.pool().threads(),
                  report["cpu"].get<std::string>());
  std::optional<GateReport> layers;
  if (examiner && !observer.cancelled()) {
    const CalibrationWindows windows = all_windows(flags, *model, paths);
    // Their weights and caches are not needed any more.
    model.reset();
    reference.reset();
    layers = examine(*examiner, windows, flags, observer);
  }
  if (layers) add_examination(*layers, flags.examine, report);
  if (page) page->write(html_report(report, how, layers ? &*layers : nullptr));
  if (flags.json) {
    print_json(report);
  } else {
    print_text(report);
    if (layers)
      std::cout << "every module alone, the others float:\n"
                << table_of(layers->slots, 0) << text_of(*layers);
    spdlog::info("{}", how);
  }
  if (observer.cancelled())
    fail(ErrorCode::kCancelled, "[eval] interrupted: the figures are those of what was scored");
  if (!examiner || !layers || flags.examine.fix.empty()) return;
  if (!is_written(*layers, flags.examine)) throw NotGoodEnough(failure_of(*layers, "eval"));
  spdlog::info("{}", examiner->next_command());
}

}  // namespace

void add_eval(CLI::App& app) {
  auto* command = app.add_subcommand(
      "eval", "measure what a model knows: perplexity, KL divergence, questions right");
  auto flags = std::make_shared<EvalFlags>();
  flags->model.add_to(*command);
  command
      ->add_option("--text", flags->texts,
                   "text to score, every token on the mode's prefill device; may be repeated")
      ->allow_extra_args(false);
  command->add_option("--questions", flags->questions,
                      "JSON array of {question, answer}, asked through the chat template");
  command->add_option(
      "--against", flags->against,
      "model, usually the float checkpoint: adds what sets the two apart: KL divergence in nats "
      "per token, ln of the ratio of perplexities, same likeliest token, questions right");
  command->add_flag(
      "--handover", flags->handover,
      "also read half of each window and score the rest token by token on the decode device");
  command->add_option("--window", flags->window, "tokens in a window (at most the context)")
      ->capture_default_str()
      ->check(CLI::Range(2, 1 << 20));
  command
      ->add_option("--max-windows", flags->max_windows,
                   "score no more windows of each text; 0: all")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 31));
  flags->examine.add_to(*command);
  command
      ->add_option("--report", flags->report,
                   "also write the figures to this HTML file, with plots of what --by-layer or "
                   "--fix measured")
      ->type_name("FILE");
  command->add_flag("--json", flags->json, "one JSON object on standard output");
  command->callback([flags] {
    if (flags->texts.empty() && (flags->questions.empty() || flags->examine.given()))
      throw CLI::RequiredError(flags->examine.given() ? "eval: --text"
                                                      : "eval: --text or --questions");
    eval(*flags);
  });
}

}  // namespace tandem::cli
