// GGUF as a checkpoint: names, configurations, the converters' changes to tensors, and the reverse.
#include "checkpoint/gguf/gguf_checkpoint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf/gguf_export.h"
#include "checkpoint/gguf/gguf_mixture.h"
#include "checkpoint/safetensors.h"
#include "support.h"

namespace tandem {
namespace {

using testing::error_of;

// A model folder with a vocabulary of as many tokens as its configuration wants.
void write_vocabulary(const fs::path& folder, std::int64_t size) {
  Json vocabulary = Json::object();
  for (std::int64_t i = 0; i < size; ++i) vocabulary[fmt::format("t{}", i)] = i;
  const Json tokenizer = {
      {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"use_regex", true}}}};
  write_text_file(folder / "tokenizer.json", tokenizer.dump());
}

class GgufCheckpoint : public ::testing::Test {
 protected:
  // The checkpoint as GGUF, opened.
  Checkpoint through_gguf(const fs::path& folder, GgmlType type) {
    write_gguf(scratch_ / "x.gguf", Checkpoint::open(folder), type);
    return Checkpoint::open(scratch_ / "x.gguf");
  }

  // Expects that the configuration is refused for `reason`, and gives it a value that is not.
  void change(const fs::path& folder, const char* key, Json value, const std::string& reason) {
    write_vocabulary(folder, 200);
    const std::string text = error_of([&] { through_gguf(folder, GgmlType::kF32); });
    EXPECT_NE(text.find(reason), std::string::npos) << text;
    Json config = read_json_file(folder / "config.json");
    config[key] = std::move(value);
    write_text_file(folder / "config.json", config.dump());
  }

  testing::ScratchFolder scratch_;
};

// Every family's tiny model, made by transformers, comes back with the same tensors.
TEST_F(GgufCheckpoint, TensorsSurviveTheTrip) {
  for (const char* name :
       {"llama_biased", "llama_rope", "llama_head_dim", "mistral_window", "qwen2_window", "qwen3",
        "phi3_longrope", "gemma2", "chatglm", "smollm3"}) {
    const fs::path folder = scratch_ / name;
    fs::copy(testing::fixture(fmt::format("models/fixtures/{}", name)), folder);
    // Two settings that the format has no place for, and what llama.cpp takes instead.
    if (std::string_view(name) == "gemma2")
      change(folder, "query_pre_attn_scalar", 16, "llama.cpp would take 16, got 20");
    if (std::string_view(name) == "smollm3")
      change(folder, "no_rope_layers", {1, 1, 1, 0}, "would leave out every 4th layer");
    const Checkpoint before = Checkpoint::open(folder);
    const Json& config = before.config();
    write_vocabulary(folder, config.contains("padded_vocab_size") ? config["padded_vocab_size"]
                                                                  : config["vocab_size"]);
    const Checkpoint after = through_gguf(folder, GgmlType::kF32);
    for (const auto& [tensor, shape] : before.contents()) {
      if (tensor.ends_with("inv_freq")) continue;
      ASSERT_TRUE(after.has(tensor)) << name << " " << tensor;
      const std::vector<float> want = before.tensor(tensor, shape).to_floats();
      const std::vector<float> got = after.tensor(tensor, shape).to_floats();
      // Of gemma2's norms 1 was added and taken away again.
      const float tolerance = tensor.ends_with("norm.weight") ? 2e-7f : 0;
      for (std::size_t i = 0; i < want.size(); ++i)
        ASSERT_NEAR(got[i], want[i], tolerance) << name << " " << tensor << " " << i;
    }
    for (const char* key :
         {"model_type", "hidden_size", "num_hidden_layers", "intermediate_size",
          "num_attention_heads", "tie_word_embeddings", "sliding_window", "query_pre_attn_scalar",
          "multi_query_group_num", "kv_channels", "ffn_hidden_size", "head_dim"}) {
      if (config.contains(key) && after.config().contains(key)) {
        EXPECT_EQ(after.config()[key], config[key]) << name << " " << key;
      }
    }
  }
}

