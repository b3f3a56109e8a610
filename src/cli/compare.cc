// tandem compare: a checkpoint and its package side by side, in float, int4 and hybrid.
#include <iostream>

#include "base/cpu_features.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/terminal_observer.h"
#include "package/package.h"
#include "runtime/benchmark.h"
#include "runtime/evaluate.h"

namespace tandem::cli {
namespace {

// Tokens in a window of the texts.
constexpr std::int64_t kWindow = 512;

struct CompareFlags {
  std::string checkpoint;
  std::string package;
  std::vector<std::string> texts;
  std::string questions;
  std::vector<std::int64_t> prompt = {128};
  std::int64_t max_windows = 0;
  int threads = 0;
  bool json = false;
};

struct Column {
  std::string name;
  std::unique_ptr<LocalModel> model;
};

// A text of the comparison, cut once for all columns.
struct Text {
  std::string file;
  TextWindows windows;
};

// What a column knows: perplexities, KL divergences, questions right. After Ctrl-C without what was
// not scored whole, since it would stand beside figures of other windows.
OrderedJson score(const std::vector<Text>& texts, const std::vector<Question>& questions,
                  LocalModel& model, LocalModel* reference, Observer& observer) {
  const EvaluationProgress progress = [&](std::int64_t, std::int64_t) {
    observer.advance(1);
    return !observer.cancelled();
  };
  OrderedJson column = {{"mode", model.engine.plan().name}};
  column["texts"] = OrderedJson::array();
  for (const auto& [file, windows] : texts) {
    if (observer.cancelled()) return column;
    const TextScore score = score_text(model, reference, windows.ids, windows.window, progress);
    if (score.windows < windows.count()) return column;
    column["texts"].push_back({{"file", file},
                               {"tokens", score.tokens},
                               {"perplexity", score.perplexity},
                               {"perplexity_error", score.perplexity_error},
                               {"kl", score.kl}});
  }
  if (!questions.empty() && !observer.cancelled()) {
    const QuestionScore score = ask_questions(model, questions, progress);
    if (score.total < static_cast<std::int64_t>(questions.size())) return column;
    column["questions"] = {{"right", score.right}, {"total", score.total}};
  }
  return column;
}

void add_speeds(OrderedJson& column, const BenchmarkResult& speed) {
  const PrefillSpeed& prefill = speed.prefill.front();
  const DecodeSpeed& decode = speed.decode.front();
  column["prefill_tokens_per_s"] = prefill.tokens_per_s;
  column["prefill_tokens_per_s_deviation"] = prefill.tokens_per_s_deviation;
  column["percent_of_int8_peak"] = prefill.percent_of_int8_peak;
  column["decode_tokens_per_s"] = decode.tokens_per_s;
  column["decode_tokens_per_s_deviation"] = decode.tokens_per_s_deviation;
  column["percent_of_read_peak"] = decode.percent_of_read_peak;
  column["ttft_ms"] = prefill.ttft_ms;
}

// Adds the speeds to the columns, in the models' order; nothing if not one round was finished.
void measure_speeds(const CompareFlags& flags, const std::vector<LocalModel*>& models,
                    OrderedJson& columns, Observer& observer) {
  BenchmarkOptions bench;
  bench.prompts = flags.prompt;
  bench.repetitions = 3;
  try {
    const std::vector<BenchmarkResult> speeds = run_benchmarks(models, bench, observer);
    for (std::size_t i = 0; i < models.size(); ++i) add_speeds(columns[i], speeds[i]);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCancelled) throw;
  }
}

void print_table(const CompareFlags& flags, const OrderedJson& columns) {
  // An empty cell is one that an interrupt left without a figure.
  const auto row = [&](const std::string& label, const auto& cell) {
    std::cout << fmt::format("{:34}", label);
    for (const auto& column : columns) {
      const std::string text = cell(column);
      std::cout << fmt::format("{:>14}", text.empty() ? "-" : text);
    }
    std::cout << '\n';
  };
  const auto number = [](const char* key, const char* format) {
    return [=](const OrderedJson& column) {
      return column.contains(key) ? fmt::format(fmt::runtime(format), column[key].get<double>())
                                  : std::string();
    };
  };
  row("", [](const OrderedJson& column) { return column["name"].get<std::string>(); });
  for (std::size_t i = 0; i < flags.texts.size(); ++i) {
    const std::string file = fs::path(flags.texts[i]).filename().string();
    const auto of_text = [&](const char* key, const char* format) {
      return [=](const OrderedJson& c) {
        return i < c["texts"].size() ? number(key, format)(c["texts"][i]) : std::string();
      };
    };
    row("perplexity " + file, of_text("perplexity", "{:.4f}"));
    row("  ± standard error", of_text("perplexity_error", "{:.4f}"));
    row(fmt::format("KL from {}, nats/token", columns[0]["name"].get<std::string>()),
        of_text("kl", "{:.5f}"));
  }
  if (!flags.questions.empty()) {
    row("questions right", [](const OrderedJson& c) {
      if (!c.contains("questions")) return std::string();
      return fmt::format("{}/{}", c["questions"]["right"].get<std::int64_t>(),
                         c["questions"]["total"].get<std::int64_t>());
    });
  }
  row("MB of weights, prefill", [](const OrderedJson& c) {
    return megabytes(c["prefill_weight_bytes"].get<std::int64_t>());
  });
  row("MB of weights, decode",
      [](const OrderedJson& c) { return megabytes(c["decode_weight_bytes"].get<std::int64_t>()); });
  row(fmt::format("prefill tokens/s ({} tokens)", flags.prompt.front()),
      number("prefill_tokens_per_s", "{:.0f}"));
  row("  ± standard deviation of runs", number("prefill_tokens_per_s_deviation", "{:.0f}"));
  row("  % of int8 peak", number("percent_of_int8_peak", "{:.1f}"));
  row("decode tokens/s", number("decode_tokens_per_s", "{:.0f}"));
  row("  ± standard deviation of runs", number("decode_tokens_per_s_deviation", "{:.0f}"));
  row("  % of memory reads", number("percent_of_read_peak", "{:.1f}"));
  row("time to first token, ms", number("ttft_ms", "{:.1f}"));
}

std::vector<Text> read_texts(const CompareFlags& flags, LocalModel& model, Observer& observer) {
  std::vector<Text> texts;
  for (const std::string& file : flags.texts) {
    texts.push_back(
        {file, read_windows(model, plain_text_path("compare", file), kWindow, flags.max_windows)});
    if (const std::int64_t window = texts.back().windows.window; window < kWindow) {
      observer.warn(
          fmt::format("[compare] {}: windows of {} tokens, the model's context, instead of {}",
                      file, window, kWindow));
    }
  }
  return texts;
}

void compare(const CompareFlags& flags) {
  catch_interrupt(kInterruptGrace);
  refuse_standard_stream(flags.checkpoint, "checkpoint", "a model is mapped into memory");
  refuse_standard_stream(flags.package, "package", "a package is a folder");
  if (Package::is_package(flags.checkpoint) && !Package::is_package(flags.package))
    fail(ErrorCode::kInvalidArgument,
         "[compare] {}: expected a checkpoint first, then its package: are the two swapped?",
         flags.checkpoint);
  LoadOptions options;
  options.engine.threads = flags.threads;
  TerminalObserver observer;
  std::vector<Column> columns(3);
  columns[0].model = LocalModel::open(flags.checkpoint, options, observer);
  columns[0].name = mode_text(*columns[0].model) == "float mode" ? "float" : "checkpoint";
  options.mode = Mode::kCpu;
  columns[1] = {"int4", LocalModel::open(flags.package, options, observer)};
  options.mode = Mode::kHybrid;
  columns[2] = {"hybrid", LocalModel::open(flags.package, options, observer)};

  if (columns[0].model->info().vocabulary != columns[1].model->info().vocabulary)
    fail(ErrorCode::kInvalidArgument,
         "[compare] {}: has a vocabulary of {} tokens, {} of {}: expected a package of the same "
         "model",
         flags.package, columns[1].model->info().vocabulary, flags.checkpoint,
         columns[0].model->info().vocabulary);
  const std::vector<Text> texts = read_texts(flags, *columns[0].model, observer);
  std::vector<Question> questions;
  if (!flags.questions.empty()) questions = read_questions(input_path(flags.questions));
  auto steps = static_cast<std::int64_t>(questions.size());
  for (const auto& [file, windows] : texts) steps += windows.count();
  OrderedJson report = OrderedJson::array();
  {
    Task task(observer, "compare", steps * static_cast<std::int64_t>(columns.size()),
              questions.empty() ? "windows" : "windows and questions");
    for (Column& column : columns) {
      OrderedJson measured = {{"name", column.name}};
      LocalModel* reference = &column == &columns[0] ? nullptr : columns[0].model.get();
      measured.update(score(texts, questions, *column.model, reference, observer));
      // The bytes that each phase reads; in a hybrid package the phases share the embedding, the
      // head and the norms.
      const auto& model = *column.model->model;
      measured["prefill_weight_bytes"] = model.weight_file_bytes(Phase::kPrefill);
      measured["decode_weight_bytes"] = model.weight_file_bytes(Phase::kDecode);
      report.push_back(std::move(measured));
    }
  }
  std::vector<LocalModel*> models;
  for (const Column& column : columns) models.push_back(column.model.get());
  if (!observer.cancelled()) measure_speeds(flags, models, report, observer);

  const std::string cpu = detect_cpu_features().model;
  if (flags.json) {
    print_json({{"checkpoint", flags.checkpoint},
                {"package", flags.package},
                {"cpu", cpu},
                {"columns", report}});
  } else {
    std::cout << fmt::format("{}, {} threads\n", cpu, models[0]->engine.pool().threads());
    print_table(flags, report);
  }
  if (observer.cancelled())
    fail(ErrorCode::kCancelled,
         "[compare] interrupted: the figures are those of what was measured");
}

}  // namespace

void add_compare(CLI::App& app) {
  auto* command = app.add_subcommand(
      "compare", "one table: a checkpoint in float, its package in int4 and in hybrid mode");
  auto flags = std::make_shared<CompareFlags>();
  command->add_option("checkpoint", flags->checkpoint, "folder of the float checkpoint")
      ->required();
  command->add_option("package", flags->package, "folder of its package")->required();
  command->add_option("--text", flags->texts, "text to score; may be repeated")
      ->required()
      ->allow_extra_args(false);
  command->add_option("--questions", flags->questions, "JSON array of {question, answer}");
  command->add_option("-p,--prompt", flags->prompt, "prompt length of the speeds, tokens")
      ->expected(1)
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 24));
  command
      ->add_option("--max-windows", flags->max_windows,
                   "score no more windows of 512 tokens of each text; 0: all")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 31));
  command->add_option("-t,--threads", flags->threads, "threads (default: one per core)")
      ->check(CLI::Range(1, 64));
  command->add_flag("--json", flags->json, "one JSON object on standard output");
  command->callback([flags] { compare(*flags); });
}

}  // namespace tandem::cli
