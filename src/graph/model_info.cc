// Model properties to JSON and back.
#include "graph/model_info.h"

#include "base/error.h"

namespace tandem {
namespace {

// Several times what any model has, and small enough that no product of two sizes overflows.
constexpr std::int64_t kMaxSize = std::int64_t{1} << 24;
constexpr std::int64_t kMaxContext = kLongestSequence;

}  // namespace

OrderedJson to_json(const ModelInfo& info) {
  OrderedJson json = {{"model_type", info.model_type},
                      {"layers", info.layers},
                      {"hidden_size", info.hidden_size},
                      {"intermediate_size", info.intermediate_size},
                      {"heads", info.heads},
                      {"kv_heads", info.kv_heads},
                      {"head_dim", info.head_dim},
                      {"vocabulary", info.vocabulary},
                      {"context_length", info.context_length},
                      {"tied_head", info.tied_head},
                      {"eos", info.eos}};
  if (info.open_context) json["open_context"] = true;
  if (info.bos) json["bos"] = *info.bos;
  if (info.pad) json["pad"] = *info.pad;
  return json;
}

ModelInfo model_info_from_json(const JsonObject& json) {
  ModelInfo info;
  info.model_type = json.get_string("model_type");
  info.layers = json.get_int("layers", 1, 65536);
  info.hidden_size = json.get_int("hidden_size", 1, kMaxSize);
  info.intermediate_size = json.get_int("intermediate_size", 1, kMaxSize);
  info.heads = json.get_int("heads", 1, 65536);
  info.kv_heads = json.get_int("kv_heads", 1, 65536);
  info.head_dim = json.get_int("head_dim", 1, 65536);
  info.vocabulary = json.get_int("vocabulary", 1, kMaxSize);
  info.context_length = json.get_int("context_length", 1, kMaxContext);
  info.open_context = json.get_bool_or("open_context", false);
  info.tied_head = json.get_bool("tied_head");
  const auto token = [&](const char* key) -> std::optional<std::int64_t> {
    if (!json.has(key)) return std::nullopt;
    return json.get_int(key, 0, info.vocabulary - 1);
  };
  info.bos = token("bos");
  info.pad = token("pad");
  info.eos = json.get_ints("eos");
  for (const std::int64_t id : info.eos)
    if (id < 0 || id >= info.vocabulary)
      fail(ErrorCode::kFormat, "[model] {}.eos: expected ids in [0, {}), got {}", json.where(),
           info.vocabulary, id);
  return info;
}

}  // namespace tandem