// A configuration that says "tied" does not make a head of its own the embedding.
TEST_F(GgufCheckpoint, KeepsAHeadThatDiffersFromTheEmbedding) {
  for (const char* name : {"llama_head_dim", "chatglm"}) {
    const fs::path folder = scratch_ / name;
    fs::copy(testing::fixture(fmt::format("models/fixtures/{}", name)), folder);
    const bool glm = std::string_view(name) == "chatglm";
    const std::string head = glm ? "transformer.output_layer.weight" : "lm_head.weight";
    const std::string table =
        glm ? "transformer.embedding.word_embeddings.weight" : "model.embed_tokens.weight";
    auto tensors = SafetensorsFile::open(folder / "model.safetensors").tensors;
    Json config = read_json_file(folder / "config.json");
    config["tie_word_embeddings"] = true;
    write_text_file(folder / "config.json", config.dump());
    write_vocabulary(folder, config[glm ? "padded_vocab_size" : "vocab_size"]);
    const auto with_head = [&](const Tensor& tensor) {
      tensors[head] = tensor;
      fs::create_directories(scratch_ / "new");
      write_safetensors(scratch_ / "new/model.safetensors", tensors);
      fs::rename(scratch_ / "new/model.safetensors", folder / "model.safetensors");
      return through_gguf(folder, GgmlType::kF32);
    };
    const Tensor embedding = tensors.at(table);
    std::vector<float> values = embedding.to_floats();
    values.back() += 1;
    const Checkpoint own = with_head(Tensor::from_floats(values, embedding.shape()));
    ASSERT_TRUE(own.has(head)) << name;
    EXPECT_EQ(own.tensor(head, embedding.shape()).to_floats(), values);
    EXPECT_EQ(own.config()["tie_word_embeddings"], false);
    EXPECT_FALSE(
        with_head(Tensor::from_floats(embedding.to_floats(), embedding.shape())).has(head));
  }
}

TEST_F(GgufCheckpoint, LeavesOutWhatTheArchitectureHasNoPlaceFor) {
  const fs::path folder = scratch_ / "model";
  fs::copy(testing::fixture("models/fixtures/llama_head_dim"), folder);
  auto tensors = SafetensorsFile::open(folder / "model.safetensors").tensors;
  write_vocabulary(folder, read_json_file(folder / "config.json")["vocab_size"]);
  const std::size_t before = through_gguf(folder, GgmlType::kF32).tensors().size();
  tensors["model.layers.0.k_scale"] = Tensor::from_floats(std::vector{1.0f}, {1});
  write_safetensors(scratch_ / "more.safetensors", tensors);
  fs::rename(scratch_ / "more.safetensors", folder / "model.safetensors");
  EXPECT_EQ(through_gguf(folder, GgmlType::kF32).tensors().size(), before);
  write_safetensors(scratch_ / "other.safetensors",
                    {{"model.layers.0.k_scale", tensors.at("model.layers.0.k_scale")}});
  fs::rename(scratch_ / "other.safetensors", folder / "model.safetensors");
  EXPECT_NE(error_of([&] {
              through_gguf(folder, GgmlType::kF32);
            }).find("expected the tensors of a llama model, whose embedding is missing"),
            std::string::npos);
}

class Listener : public Observer {
 public:
  void begin(std::string_view, std::int64_t total, std::string_view) override { left = total; }
  void advance(std::int64_t count) override { left -= count; }
  void warn(std::string_view message) override { warnings.emplace_back(message); }
  bool cancelled() const override { return left <= stop_at; }

  std::int64_t left = 0;
  std::int64_t stop_at = -1;
  std::vector<std::string> warnings;
};

TEST_F(GgufCheckpoint, TellsItsObserverAboutProgressAndWhatIsLost) {
  const fs::path folder = scratch_ / "window";
  fs::copy(testing::fixture("models/fixtures/mistral_window"), folder);
  const Checkpoint checkpoint = Checkpoint::open(folder);
  write_vocabulary(folder, checkpoint.config()["vocab_size"]);
  Listener listener;
  write_gguf(scratch_ / "x.gguf", checkpoint, GgmlType::kF32, listener);
  EXPECT_EQ(listener.left, 0);
  ASSERT_EQ(listener.warnings.size(), 1u);
  EXPECT_NE(listener.warnings[0].find("llama.cpp has no sliding window for llama"),
            std::string::npos)
      << listener.warnings[0];
}

