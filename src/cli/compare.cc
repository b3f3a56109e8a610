// tandem compare: a checkpoint and its package side by side, in float, int4 and hybrid.
#include <iostream>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/terminal_observer.h"
#include "runtime/benchmark.h"
#include "runtime/evaluate.h"

namespace tandem::cli {
namespace {

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

OrderedJson measure(const CompareFlags& flags, LocalModel& model, LocalModel* reference) {
  OrderedJson column = {{"mode", model.engine.plan().name}};
  column["texts"] = OrderedJson::array();
  for (const std::string& file : flags.texts) {
    const auto [ids, window] = read_windows(model, file, 512, flags.max_windows);
    const TextScore score = score_text(model, reference, ids, window);
    column["texts"].push_back({{"file", file},
                               {"tokens", score.tokens},
                               {"perplexity", score.perplexity},
                               {"kl", score.kl}});
  }
  if (!flags.questions.empty()) {
    const std::vector<Question> questions = read_questions(flags.questions);
    const QuestionScore score = ask_questions(model, questions);
    column["questions"] = {{"right", score.right}, {"total", score.total}};
  }
  // The bytes that each phase reads; in a hybrid package the phases share the embedding, the head
  // and the norms.
  column["prefill_weight_bytes"] = model.model->weight_file_bytes(Phase::kPrefill);
  column["decode_weight_bytes"] = model.model->weight_file_bytes(Phase::kDecode);
  BenchmarkOptions bench;
  bench.prompts = flags.prompt;
  bench.repetitions = 3;
  const BenchmarkResult speed = run_benchmark(model, bench);
  column["prefill_tokens_per_s"] = speed.prefill.front().tokens_per_s;
  column["percent_of_int8_peak"] = speed.prefill.front().percent_of_int8_peak;
  column["decode_tokens_per_s"] = speed.decode.front().tokens_per_s;
  column["percent_of_read_peak"] = speed.decode.front().percent_of_read_peak;
  column["ttft_ms"] = speed.prefill.front().ttft_ms;
  return column;
}

void print_table(const CompareFlags& flags, const OrderedJson& columns) {
  const auto row = [&](const std::string& label, const auto& cell) {
    std::cout << fmt::format("{:34}", label);
    for (const auto& column : columns) std::cout << fmt::format("{:>14}", cell(column));
    std::cout << '\n';
  };
  const auto number = [](const char* key, const char* format) {
    return [=](const OrderedJson& column) {
      return fmt::format(fmt::runtime(format), column[key].get<double>());
    };
  };
  row("", [](const OrderedJson& column) { return column["name"].get<std::string>(); });
  for (std::size_t i = 0; i < flags.texts.size(); ++i) {
    const std::string file = fs::path(flags.texts[i]).filename().string();
    row("perplexity " + file, [&](const OrderedJson& c) {
      return fmt::format("{:.4f}", c["texts"][i]["perplexity"].get<double>());
    });
    row("KL from float, nats/token", [&](const OrderedJson& c) {
      return fmt::format("{:.5f}", c["texts"][i]["kl"].get<double>());
    });
  }
  if (!flags.questions.empty()) {
    row("questions right", [](const OrderedJson& c) {
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
  row("  % of int8 peak", number("percent_of_int8_peak", "{:.1f}"));
  row("decode tokens/s", number("decode_tokens_per_s", "{:.0f}"));
  row("  % of memory reads", number("percent_of_read_peak", "{:.1f}"));
  row("time to first token, ms", number("ttft_ms", "{:.1f}"));
}

void compare(const CompareFlags& flags) {
  LoadOptions options;
  options.engine.threads = flags.threads;
  TerminalObserver observer;
  std::vector<Column> columns(3);
  columns[0] = {"float", LocalModel::open(flags.checkpoint, options, observer)};
  options.mode = Mode::kCpu;
  columns[1] = {"int4", LocalModel::open(flags.package, options, observer)};
  options.mode = Mode::kHybrid;
  columns[2] = {"hybrid", LocalModel::open(flags.package, options, observer)};
  OrderedJson report = OrderedJson::array();
  Task task(observer, "compare", static_cast<std::int64_t>(columns.size()), "modes");
  for (Column& column : columns) {
    OrderedJson measured = {{"name", column.name}};
    LocalModel* reference = &column == &columns[0] ? nullptr : columns[0].model.get();
    measured.update(measure(flags, *column.model, reference));
    report.push_back(std::move(measured));
    task.advance();
  }
  if (flags.json) {
    print_json({{"checkpoint", flags.checkpoint}, {"package", flags.package}, {"columns", report}});
  } else {
    print_table(flags, report);
  }
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
      ->capture_default_str();
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
