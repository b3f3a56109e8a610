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
  std::vector<TokenId> ids;
  bool no_special = false;
  bool plain = false;
  bool json = false;
};

constexpr const char* kTokenizerHelp =
    "model folder, tokenizer file (tokenizer.json, tokenizer.model, vocab.json, *.tiktoken, "
    "*vocab.mllm) or GGUF";

void tokenize(const TokenizeFlags& flags) {
  TerminalObserver observer;
  const Tokenizer tokenizer = Tokenizer::open(flags.tokenizer, observer);
  const std::string text = flags.prompt ? *flags.prompt : read_input(flags.file);
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

// Ids from a JSON array, {"ids": […]}, or plain numbers separated by white space or commas.
std::vector<TokenId> parse_ids(const std::string& text, const std::string& where) {
  const std::size_t start = text.find_first_not_of(" \t\r\n");
  std::vector<TokenId> ids;
  if (start != std::string::npos && (text[start] == '[' || text[start] == '{')) {
    const Json json = parse_json(text, where);
    const Json& list = json.is_object() && json.contains("ids") ? json["ids"] : json;
    if (!list.is_array())
      fail(ErrorCode::kFormat, "[detokenize] {}: expected an array of token ids", where);
    for (const Json& id : list) {
      // As a double, a number with any number of digits can be compared.
      if (!id.is_number_integer() || id.get<double>() < 0 || id.get<double>() > INT32_MAX) {
        fail(ErrorCode::kFormat, "[detokenize] {}: entry {}: expected a token id, got {}", where,
             ids.size(), id.dump());
      }
      ids.push_back(id.get<TokenId>());
    }
    return ids;
  }
  std::size_t at = 0;
  while ((at = text.find_first_not_of(" ,\t\r\n", at)) != std::string::npos) {
    const std::size_t end = std::min(text.find_first_of(" ,\t\r\n", at), text.size());
    const std::string word = text.substr(at, end - at);
    if (word.size() > 9 || word.find_first_not_of("0123456789") != std::string::npos) {
      fail(ErrorCode::kFormat, "[detokenize] {}: entry {}: expected a token id, got \"{}\"", where,
           ids.size(), word);
    }
    ids.push_back(std::stoi(word));
    at = end;
  }
  return ids;
}

void detokenize(const TokenizeFlags& flags) {
  TerminalObserver observer;
  const Tokenizer tokenizer = Tokenizer::open(flags.tokenizer, observer);
  const std::vector<TokenId> ids =
      flags.ids.empty()
          ? parse_ids(read_input(flags.file), flags.file.empty() ? "standard input" : flags.file)
          : flags.ids;
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
  command->add_option("--file", flags->file, "file with the text (default: standard input)")
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
  auto* ids = command->add_option("--ids", flags->ids, "the ids themselves")
                  ->delimiter(',')
                  ->allow_extra_args(false);
  command
      ->add_option("--file", flags->file, "file with ids, JSON or plain (default: standard input)")
      ->excludes(ids);
  command->add_flag("--no-special", flags->no_special, "leave special tokens out");
  command->add_flag("--json", flags->json, "one JSON object: text");
  command->callback([flags] { detokenize(*flags); });
}

}  // namespace tandem::cli
