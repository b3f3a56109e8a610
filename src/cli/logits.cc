// tandem logits: the logits of given tokens, for comparison with other implementations.
#include "base/error.h"
#include "checkpoint/safetensors.h"
#include "cli/commands.h"
#include "cli/terminal_observer.h"

namespace tandem::cli {
namespace {

struct LogitsFlags {
  ModelFlags model;
  IdsFlags ids;
  std::string output;
};

void logits(const LogitsFlags& flags) {
  refuse_standard_stream(flags.output, "--output", "a safetensors file is written in any order");
  refuse_overwriting("logits", flags.model.model, flags.output);
  catch_interrupt(kInterruptGrace);
  const std::vector<TokenId> ids = flags.ids.read();
  if (ids.empty()) fail(ErrorCode::kFormat, "[logits] {}: no token ids", flags.ids.where());
  TerminalObserver observer;
  const auto model = LocalModel::open(flags.model.model, flags.model.load_options(), observer);
  const auto tokens = static_cast<std::int64_t>(ids.size());
  if (tokens > model->info().longest_sequence()) {
    fail(ErrorCode::kInvalidArgument, "[logits] {}: {} tokens, the model's context is {}",
         flags.ids.where(), tokens, model->info().longest_sequence());
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
  flags->ids.add_to(*command);
  command
      ->add_option("-o,--output", flags->output,
                   "safetensors file; tensor \"logits\" [tokens, vocabulary]")
      ->required();
  command->callback([flags] { logits(*flags); });
}

}  // namespace tandem::cli
