// tandem tokenize and detokenize: text to ids and back.
#include <iostream>
#include <optional>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/terminal_observer.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem::cli {
namespace {

struct TokenizeFlags {
  std::string tokenizer;
  std::string file;
  std::optional<std::string> prompt;
  IdsFlags ids;
  bool no_special = false;
  bool plain = false;
  bool json = false;
};

constexpr const char* kTokenizerHelp =
    "model folder, tokenizer file (tokenizer.json, tokenizer.model, vocab.json, *.tiktoken, "
    "*vocab.mllm) or GGUF";

void tokenize(const TokenizeFlags& flags) {
  refuse_standard_stream(flags.tokenizer, "tokenizer", "it may be several files");
  TerminalObserver observer;
  const Tokenizer tokenizer = Tokenizer::open(flags.tokenizer, observer);
  const std::string text = flags.prompt ? *flags.prompt : read_plain_text("tokenize", flags.file);
  const std::vector<TokenId> ids = tokenizer.encode(
      text, {.add_special_tokens = !flags.no_special, .parse_special_tokens = !flags.plain});
  if (flags.json) {
    OrderedJson tokens = OrderedJson::array();
    for (const TokenId id : ids) tokens.push_back(tokenizer.id_to_token(id));
    print_json({{"ids", ids}, {"tokens", std::move(tokens)}});
    return;
  }
  for (std::size_t i = 0; i < ids.size(); ++i) std::cout << (i == 0 ? "" : " ") << ids[i];
  std::cout << '\n';
}

void detokenize(const TokenizeFlags& flags) {
  refuse_standard_stream(flags.tokenizer, "tokenizer", "it may be several files");
  TerminalObserver observer;
  const Tokenizer tokenizer = Tokenizer::open(flags.tokenizer, observer);
  const std::vector<TokenId> ids = flags.ids.read();
  for (const TokenId id : ids) {
    if (id < 0 || id >= tokenizer.vocabulary_size()) {
      fail(ErrorCode::kInvalidArgument, "[detokenize] expected ids in [0, {}), got {}",
           tokenizer.vocabulary_size(), id);
    }
  }
  const std::string text = tokenizer.decode(ids, flags.no_special);
  if (flags.json) {
    print_json({{"text", text}});
  } else {
    std::cout << text;
  }
}

}  // namespace

void add_tokenize(CLI::App& app) {
  auto* command = app.add_subcommand("tokenize", "text to token ids");
  auto flags = std::make_shared<TokenizeFlags>();
  command->add_option("tokenizer", flags->tokenizer, kTokenizerHelp)->required();
  auto* prompt = command->add_option("-p,--prompt", flags->prompt, "the text itself");
  command->add_option("-f,--file", flags->file, "file with the text (default: standard input)")
      ->excludes(prompt);
  command->add_flag("--no-special", flags->no_special, "add no begin or end tokens");
  command->add_flag("--plain", flags->plain,
                    "special tokens spelled out in the text stay plain text");
  command->add_flag("--json", flags->json, "one JSON object: ids, tokens");
  command->callback([flags] { tokenize(*flags); });
}

void add_detokenize(CLI::App& app) {
  auto* command = app.add_subcommand("detokenize", "token ids to text");
  auto flags = std::make_shared<TokenizeFlags>();
  command->add_option("tokenizer", flags->tokenizer, kTokenizerHelp)->required();
  flags->ids.add_to(*command);
  command->add_flag("--no-special", flags->no_special, "leave special tokens out");
  command->add_flag("--json", flags->json, "one JSON object: text");
  command->callback([flags] { detokenize(*flags); });
}

}  // namespace tandem::cli