TEST_F(GgufCheckpoint, WritesNothingWhenItIsCancelled) {
  Listener listener;
  listener.stop_at = 3;
  EXPECT_EQ(error_of([&] {
              write_gguf(scratch_ / "x.gguf", Checkpoint::open(testing::demo_dir()), GgmlType::kF16,
                         listener);
            }),
            "[convert] interrupted");
  EXPECT_EQ(listener.left, 3);
  EXPECT_TRUE(fs::is_empty(scratch_.path()));
}

// A tensor that stays in the file is known by its place there; one that was changed is not.
TEST_F(GgufCheckpoint, KnowsWhatLiesInTheFile) {
  const fs::path folder = testing::fixture("models/fixtures/llama_head_dim");
  fs::copy(folder, scratch_ / "model");
  const Checkpoint before = Checkpoint::open(scratch_ / "model");
  write_vocabulary(scratch_ / "model", before.config()["vocab_size"]);
  const Checkpoint after = through_gguf(scratch_ / "model", GgmlType::kF32);
  const Tensor kept = after.load("model.layers.0.mlp.up_proj.weight");
  const Tensor reordered = after.load("model.layers.0.self_attn.q_proj.weight");
  ASSERT_NE(kept.file(), nullptr);
  EXPECT_EQ(kept.file()->path(), scratch_ / "x.gguf");
  EXPECT_TRUE(kept.identity().starts_with(file_stamp(scratch_ / "x.gguf")));
  EXPECT_NE(kept.identity(), after.load("model.layers.0.mlp.gate_proj.weight").identity());
  EXPECT_EQ(reordered.file(), nullptr);
}

TEST_F(GgufCheckpoint, DescribesTheDemo) {
  const Checkpoint before = Checkpoint::open(testing::demo_dir());
  const Checkpoint after = through_gguf(testing::demo_dir(), GgmlType::kF16);
  EXPECT_EQ(after.tensors().size(), before.tensors().size());
  for (const char* key : {"model_type", "hidden_size", "vocab_size", "rope_theta", "bos_token_id",
                          "tie_word_embeddings", "max_position_embeddings"})
    EXPECT_EQ(after.config().at(key), before.config().at(key)) << key;
  // The one configuration holds what two files did.
  EXPECT_EQ(after.config().at("eos_token_id"), before.generation_config().at("eos_token_id"));
}

// With or without a factor; without one, those known change nothing.
TEST_F(GgufCheckpoint, PassesEveryRopeScalingOn) {
  through_gguf(testing::demo_dir(), GgmlType::kF16);
  GgufFile file = GgufFile::open(scratch_ / "x.gguf");
  const std::string name = file.metadata.at("general.architecture");
  const auto scaling = [&](const char* type) {
    file.metadata[name + ".rope.scaling.type"] = type;
    return config_from_gguf(file, *find_gguf_architecture(name), "x.gguf")
        .value("rope_scaling", Json());
  };
  EXPECT_EQ(scaling("none"), Json());
  EXPECT_EQ(scaling("linear"), Json());
  EXPECT_EQ(scaling("spiral").at("rope_type"), "spiral");
  file.metadata[name + ".rope.scaling.factor"] = 2.0;
  EXPECT_EQ(scaling("linear"), (Json{{"rope_type", "linear"}, {"factor", 2.0}}));
  EXPECT_EQ(scaling("spiral").at("factor"), 2.0);
}

TEST_F(GgufCheckpoint, KeepsQ4InFourBits) {
  const Checkpoint checkpoint = through_gguf(testing::demo_dir(), GgmlType::kQ4_0);
  const std::string module = "model.layers.0.mlp.up_proj";
  const Weight weight = checkpoint.linear(module, 768, 256);
  EXPECT_EQ(describe(weight), "int4 g32 [768, 256]");
  validate(weight, module);
  EXPECT_EQ(dequantize_rows(weight, 0, 768),
            checkpoint.tensor(module + ".weight", {768, 256}).to_floats());
  EXPECT_EQ(checkpoint.tensors().at(module + ".weight").type, "Q4_0");
  EXPECT_EQ(checkpoint.tensors().at("model.embed_tokens.weight").type, "Q8_0");
}

