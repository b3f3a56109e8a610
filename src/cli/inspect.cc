// tandem inspect: describes the contents of a model.
#include <iostream>
#include <map>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "cli/commands.h"
#include "cli/terminal_observer.h"
#include "graph/graph.h"
#include "models/model.h"
#include "package/package.h"
#include "package/panel_cache.h"
#include "runtime/search_options.h"

namespace tandem::cli {
namespace {

struct InspectFlags {
  std::string folder;
  bool tensors = false;
  bool graph = false;
  bool verify = false;
  bool json = false;
};

// Linears grouped by description: "int4 g128" -> count, parameters, bytes, and how many modules of
// each kind they are, such as down_proj.
OrderedJson linears_json(const Graph& graph) {
  struct Sum {
    std::int64_t count = 0, parameters = 0, bytes = 0;
    std::map<std::string, int> modules;
  };
  std::map<std::string, Sum> kinds;
  for (const Node& node : graph.nodes()) {
    if (node.op != Op::kLinear) continue;
    const Weight& weight = node.as<LinearAttributes>().weight;
    const std::string text = describe(weight);
    Sum& sum = kinds[text.substr(0, text.find(" ["))];
    ++sum.count;
    ++sum.modules[node.name.substr(node.name.rfind('.') + 1)];
    sum.parameters += output_channels(weight) * input_channels(weight);
    sum.bytes += stored_bytes(weight);
  }
  OrderedJson json = OrderedJson::object();
  for (const auto& [kind, sum] : kinds) {
    json[kind] = {{"count", sum.count},
                  {"parameters", sum.parameters},
                  {"bytes", sum.bytes},
                  {"modules", sum.modules}};
  }
  return json;
}

// What generation_config.json recommends.
OrderedJson search_json(const Json& generation_config, const fs::path& folder) {
  const std::string place = (folder / "generation_config.json").string();
  return to_json(recommended_search(JsonObject(generation_config, place)));
}

void print_text(const OrderedJson& report, bool tensors) {
  std::cout << report["folder"].get<std::string>() << ": " << report["kind"].get<std::string>()
            << ", " << report["model"]["model_type"].get<std::string>() << '\n';
  for (const auto& [key, value] : report["model"].items()) {
    if (key != "model_type") std::cout << fmt::format("  {:18} {}\n", key, value.dump());
  }
  std::cout << fmt::format("  {:18} {}\n", "search", report["search"].dump());
  if (report.contains("prefix"))
    std::cout << fmt::format("  {:18} {}\n", "prefix", report["prefix"].dump());
  if (report.contains("kv"))
    std::cout << fmt::format("  {:18} {}\n", "kv", report["kv"].get<std::string>());
  for (const auto& [phase, kinds] : report["linears"].items()) {
    for (const auto& [kind, sum] : kinds.items()) {
      std::string modules;
      for (const auto& [module, count] : sum["modules"].items())
        modules += fmt::format("{}{}", modules.empty() ? "" : ", ", module);
      std::cout << fmt::format("  {:8} {:10} {:4} weights, {:.1f} M parameters, {} MB: {}\n", phase,
                               kind, sum["count"].get<std::int64_t>(),
                               sum["parameters"].get<double>() * 1e-6,
                               megabytes(sum["bytes"].get<std::int64_t>()), modules);
    }
  }
  std::int64_t bytes = 0;
  for (const auto& tensor : report["tensors"]) bytes += tensor["bytes"].get<std::int64_t>();
  std::cout << fmt::format("  {} tensors, {} MB\n", report["tensors"].size(), megabytes(bytes));
  if (!tensors) return;
  for (const auto& tensor : report["tensors"]) {
    std::cout << fmt::format("    {:52} {:5} {}\n", tensor["name"].get<std::string>(),
                             tensor["dtype"].get<std::string>(), tensor["shape"].dump());
  }
}

void append_tensors(OrderedJson& list, const std::map<std::string, Tensor>& tensors) {
  for (const auto& [reference, tensor] : tensors) {
    // The reference is FILE:TENSOR.
    list.push_back({{"name", reference.substr(reference.find(':') + 1)},
                    {"dtype", to_string(tensor.dtype())},
                    {"shape", tensor.shape()},
                    {"bytes", tensor.bytes().size()}});
  }
}

void inspect(const InspectFlags& flags) {
  refuse_standard_stream(flags.folder, "folder", "a model is mapped into memory");
  const fs::path folder = flags.folder;
  OrderedJson report = {{"folder", flags.folder}};
  report["tensors"] = OrderedJson::array();
  std::string graphs;
  const auto add_graph = [&](const char* phase, const Graph& graph) {
    report["linears"][phase] = linears_json(graph);
    graphs += fmt::format("{}:\n{}", phase, dump(graph));
  };
  if (Package::is_package(folder)) {
    ThreadPool pool(default_threads());
    const Package package =
        Package::open(folder, pool, {.cache = default_cache_folder(), .verify = flags.verify});
    report["kind"] = "package";
    report["model"] = to_json(package.info());
    report["search"] = search_json(package.generation_config(), folder);
    report["recipe"] = package.manifest().at("recipe");
    if (!package.prefix().empty()) report["prefix"] = package.prefix();
    report["kv"] = package.graph(Phase::kDecode).has_kv_scales() ? "int8" : "float16";
    for (const Phase phase : {Phase::kPrefill, Phase::kDecode})
      add_graph(phase == Phase::kPrefill ? "prefill" : "decode", package.graph(phase));
    append_tensors(report["tensors"], package.tensors());
  } else {
    TerminalObserver observer;
    const Checkpoint checkpoint = Checkpoint::open(folder, {}, observer);
    const JsonObject config = checkpoint.config_object();
    report["kind"] = "checkpoint";
    report["model"] = to_json(read_model_info(config, &checkpoint.generation_config(), observer));
    report["search"] = search_json(checkpoint.generation_config(), checkpoint.folder());
    add_graph("float", build_graph(config, CheckpointWeights(checkpoint)));
    for (const auto* tensors : {&checkpoint.tensors(), &checkpoint.unread()}) {
      for (const auto& [name, tensor] : *tensors) {
        report["tensors"].push_back({{"name", name},
                                     {"dtype", tensor.type},
                                     {"shape", tensor.shape},
                                     {"bytes", tensor.bytes}});
      }
    }
  }
  if (flags.json) {
    print_json(report);
  } else {
    print_text(report, flags.tensors);
  }
  if (flags.graph) std::cout << graphs;
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto* command = app.add_subcommand(
      "inspect", "show the configuration, tensors and sizes of a checkpoint or package");
  auto flags = std::make_shared<InspectFlags>();
  command->add_option("folder", flags->folder, "package, checkpoint folder, or a checkpoint's file")
      ->required();
  command->add_flag("--tensors", flags->tensors, "list every tensor");
  command->add_flag("--verify", flags->verify,
                    "read and check every byte of a package, whatever was checked before");
  command->add_flag("--graph", flags->graph, "print the graph, one line per operator");
  command->add_flag("--json", flags->json, "one JSON object on standard output")
      ->excludes("--graph");
  command->callback([flags] { inspect(*flags); });
}

}  // namespace tandem::cli
