// Random weights in real shapes, and a tokenizer that knows only bytes.
#include "models/synth.h"

#include <array>
#include <cmath>
#include <memory>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/safetensors.h"
#include "tensor/half.h"

namespace tandem {
namespace {

constexpr std::array kShapes = {
    //         name             type     hidden  inter layers heads kv  dim  vocab   context tied
    //         bias   theta     epsilon
    SynthShape{"llama-3.2-1b", "llama", 2048, 8192, 16, 32, 8, 64, 128256, 8192, true, false,
               500000.0, 1e-5},
    SynthShape{"llama-3.2-3b", "llama", 3072, 8192, 28, 24, 8, 128, 128256, 8192, true, false,
               500000.0, 1e-5},
    SynthShape{"llama-3.1-8b", "llama", 4096, 14336, 32, 32, 8, 128, 128256, 8192, false, false,
               500000.0, 1e-5},
    SynthShape{"qwen2.5-0.5b", "qwen2", 896, 4864, 24, 14, 2, 64, 151936, 32768, true, true,
               1000000.0, 1e-6},
    SynthShape{"qwen2.5-1.5b", "qwen2", 1536, 8960, 28, 12, 2, 128, 151936, 32768, true, true,
               1000000.0, 1e-6},
    SynthShape{"demo", "qwen2", 256, 768, 6, 4, 2, 64, 4096, 512, true, true, 10000.0, 1e-6},
};

const SynthShape& find_shape(const std::string& name) {
  std::string known;
  for (const SynthShape& shape : kShapes) {
    if (shape.name == name) return shape;
    known += fmt::format(" {}", shape.name);
  }
  fail(ErrorCode::kInvalidArgument, "[synth] unknown shape \"{}\": expected one of{}", name, known);
}

OrderedJson config_of(const SynthShape& s) {
  return {{"architectures", {s.model_type == "llama" ? "LlamaForCausalLM" : "Qwen2ForCausalLM"}},
          {"model_type", s.model_type},
          {"hidden_size", s.hidden},
          {"intermediate_size", s.intermediate},
          {"num_hidden_layers", s.layers},
          {"num_attention_heads", s.heads},
          {"num_key_value_heads", s.kv_heads},
          {"head_dim", s.head_dim},
          {"vocab_size", s.vocabulary},
          {"max_position_embeddings", s.context},
          {"rms_norm_eps", s.norm_epsilon},
          {"rope_theta", s.rope_theta},
          {"hidden_act", "silu"},
          {"tie_word_embeddings", s.tied_head},
          {"bos_token_id", 256},
          {"eos_token_id", 256},
          {"torch_dtype", "bfloat16"}};
}

std::vector<SafetensorsWriter::Entry> tensors_of(const SynthShape& s) {
  std::vector<SafetensorsWriter::Entry> entries;
  const auto add = [&](const std::string& name, Shape shape) {
    entries.push_back({name, DType::kBF16, std::move(shape)});
  };
  add("model.embed_tokens.weight", {s.vocabulary, s.hidden});
  for (std::int64_t layer = 0; layer < s.layers; ++layer) {
    const std::string p = fmt::format("model.layers.{}.", layer);
    const std::int64_t q = s.heads * s.head_dim;
    const std::int64_t kv = s.kv_heads * s.head_dim;
    add(p + "input_layernorm.weight", {s.hidden});
    add(p + "self_attn.q_proj.weight", {q, s.hidden});
    add(p + "self_attn.k_proj.weight", {kv, s.hidden});
    add(p + "self_attn.v_proj.weight", {kv, s.hidden});
    if (s.qkv_bias) {
      add(p + "self_attn.q_proj.bias", {q});
      add(p + "self_attn.k_proj.bias", {kv});
      add(p + "self_attn.v_proj.bias", {kv});
    }
    add(p + "self_attn.o_proj.weight", {s.hidden, q});
    add(p + "post_attention_layernorm.weight", {s.hidden});
    add(p + "mlp.gate_proj.weight", {s.intermediate, s.hidden});
    add(p + "mlp.up_proj.weight", {s.intermediate, s.hidden});
    add(p + "mlp.down_proj.weight", {s.hidden, s.intermediate});
  }
  add("model.norm.weight", {s.hidden});
  if (!s.tied_head) add("lm_head.weight", {s.vocabulary, s.hidden});
  return entries;
}

// SplitMix64 as a counter-based generator: a number depends only on its index, so that threads can
// share the work in any way.
std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

void fill_random(std::uint16_t* out, std::int64_t count, std::uint64_t stream, ThreadPool& pool) {
  // A uniform distribution on [-a, a] has the standard deviation a / sqrt(3); a number is made from
  // 24 bits.
  const float width = 0.02f * std::sqrt(3.0f) * 0x1.0p-23f;
  pool.parallel_for(count, 32, [&](Range range) {
    for (std::int64_t i = range.begin; i < range.end; ++i) {
      const auto bits =
          static_cast<std::int32_t>(mix(stream + static_cast<std::uint64_t>(i)) >> 40);
      out[i] = float_to_bf16(static_cast<float>(bits - (1 << 23)) * width);
    }
  });
}

// The printable characters that represent bytes in byte-level vocabularies, in byte order (GPT-2's
// table).
std::vector<std::string> byte_symbols() {
  const auto utf8 = [](int code) {
    if (code < 0x80) return std::string(1, static_cast<char>(code));
    return std::string{static_cast<char>(0xC0 | (code >> 6)),
                       static_cast<char>(0x80 | (code & 0x3F))};
  };
  std::vector<std::string> symbols;
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    symbols.push_back(utf8(printable ? byte : next++));
  }
  return symbols;
}

OrderedJson byte_tokenizer() {
  OrderedJson vocabulary = OrderedJson::object();
  int id = 0;
  for (const std::string& symbol : byte_symbols()) vocabulary[symbol] = id++;
  const OrderedJson byte_level = {{"type", "ByteLevel"},
                                  {"add_prefix_space", false},
                                  {"trim_offsets", false},
                                  {"use_regex", true}};
  return {{"version", "1.0"},
          {"added_tokens",
           {{{"id", 256},
             {"content", "<|endoftext|>"},
             {"single_word", false},
             {"lstrip", false},
             {"rstrip", false},
             {"normalized", false},
             {"special", true}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"vocab", std::move(vocabulary)},
            {"merges", OrderedJson::array()}}}};
}

}  // namespace

