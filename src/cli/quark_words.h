// The flags of AMD Quark's quantize_quark.py, in their old and new spellings: its commands run here
// with only the program's name changed.
#pragma once

#include <CLI/CLI.hpp>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/packed_writer.h"
#include "quantize/recipe.h"

namespace tandem::cli {

class QuarkWords {
 public:
  // Adds the flags that have no equal among ours; those that do are aliases (arguments.cc). The
  // command has our own that they replace: --recipe, --export, --lm-head and --calib.
  void add_to(CLI::App& command);

  // Whether a scheme was given, without which none of the flags may be.
  bool given() const { return !scheme_.empty(); }
  // The file of --dataset-path; empty without one.
  const std::string& dataset() const { return dataset_path_; }
  // What the scheme says of every module, what others say of some, and what stays float: the head
  // unless --exclude-layers is there, which may be empty. `group` is --group-size. `checkpoint` is
  // opened where --data-type is auto. Throws kInvalidArgument for a scheme that is not known.
  std::vector<Rule> rules(std::int64_t group, const std::string& checkpoint) const;
  // A checkpoint, if --model-export asks for one.
  std::optional<PackedStyle> style(bool reordered) const;

 private:
  DType scales(const std::string& checkpoint) const;

  std::string scheme_;
  std::string data_type_ = "auto";
  std::vector<std::pair<std::string, std::string>> group_per_layer_;
  std::vector<std::pair<std::string, std::string>> scheme_per_layer_;
  CLI::Option* exclude_option_ = nullptr;
  std::vector<std::string> exclude_;
  std::string model_export_;
  std::string custom_mode_ = "quark";
  std::string dataset_;
  std::string dataset_path_;
};

}  // namespace tandem::cli
