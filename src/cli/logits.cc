// tandem logits: the logits of given tokens, for comparison with other implementations.
#include "base/error.h"
#include "checkpoint/safetensors.h"
#include "cli/commands.h"
#include "cli/terminal_observer.h"

namespace tandem::cli {
namespace {

struct LogitsFlags {
  ModelFlags model;
  std::string ids;
  std::string output;
};

// A JSON array of integers, or an object with such an array under "ids" (the output of tandem
// tokenize --json).
std::vector<TokenId> read_ids(const fs::path& path) {
  const Json json = read_json_file(path);
  const Json* list = &json;
  if (json.is_object() && json.contains("ids")) list = &json["ids"];
  if (!list->is_array())
    fail(ErrorCode::kFormat, "[logits] {}: expected an array of token ids", path.string());
  std::vector<TokenId> ids;
  for (const Json& id : *list) {
    if (!id.is_number_integer() || id.get<std::int64_t>() < 0 ||
        id.get<std::int64_t>() > INT32_MAX) {
      fail(ErrorCode::kFormat, "[logits] {}: entry {}: expected a token id, got {}", path.string(),
           ids.size(), id.dump());
    }
    ids.push_back(id.get<TokenId>());
  }
  if (ids.empty()) fail(ErrorCode::kFormat, "[logits] {}: no token ids", path.string());
  return ids;
}

void logits(const LogitsFlags& flags) {
  const std::vector<TokenId> ids = read_ids(flags.ids);
  TerminalObserver observer;
  const auto model = LocalModel::open(flags.model.model, flags.model.load_options(), observer);
  const auto tokens = static_cast<std::int64_t>(ids.size());
  if (tokens > model->info().longest_sequence()) {
    fail(ErrorCode::kInvalidArgument, "[logits] {}: {} tokens, the model's context is {}",
         flags.ids, tokens, model->info().longest_sequence());
  }
  std::byte* data = nullptr;
  const Tensor all = Tensor::allocate(DType::kF32, {tokens, model->info().vocabulary}, &data);
  KvSequence sequence = model->engine.new_sequence();
  model->engine.prefill_all(sequence, ids, [&](std::int64_t first, std::span<const float> rows) {
    std::copy(rows.begin(), rows.end(),
              reinterpret_cast<float*>(data) + first * model->info().vocabulary);
  });
  write_safetensors(flags.output, {{"logits", all}});
}

}  // namespace

void add_logits(CLI::App& app) {
  auto* command = app.add_subcommand(
      "logits", "write the float32 logits of given tokens, read on the prefill device");
  auto flags = std::make_shared<LogitsFlags>();
  flags->model.add_to(*command);
  command->add_option("--ids", flags->ids, "JSON file: an array of token ids")->required();
  command
      ->add_option("-o,--output", flags->output,
                   "safetensors file; tensor \"logits\" [tokens, vocabulary]")
      ->required();
  command->callback([flags] { logits(*flags); });
}

}  // namespace tandem::cli