std::vector<SynthShape> synth_shapes() { return {kShapes.begin(), kShapes.end()}; }

std::int64_t write_synth_checkpoint(const std::string& name, const fs::path& folder,
                                    std::uint64_t seed, ThreadPool& pool, Observer& observer) {
  const SynthShape& shape = find_shape(name);
  StagedFolder staged(folder);
  write_text_file(staged.path() / "config.json", config_of(shape).dump(2) + "\n");
  write_text_file(
      staged.path() / "generation_config.json",
      OrderedJson{{"bos_token_id", 256}, {"eos_token_id", 256}, {"do_sample", false}}.dump(2) +
          "\n");
  write_text_file(staged.path() / "tokenizer.json", byte_tokenizer().dump(1) + "\n");
  write_text_file(
      staged.path() / "tokenizer_config.json",
      OrderedJson{{"tokenizer_class", "PreTrainedTokenizerFast"}, {"eos_token", "<|endoftext|>"}}
              .dump(2) +
          "\n");

  const std::vector<SafetensorsWriter::Entry> entries = tensors_of(shape);
  SafetensorsWriter writer(staged.path() / "model.safetensors", entries,
                           {{"format", "pt"}, {kSynthMark, "synth"}});
  Task task(observer, "synth", static_cast<std::int64_t>(entries.size()), "tensors");
  std::int64_t parameters = 0;
  for (const SafetensorsWriter::Entry& entry : entries) {
    const std::int64_t count = element_count(entry.shape);
    const auto values =
        std::make_unique_for_overwrite<std::uint16_t[]>(static_cast<std::size_t>(count));
    if (entry.name.ends_with("norm.weight")) {
      std::fill_n(values.get(), count, float_to_bf16(1.0f));
    } else {
      fill_random(values.get(), count, mix(seed) + static_cast<std::uint64_t>(parameters), pool);
    }
    writer.write(entry.name,
                 std::as_bytes(std::span(values.get(), static_cast<std::size_t>(count))));
    parameters += count;
    task.advance();
  }
  writer.finish();
  staged.commit();
  return parameters;
}

}  // namespace tandem
