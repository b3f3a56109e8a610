// Reads Metaspace's settings in either spelling.
#include "text/tokenizer/metaspace.h"

#include "base/error.h"
#include "text/tokenizer/tokenizer_json.h"

namespace tandem {
namespace {

Metaspace::Prepend read_prepend(const JsonObject& config) {
  const bool never = !config.get_bool_or("add_prefix_space", true);
  if (!config.has("prepend_scheme")) {
    return never ? Metaspace::Prepend::kNever : Metaspace::Prepend::kAlways;
  }
  const std::string name = config.get_string("prepend_scheme");
  if (name == "never") return Metaspace::Prepend::kNever;
  if (never) {
    fail(ErrorCode::kFormat,
         "[tokenizer] {}: expected never, as add_prefix_space is false, got \"{}\"",
         key_place(config, "prepend_scheme"), name);
  }
  if (name == "always") return Metaspace::Prepend::kAlways;
  if (name == "first") return Metaspace::Prepend::kFirst;
  fail(ErrorCode::kFormat, "[tokenizer] {}: expected always, first or never, got \"{}\"",
       key_place(config, "prepend_scheme"), name);
}

}  // namespace

Metaspace Metaspace::from_json(const JsonObject& config) {
  return {get_character(config, "replacement"), read_prepend(config),
          config.get_bool_or("split", true)};
}

}  // namespace tandem
