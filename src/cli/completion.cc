// tandem completion: scripts with which shells complete the program's command lines, derived from
// the description of the commands that parses them.
#include <algorithm>
#include <iostream>

#include "cli/commands.h"

namespace tandem::cli {
namespace {

struct Flag {
  // With their dashes, short ones first.
  std::vector<std::string> names;
  std::string description;
  bool takes_value = false;
  // Of an enumeration; a value without any is a number or the name of a file.
  std::vector<std::string> values;
  bool is_number = false;
};

struct Command {
  std::string name;
  std::string description;
  std::vector<Flag> flags;
  // What its arguments without a name may be; without any of these, files, or nothing.
  std::vector<std::string> words;
  bool takes_files = false;
};

// CLI11 describes a value as "TEXT:{a,b}" or "INT in [1 - 64]".
std::vector<std::string> values_of(std::string_view type) {
  const std::size_t open = type.find('{');
  const std::size_t close = type.find('}', std::min(open, type.size()));
  if (close == std::string_view::npos) return {};
  std::vector<std::string> values;
  std::string_view list = type.substr(open + 1, close - open - 1);
  while (!list.empty()) {
    const std::size_t comma = std::min(list.find(','), list.size());
    values.emplace_back(list.substr(0, comma));
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return values;
}

void add_options(const CLI::App& app, Command& command) {
  for (const CLI::Option* option : app.get_options()) {
    const std::string type = option->get_type_name();
    const std::vector<std::string> values = values_of(type);
    if (option->get_positional()) {
      command.words.insert(command.words.end(), values.begin(), values.end());
      command.takes_files |= values.empty();
    }
    if (option->get_group().empty() || !option->nonpositional()) continue;
    Flag flag;
    for (const std::string& name : option->get_snames()) flag.names.push_back("-" + name);
    for (const std::string& name : option->get_lnames()) flag.names.push_back("--" + name);
    flag.description = option->get_description();
    flag.takes_value = option->get_items_expected_max() > 0;
    flag.values = values;
    // A number, or a name that the program gives to something of its own.
    flag.is_number = type.starts_with("INT") || type.starts_with("UINT") ||
                     type.starts_with("FLOAT") || type.starts_with("NAME");
    command.flags.push_back(std::move(flag));
  }
}

// The options that come before a command, under the empty name, then the commands.
std::vector<Command> commands_of(const CLI::App& app) {
  std::vector<Command> commands(1);
  add_options(app, commands.front());
  std::vector<std::string> command_names;
  for (const CLI::App* each : app.get_subcommands({}))
    if (!each->get_group().empty()) command_names.push_back(each->get_name());
  for (const CLI::App* each : app.get_subcommands({})) {
    if (each->get_group().empty()) continue;
    Command command{each->get_name(), each->get_description(), {}, {}, false};
    add_options(*each, command);
    if (command.name == "help") command.words = command_names;
    // They are understood behind the command, too.
    for (const Flag& flag : commands.front().flags)
      if (flag.names.back() != "--help" && flag.names.back() != "--version")
        command.flags.push_back(flag);
    commands.push_back(std::move(command));
  }
  return commands;
}

std::string join(const std::vector<std::string>& words, std::string_view separator) {
  std::string text;
  for (const std::string& word : words) (text += text.empty() ? "" : separator) += word;
  return text;
}

std::vector<std::string> names_of(const std::vector<Command>& commands) {
  std::vector<std::string> names;
  for (const Command& command : commands)
    if (!command.name.empty()) names.push_back(command.name);
  return names;
}

std::string without(std::string text, std::string_view characters) {
  std::erase_if(text, [&](char c) { return characters.find(c) != std::string_view::npos; });
  return text;
}

// In single quotes, as each of the shells reads them.
std::string shell_word(std::string_view text) {
  std::string result = "'";
  for (const char c : text) {
    if (c == '\'')
      result += "'\\''";
    else
      result += c;
  }
  return result + "'";
}

// ------------------------------------------------------------ bash

void write_bash(std::ostream& out, const std::vector<Command>& commands) {
  out << "# Completes the command line of tandem in bash. Written by: tandem completion bash\n"
         "_tandem() {\n"
         "  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}\n"
         "  local command= options= words= values= word\n"
         "  # --flag=value comes as three words.\n"
         "  if [[ $current == = ]]; then\n"
         "    current=\n"
         "  elif [[ $previous == = ]]; then\n"
         "    previous=${COMP_WORDS[COMP_CWORD-2]}\n"
         "  fi\n"
         "  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n"
         "    case $word in\n"
         "      "
      << join(names_of(commands), " | ")
      << ") command=$word; break ;;\n"
         "    esac\n"
         "  done\n"
         "  case $command in\n";
  for (const Command& command : commands) {
    std::vector<std::string> options;
    for (const Flag& flag : command.flags)
      options.insert(options.end(), flag.names.begin(), flag.names.end());
    out << "    " << shell_word(command.name)
        << ")\n      options=" << shell_word(join(options, " ")) << '\n';
    if (!command.words.empty())
      out << "      words=" << shell_word(join(command.words, " ")) << '\n';
    else if (command.takes_files)
      out << "      words=files\n";
    out << "      case $previous in\n";
    for (const Flag& flag : command.flags) {
      if (!flag.takes_value) continue;
      const std::string value = flag.is_number && flag.values.empty() ? "none"
                                : flag.values.empty()                 ? "files"
                                                      : shell_word(join(flag.values, " "));
      out << "        " << join(flag.names, " | ") << ") values=" << value << " ;;\n";
    }
    out << "      esac ;;\n";
  }
  out << "  esac\n"
         "  COMPREPLY=()\n"
         "  case $values in\n"
         "    none) return ;;\n"
         "    '' | files) ;;\n"
         "    *)\n"
         "      mapfile -t COMPREPLY < <(compgen -W \"$values\" -- \"$current\")\n"
         "      return ;;\n"
         "  esac\n"
         "  if [[ -z $values && $current == -* ]]; then\n"
         "    mapfile -t COMPREPLY < <(compgen -W \"$options\" -- \"$current\")\n"
         "  elif [[ -z $values && -z $command ]]; then\n"
         "    mapfile -t COMPREPLY < <(compgen -W "
      << shell_word(join(names_of(commands), " "))
      << " -- \"$current\")\n"
         "  elif [[ -z $values && $words != files ]]; then\n"
         "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\")\n"
         "  else\n"
         "    mapfile -t COMPREPLY < <(compgen -f -- \"$current\")\n"
         "    compopt -o filenames 2>/dev/null  # a folder ends in a slash\n"
         "  fi\n"
         "  return 0\n"
         "}\n"
         "complete -F _tandem tandem\n";
}

// ------------------------------------------------------------ zsh

void write_zsh(std::ostream& out, const std::vector<Command>& commands) {
  // What a description may not contain.
  constexpr std::string_view kSpecial = "[]\\";
  out << "#compdef tandem\n"
         "# Completes the command line of tandem in zsh. Written by: tandem completion zsh\n"
         "_tandem() {\n"
         "  local -a commands=(\n";
  for (const Command& command : commands)
    if (!command.name.empty())
      out << "    " << shell_word(command.name + ":" + without(command.description, kSpecial))
          << '\n';
  out << "  )\n"
         "  local context state state_descr line\n"
         "  typeset -A opt_args\n";
  const auto write_flags = [&](const Command& command, const char* indent) {
    for (const Flag& flag : command.flags) {
      for (const std::string& name : flag.names) {
        std::string spec = "*" + name + (flag.takes_value && name.starts_with("--") ? "=" : "");
        spec += "[" + without(flag.description, kSpecial) + "]";
        if (!flag.values.empty())
          spec += ":value:(" + join(flag.values, " ") + ")";
        else if (flag.takes_value)
          spec += flag.is_number ? ":number: " : ":file:_files";
        out << " \\\n" << indent << shell_word(spec);
      }
    }
  };
  out << "  _arguments -C";
  write_flags(commands.front(), "    ");
  out << " \\\n    '1:command:->command' '*::argument:->argument'\n"
         "  case $state in\n"
         "    command) _describe command commands ;;\n"
         "    argument)\n"
         "      case $line[1] in\n";
  for (const Command& command : commands) {
    if (command.name.empty()) continue;
    out << "        " << command.name << ") _arguments";
    write_flags(command, "          ");
    const std::string words =
        command.words.empty() ? "_files" : "(" + join(command.words, " ") + ")";
    if (command.takes_files || !command.words.empty())
      out << " \\\n          " << shell_word("*:argument:" + words);
    out << " ;;\n";
  }
  out << "      esac ;;\n"
         "  esac\n"
         "}\n"
         "if [[ $funcstack[1] == _tandem ]]; then _tandem \"$@\"; else compdef _tandem tandem; "
         "fi\n";
}

// ------------------------------------------------------------ fish

void write_fish(std::ostream& out, const std::vector<Command>& commands) {
  out << "# Completes the command line of tandem in fish. Written by: tandem completion fish\n"
         "complete -c tandem -n __fish_use_subcommand -f\n";
  for (const Command& command : commands) {
    const bool before = command.name.empty();
    const std::string when =
        before ? "__fish_use_subcommand" : "'__fish_seen_subcommand_from " + command.name + "'";
    if (!before)
      out << "complete -c tandem -n __fish_use_subcommand -a " << command.name << " -d "
          << shell_word(command.description) << '\n';
    if (!before && !command.takes_files) {
      out << "complete -c tandem -n " << when << " -f";
      if (!command.words.empty()) out << " -a " << shell_word(join(command.words, " "));
      out << '\n';
    }
    for (const Flag& flag : command.flags) {
      out << "complete -c tandem -n " << when;
      for (const std::string& name : flag.names)
        out << (name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1));
      if (flag.takes_value) out << (flag.values.empty() && !flag.is_number ? " -r -F" : " -x");
      if (!flag.values.empty()) out << " -a " << shell_word(join(flag.values, " "));
      out << " -d " << shell_word(flag.description) << '\n';
    }
  }
}

}  // namespace

void add_completion(CLI::App& app) {
  auto* command = app.add_subcommand(
      "completion", "the script with which a shell completes commands, flags and their values");
  auto shell = std::make_shared<std::string>();
  command
      ->add_option("shell", *shell,
                   "bash: source <(tandem completion bash); zsh: source <(tandem completion zsh); "
                   "fish: tandem completion fish | source")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  command->callback([&app, shell] {
    const std::vector<Command> commands = commands_of(app);
    if (*shell == "bash") write_bash(std::cout, commands);
    if (*shell == "zsh") write_zsh(std::cout, commands);
    if (*shell == "fish") write_fish(std::cout, commands);
  });
}

}  // namespace tandem::cli
