// tandem build: a folder for ONNX Runtime GenAI, with the flags of its model builder.
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <iostream>
#include <map>

#include "base/error.h"
#include "base/hub_cache.h"
#include "base/merge_sort.h"
#include "base/printable.h"
#include "cli/commands.h"
#include "cli/nearest.h"
#include "cli/terminal_observer.h"
#include "package/genai_folder.h"
#include "package/output_folder.h"
#include "quantize/onnx_rounding.h"
#include "runtime/loaded_model.h"

namespace tandem::cli {
namespace {

struct BuildFlags {
  std::string input;
  std::string output;
  std::string precision;
  std::string provider = "cpu";
  std::string phase = "decode";
  std::string dialect = std::string(onnx_dialects().front().version);
  std::vector<std::string> extra_options;
  int threads = 0;
  bool json = false;
};

struct BuildSettings {
  OnnxOptions onnx;
  // Where the precision is one of integers.
  std::optional<OnnxRoundingSettings> rounding;
};

// The options that the model builder has under two names, the old and the new.
const std::map<std::string, std::string>& option_names() {
  static const std::map<std::string, std::string> names = {
      {"accuracy_level", "accuracy_level"},
      {"block_size", "block_size"},
      {"is_symmetric", "is_symmetric"},
      {"nodes_to_exclude", "nodes_to_exclude"},
      {"op_types_to_quantize", "op_types_to_quantize"},
      {"algo_config", "algo_config"},
      {"int4_accuracy_level", "accuracy_level"},
      {"int4_block_size", "block_size"},
      {"int4_is_symmetric", "is_symmetric"},
      {"int4_nodes_to_exclude", "nodes_to_exclude"},
      {"int4_op_types_to_quantize", "op_types_to_quantize"},
      {"int4_algo_config", "algo_config"},
      {"filename", "filename"},
      {"fuse_qkv", "fuse_qkv"},
      {"shared_embeddings", "shared_embeddings"}};
  return names;
}

[[noreturn]] void reject(const std::string& key, const std::string& expected,
                         const std::string& value) {
  fail(ErrorCode::kInvalidArgument, "[build] --extra_options: {}: expected {}, got \"{}\"", key,
       expected, printable(value));
}

std::int64_t read_number(const std::string& key, const std::string& value, std::int64_t least,
                         std::int64_t most) {
  std::int64_t number = 0;
  if (!CLI::detail::lexical_cast(value, number) || number < least || number > most)
    reject(key, fmt::format("a number from {} to {}", least, most), value);
  return number;
}

bool read_bool(const std::string& key, std::string value) {
  for (char& c : value) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (value == "true" || value == "1") return true;
  if (value == "false" || value == "0") return false;
  reject(key, "true or false", value);
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (const std::string& part : CLI::detail::split(text, separator))
    if (!part.empty()) parts.push_back(part);
  return parts;
}

void read_option(const std::string& name, const std::string& value, BuildSettings& settings) {
  const auto known = option_names().find(name);
  if (known == option_names().end()) {
    std::vector<std::string> names;
    for (const auto& [spelling, meaning] : option_names()) names.push_back(spelling);
    fail(ErrorCode::kInvalidArgument, "[build] --extra_options: expected one of {}, got \"{}\"{}",
         fmt::join(names, ", "), printable(name), did_you_mean(name, names));
  }
  const std::string& key = known->second;
  if (key == "filename") {
    if (!value.ends_with(".onnx") || fs::path(value).filename() != value)
      reject(name, "a name without folders that ends in .onnx", value);
    settings.onnx.filename = value;
  } else if (key == "fuse_qkv") {
    settings.onnx.provider.packs_qkv &= read_bool(name, value);
  } else if (key == "shared_embeddings") {
    settings.onnx.shared_embeddings = read_bool(name, value);
  } else if (!settings.rounding) {
    fail(ErrorCode::kInvalidArgument, "[build] --extra_options: {}: expected with -p int4 or int8",
         name);
  } else if (key == "accuracy_level") {
    settings.onnx.provider.accuracy_level = read_number(name, value, 0, 4);
  } else if (key == "block_size") {
    settings.rounding->block = read_number(name, value, 16, 256);
  } else if (key == "is_symmetric") {
    settings.rounding->is_symmetric = read_bool(name, value);
  } else if (key == "nodes_to_exclude") {
    settings.rounding->excluded = split(value, ',');
  } else if (key == "op_types_to_quantize") {
    if (value != "MatMul") reject(name, "MatMul", value);
  } else if (value != "default") {
    reject(name, "default", value);
  }
}

BuildSettings read_settings(const BuildFlags& flags) {
  BuildSettings settings;
  settings.onnx.provider = find_onnx_provider(flags.provider);
  settings.onnx.dialect = find_onnx_dialect(flags.dialect);
  const bool is_float = flags.precision == "fp32" || flags.precision == "fp16";
  const bool on_cpu = flags.provider == "cpu";
  if (flags.precision == "fp16" || (!is_float && !on_cpu)) settings.onnx.type = OnnxType::kFloat16;
  if (!is_float) {
    settings.rounding.emplace();
    settings.rounding->bits = flags.precision == "int4" ? 4 : 8;
    if (settings.onnx.type == OnnxType::kFloat16) settings.rounding->scales = DType::kF16;
  }
  for (const std::string& option : flags.extra_options) {
    const auto sign = option.find('=');
    if (sign == std::string::npos)
      fail(ErrorCode::kInvalidArgument, "[build] --extra_options: expected KEY=VALUE, got \"{}\"",
           printable(option));
    read_option(option.substr(0, sign), option.substr(sign + 1), settings);
  }
  return settings;
}

void print_report(const BuildFlags& flags, const BuildSettings& settings,
                  const OnnxReport& report) {
  const Written files = written(flags.output);
  if (flags.json) {
    print_json({{"output", flags.output},
                {"bytes", files.bytes},
                {"precision", flags.precision},
                {"provider", flags.provider},
                {"context_length", report.context_length},
                {"position_ids", report.position_ids},
                {"float_products", report.float_linears},
                {"code_products", report.code_linears},
                {"int8_products", report.int8_linears},
                {"accuracy_level", settings.onnx.provider.accuracy_level}});
    return;
  }
  std::cout << fmt::format("{}: {} MB, {} products in float, {} in codes", flags.output,
                           megabytes(files.bytes), report.float_linears, report.code_linears);
  if (report.int8_linears > 0) std::cout << fmt::format(", {} in int8", report.int8_linears);
  if (report.code_linears > 0)
    std::cout << fmt::format(
        ", accuracy_level {}{}", settings.onnx.provider.accuracy_level,
        settings.onnx.provider.accuracy_level == 4 ? " (activations in int8 by blocks)" : "");
  std::cout << "\n";
}

void build(const BuildFlags& flags) {
  refuse_standard_stream(flags.output, "--output", "it is a folder");
  require_replaceable(flags.output, "build", "a folder made by tandem build",
                      objection_to_genai_folder);
  const BuildSettings settings = read_settings(flags);
  TerminalObserver observer;
  catch_interrupt();
  ThreadPool pool(flags.threads > 0 ? flags.threads : default_threads());
  const auto model =
      LoadedModel::open(find_model(flags.input), pool, {.cache = default_cache_folder()}, observer);
  if (!model->prefix().empty())
    fail(ErrorCode::kUnsupported,
         "[build] {}: begins every sequence with a prefix of {} tokens, which ONNX Runtime GenAI "
         "has no place for",
         flags.input, model->prefix().size());
  const Graph& graph = model->graph(flags.phase == "prefill" ? Phase::kPrefill : Phase::kDecode);
  OnnxOptions options = settings.onnx;
  std::optional<OnnxRounding> rounding;
  if (settings.rounding) {
    rounding.emplace(*settings.rounding, graph, pool);
    options.rounding = &*rounding;
    if (const auto left = rounding->left_float(graph); !left.empty())
      observer.warn(fmt::format(
          "[build] {} modules stay float, since their input channels are no multiple of the block "
          "size {}: {}",
          left.size(), settings.rounding->block, first_of(left)));
  }
  StagedFolder staged(flags.output);
  const OnnxReport report =
      write_genai_folder(staged.path(), {graph, model->info(), model->path()}, options, observer);
  if (report.context_length < model->info().context_length)
    observer.warn(
        fmt::format("[build] the context is {} tokens instead of {}: beyond it the model's "
                    "rotations change with "
                    "every token, for which ONNX has no form",
                    report.context_length, model->info().context_length));
  staged.commit();
  print_report(flags, settings, report);
}

}  // namespace

void add_build(CLI::App& app) {
  auto* command = app.add_subcommand(
      "build", "write a model as a folder for ONNX Runtime GenAI, as its model builder does");
  auto flags = std::make_shared<BuildFlags>();
  command
      ->add_option("-i,--input,-m,--model", flags->input,
                   "checkpoint or package: quantized weights keep their codes")
      ->required();
  command
      ->add_option("-o,--output", flags->output,
                   "folder to write; replaced whole if build made it or it is empty")
      ->required();
  command
      ->add_option(
          "-p,--precision", flags->precision,
          "of float weights: int4 and int8 round them in blocks of 32; activations are float16 "
          "with fp16, and with integers on other providers than cpu")
      ->required()
      ->check(CLI::IsMember({"fp32", "fp16", "int4", "int8"}));
  std::vector<std::string> providers;
  for (const OnnxProvider& provider : onnx_providers()) providers.emplace_back(provider.name);
  command->add_option("-e,--execution-provider", flags->provider, "where it is to run")
      ->capture_default_str()
      ->check(CLI::IsMember(providers));
  command
      ->add_option(
          "--phase", flags->phase,
          "of a package: the graph that writes answers, or the one that reads prompts, whose "
          "static int8 becomes QuantizeLinear and DequantizeLinear")
      ->capture_default_str()
      ->check(CLI::IsMember({"decode", "prefill"}));
  std::vector<std::string> dialects;
  for (const OnnxDialect& dialect : onnx_dialects()) dialects.emplace_back(dialect.version);
  command
      ->add_option(
          "--dialect", flags->dialect,
          "the version of the builder whose graphs are written: 0.18 (as from 0.16 on) or 0.5.1")
      ->capture_default_str()
      ->check(CLI::IsMember(dialects));
  command
      ->add_option(
          "--extra-options", flags->extra_options,
          "KEY=VALUE ...: accuracy_level (of products with codes: 0 to 4; 4, the default "
          "on cpu and webgpu, multiplies in int8), block_size (32), is_symmetric (true), "
          "nodes_to_exclude (by commas: nodes or modules that stay float), filename "
          "(model.onnx), fuse_qkv (true), shared_embeddings (false: a tied head that is in codes "
          "leaves the embedding float); also under their older names, int4_...")
      ->expected(0, 1 << 16);
  command->add_option("-t,--threads", flags->threads, "threads (default: one per core)")
      ->check(CLI::Range(1, 64));
  command->add_flag("--json", flags->json, "print JSON");
  command->callback([flags] { build(*flags); });
}

}  // namespace tandem::cli