// The types that llama.cpp's quantizer gives for Q4_K_S and Q6_K, with six layers and a tied head.
TEST_F(GgufCheckpoint, MixesTypesAsLlamaCpp) {
  for (const auto& [type, number] : {std::pair{GgmlType::kQ4_K, 14U}, {GgmlType::kQ6_K, 18U}}) {
    const Checkpoint checkpoint = through_gguf(testing::demo_dir(), type);
    const auto kept = GgufFile::open(scratch_ / "x.gguf");
    EXPECT_EQ(kept.metadata.at("general.file_type"), number);
    std::map<std::string, int> counts;
    for (const auto& [name, tensor] : checkpoint.tensors()) ++counts[tensor.type];
    const auto of = [&](const std::string& name) { return checkpoint.tensors().at(name).type; };
    EXPECT_EQ(of("model.embed_tokens.weight"), "Q6_K");
    EXPECT_EQ(of("model.layers.0.mlp.down_proj.weight"), to_string(type));
    if (type == GgmlType::kQ4_K) {
      EXPECT_EQ(of("model.layers.3.self_attn.v_proj.weight"), "Q5_K");
      EXPECT_EQ(of("model.layers.4.self_attn.v_proj.weight"), "Q4_K");
      EXPECT_EQ(counts,
                (std::map<std::string, int>{{"F32", 31}, {"Q4_K", 38}, {"Q5_K", 4}, {"Q6_K", 1}}));
    } else {
      EXPECT_EQ(counts, (std::map<std::string, int>{{"F32", 31}, {"Q6_K", 43}}));
    }
  }
}

TEST(GgufMixture, FallsBackAsLlamaCpp) {
  GgufMixture small(GgmlType::kQ4_K, 16, false);
  EXPECT_EQ(small.choose("blk.9.attn_q.weight", {64, 64}), GgmlType::kQ5_0);
  EXPECT_EQ(small.choose("blk.0.attn_v.weight", {64, 64}), GgmlType::kQ5_1);
  EXPECT_EQ(small.choose("blk.1.ffn_down.weight", {64, 512}), GgmlType::kQ5_K);
  EXPECT_EQ(small.choose("blk.2.ffn_down.weight", {64, 512}), GgmlType::kQ4_K);
  EXPECT_EQ(small.choose("output.weight", {64, 64}), GgmlType::kQ8_0);
  EXPECT_EQ(small.choose("token_embd.weight", {64, 512}), GgmlType::kQ4_K);
  EXPECT_EQ(small.choose("blk.2.ffn_up.weight", {64, 48}), GgmlType::kF16);
  EXPECT_EQ(small.choose("blk.2.attn_norm.weight", {48}), GgmlType::kF32);
  EXPECT_EQ(small.fallen_back(), 4);
  EXPECT_EQ(error_of([] { gguf_file_type(GgmlType::kQ5_K); }),
            "[gguf] files of type Q5_K are not written here");
}

TEST_F(GgufCheckpoint, SaysHowManyFallBack) {
  const fs::path folder = scratch_ / "model";
  fs::copy(testing::fixture("models/fixtures/llama_head_dim"), folder);
  const auto size = read_json_file(folder / "config.json").at("vocab_size").get<std::int64_t>();
  write_vocabulary(folder, size);
  Listener listener;
  write_gguf(scratch_ / "x.gguf", Checkpoint::open(folder), GgmlType::kQ6_K, listener);
  // Two layers of seven, the embedding and the head.
  EXPECT_EQ(listener.warnings,
            std::vector<std::string>{"[gguf] 16 matrices are not of whole Q6_K blocks in each row "
                                     "and have a type of smaller blocks"});
}

