// The model properties that ONNX Runtime GenAI reads.
#include "package/genai_config.h"

#include <algorithm>
#include <utility>

namespace tandem {
namespace {

// As the model builder writes them; none stands for the CPU.
OrderedJson provider_options(const GenaiModel& file) {
  if (file.provider == "cpu") return OrderedJson::array();
  OrderedJson options = OrderedJson::object();
  if (file.has_provider_options) {
    if (file.provider == "cuda") options = {{"enable_cuda_graph", "0"}};
    if (file.provider == "dml") options = {{"enable_graph_capture", "1"}};
    if (file.provider == "webgpu")
      options = {{"enableGraphCapture", "0"}, {"validationMode", "basic"}};
  }
  OrderedJson provider;
  provider[file.provider] = std::move(options);
  return OrderedJson::array({std::move(provider)});
}

}  // namespace

OrderedJson make_genai_config(const ModelInfo& info, const Json& generation,
                              const GenaiModel& file) {
  const auto number_or = [&](const char* key, double fallback) {
    const auto found = generation.find(key);
    if (found == generation.end() || !found->is_number()) return fallback;
    return JsonObject(generation, "generation_config.json").get_number(key);
  };
  // Converting a double beyond the range of an integer would be undefined behaviour.
  const double top_k = std::clamp(number_or("top_k", 50), 0.0, 2147483647.0);
  const double ngram = std::clamp(number_or("no_repeat_ngram_size", 0), 0.0, 2147483647.0);
  const auto sampled = generation.find("do_sample");
  const bool do_sample =
      sampled != generation.end() && sampled->is_boolean() && sampled->get<bool>();

  OrderedJson model;
  if (info.bos) model["bos_token_id"] = *info.bos;
  model["context_length"] = info.context_length;
  model["decoder"] = {
      {"session_options",
       {{"log_id", "onnxruntime-genai"}, {"provider_options", provider_options(file)}}},
      {"filename", file.filename},
      {"head_size", info.head_dim},
      {"hidden_size", info.hidden_size},
      {"inputs",
       {{"input_ids", "input_ids"},
        {"attention_mask", "attention_mask"},
        {"past_key_names", "past_key_values.%d.key"},
        {"past_value_names", "past_key_values.%d.value"}}},
      {"outputs",
       {{"logits", "logits"},
        {"present_key_names", "present.%d.key"},
        {"present_value_names", "present.%d.value"}}},
      {"num_attention_heads", info.heads},
      {"num_hidden_layers", info.layers},
      {"num_key_value_heads", info.kv_heads}};
  if (file.position_ids) model["decoder"]["inputs"]["position_ids"] = "position_ids";
  model["eos_token_id"] =
      info.eos.size() == 1 ? OrderedJson(info.eos.front()) : OrderedJson(info.eos);
  if (info.pad || !info.eos.empty())
    model["pad_token_id"] = info.pad.value_or(info.eos.empty() ? 0 : info.eos.front());
  model["type"] = info.model_type;
  model["vocab_size"] = info.vocabulary;

  OrderedJson search = {{"diversity_penalty", 0.0},
                        {"do_sample", do_sample},
                        {"early_stopping", true},
                        {"length_penalty", 1.0},
                        {"max_length", info.context_length},
                        {"min_length", 0},
                        {"no_repeat_ngram_size", static_cast<std::int64_t>(ngram)},
                        {"num_beams", 1},
                        {"num_return_sequences", 1},
                        {"past_present_share_buffer", true},
                        {"repetition_penalty", number_or("repetition_penalty", 1.0)},
                        {"temperature", number_or("temperature", 1.0)},
                        {"top_k", static_cast<std::int64_t>(top_k)},
                        {"top_p", number_or("top_p", 1.0)}};
  return {{"model", std::move(model)}, {"search", std::move(search)}};
}

}  // namespace tandem
