// The table of model types.
#include "text/tokenizer/token_model.h"

#include "text/tokenizer/bpe.h"
#include "text/tokenizer/tokenizer_json.h"
#include "text/tokenizer/unigram.h"

namespace tandem {

std::unique_ptr<TokenModel> make_token_model(const JsonObject& config) {
  // Files from 2019 and 2020 omit the type; only BPE has merges.
  if (!config.has("type") && config.has("merges")) return std::make_unique<BpeModel>(config);
  if (component_type(config) == "BPE") return std::make_unique<BpeModel>(config);
  if (component_type(config) == "Unigram") return std::make_unique<UnigramModel>(config);
  fail_unknown_component(config, "model");
}

}  // namespace tandem