TEST_F(GgufCheckpoint, RefusesWhatItDoesNotKnow) {
  const auto open = [&](const std::string& architecture, const std::string& tensor) {
    GgufMetadata metadata;
    metadata.add_string("general.architecture", architecture);
    GgufWriter writer(scratch_ / "bad.gguf", metadata, {{tensor, GgmlType::kF32, {2, 2}}});
    const std::vector<float> values(4);
    writer.write(std::as_bytes(std::span(values)));
    writer.finish();
    return error_of([&] { Checkpoint::open(scratch_ / "bad.gguf"); });
  };
  EXPECT_NE(open("mamba", "x.weight").find("expected one of llama, qwen2, qwen3, phi3"),
            std::string::npos);
  EXPECT_NE(open("llama", "x.weight").find("expected the matrix token_embd.weight"),
            std::string::npos);
  EXPECT_NE(open("llama", "token_embd.weight").find("llama.embedding_length: is missing"),
            std::string::npos);
}

// Added tokens have the ids that Hugging Face's library assigns, not those that the file lists.
TEST_F(GgufCheckpoint, NumbersAddedTokensAsTheReference) {
  const fs::path folder = scratch_ / "model";
  fs::copy(testing::fixture("models/fixtures/llama_head_dim"), folder);
  const auto size = read_json_file(folder / "config.json").at("vocab_size").get<std::int64_t>();
  write_vocabulary(folder, size - 3);
  Json tokenizer = read_json_file(folder / "tokenizer.json");
  const auto added = [](std::int64_t id, const char* content) {
    return Json{{"id", id}, {"content", content}, {"special", true}};
  };
  tokenizer["added_tokens"] = {added(size - 1, "<e>"), added(3, "<f>"), added(9, "t5"),
                               added(size + 7, "<e>")};
  const auto tokens = [&] {
    write_text_file(folder / "tokenizer.json", tokenizer.dump());
    through_gguf(folder, GgmlType::kF32);
    return GgufFile::open(scratch_ / "x.gguf").metadata.at("tokenizer.ggml.tokens");
  };
  const Json numbered = tokens();
  const auto at = [](std::int64_t id) { return static_cast<std::size_t>(id); };
  EXPECT_EQ(numbered.at(at(size - 3)), "<e>");
  EXPECT_EQ(numbered.at(at(size - 2)), "<f>");
  EXPECT_EQ(numbered.at(3), "t3");
  EXPECT_EQ(numbered.at(5), "t5");
  tokenizer["added_tokens_keep_ids"] = true;
  tokenizer["added_tokens"].erase(3);
  EXPECT_EQ(tokens().at(at(size - 1)), "<e>");
  tokenizer.erase("added_tokens_keep_ids");
  for (int i = 0; i < 3; ++i)
    tokenizer["added_tokens"].push_back(added(1, fmt::format("<{}>", i).c_str()));
  EXPECT_NE(error_of(tokens).find("expected less than vocab_size"), std::string::npos);
}

TEST_F(GgufCheckpoint, WritesNothingForATokenizerThatHasNoForm) {
  const fs::path folder = scratch_ / "model";
  fs::copy(testing::fixture("models/fixtures/qwen3"), folder);
  const auto error = [&](const std::string& tokenizer) {
    write_text_file(folder / "tokenizer.json", tokenizer);
    return error_of([&] { through_gguf(folder, GgmlType::kF16); });
  };
  EXPECT_NE(
      error(R"({"model":{"type":"Unigram","vocab":[]}})").find("expected a model of type BPE"),
      std::string::npos);
  EXPECT_NE(error(R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"pre_tokenizer":
                     {"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"x+"}},
                     {"type":"ByteLevel","use_regex":false}]}})")
                .find("expected a pattern that llama.cpp knows, got \"x+\""),
            std::string::npos);
  EXPECT_NE(error(R"({"model":{"type":"BPE","vocab":{"a":-1},"merges":[]}})").find("model.vocab.a"),
            std::string::npos);
  EXPECT_FALSE(fs::exists(scratch_ / "x.gguf"));
}

}  // namespace
}  // namespace tandem
