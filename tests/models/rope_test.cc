// Inverse frequencies against those of transformers, in both spellings, and errors for invalid
// settings.
#include "models/rope.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <string>

#include "graph/rotary.h"
#include "support.h"

namespace tandem {
namespace {

using testing::error_of;

constexpr std::int64_t kContext = 131072;
// torch's power function may differ in the last place, and what it gives is multiplied and divided.
constexpr std::int32_t kPowerUlps = 2;

// Distance in units in the last place; both numbers are above zero.
std::int32_t ulps(float a, float b) {
  return std::abs(std::bit_cast<std::int32_t>(a) - std::bit_cast<std::int32_t>(b));
}

RopeParameters read(const Json& config) {
  return read_rope_parameters(JsonObject(config, "config.json"), kContext, 10000);
}

std::string reject(const std::string& text) {
  const Json config = parse_json(text, "test");
  return error_of([&] { read(config); });
}

// A configuration as transformers 4 wrote it, from the parameters of transformers 5.
Json old_spelling(Json parameters, const char* type_key) {
  Json config = {{"rope_theta", parameters["rope_theta"]}};
  parameters.erase("rope_theta");
  parameters[type_key] = parameters["rope_type"].get<std::string>();
  if (std::string(type_key) != "rope_type") parameters.erase("rope_type");
  config["rope_scaling"] = parameters;
  return config;
}

TEST(Rope, MatchesTransformersInEverySpelling) {
  const Json cases = read_json_file(testing::fixture("models/fixtures/inverse_frequencies.json"));
  ASSERT_GT(cases.size(), 20U);
  int equal = 0;
  int total = 0;
  for (const Json& one : cases) {
    const auto head_dim = one["head_dim"].get<std::int64_t>();
    const Json& parameters = one["rope_parameters"];
    const Json& expected = one["inv_freq"];
    for (const Json& config :
         {Json{{"rope_parameters", parameters}}, old_spelling(parameters, "rope_type"),
          old_spelling(parameters, "type")}) {
      const Rope rope = make_rope(read(config), head_dim, "config.json");
      const std::vector<float>& got = rope.inverse_frequencies;
      EXPECT_FLOAT_EQ(rope.attention_factor, one["attention_factor"].get<float>()) << config;
      ASSERT_EQ(got.size(), expected.size()) << config;
      for (std::size_t i = 0; i < got.size(); ++i) {
        ASSERT_LE(ulps(got[i], expected[i].get<float>()), kPowerUlps)
            << config << " head_dim " << head_dim << " at " << i << ": " << got[i] << ", expected "
            << expected[i];
        equal += got[i] == expected[i].get<float>();
        ++total;
      }
      if (!one.contains("long_inv_freq")) continue;
      EXPECT_EQ(rope.extension.original_context, 4096);
      for (std::size_t i = 0; i < got.size(); ++i)
        ASSERT_LE(
            ulps(rope.extension.inverse_frequencies.at(i), one["long_inv_freq"][i].get<float>()),
            kPowerUlps)
            << config;
    }
  }
  // The power function of torch rounds differently in a few places; the rest must be the same bits.
  EXPECT_GT(equal, total * 9 / 10) << equal << " of " << total;
}

TEST(Rope, DefaultsWhereTheConfigurationIsSilent) {
  for (const char* text : {"{}", R"({"rope_scaling": null})", R"({"rope_scaling": {}})",
                           R"({"rope_theta": 10000})", R"({"rope_parameters": {}})"}) {
    const Json config = parse_json(text, "test");
    const RopeParameters parameters = read(config);
    EXPECT_EQ(parameters.scaling, RopeParameters::Scaling::kDefault) << text;
    EXPECT_EQ(parameters.theta, 10000) << text;
  }
  // The object's base wins over the one beside it.
  const Json both = parse_json(
      R"({"rope_theta": 5.0, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}})", "");
  EXPECT_EQ(read(both).theta, 7);
}

TEST(Rope, TakesTheOriginalContextFromWhereverItIs) {
  const std::string scaling =
      R"("rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0)";
  const auto original = [&](const std::string& inside, const std::string& outside) {
    const Json config =
        parse_json("{\"rope_scaling\": {" + scaling + inside + "}" + outside + "}", "");
    return read(config).original_context;
  };
  EXPECT_EQ(original("", ""), kContext);
  EXPECT_EQ(original(R"(, "original_max_position_embeddings": 8192)", ""), 8192);
  EXPECT_EQ(original(R"(, "original_max_position_embeddings": 8192)",
                     R"(, "original_max_position_embeddings": 4096)"),
            4096);
}

TEST(Rope, RefusesOtherKinds) {
  EXPECT_EQ(reject(R"({"rope_scaling": {"type": "alibi", "factor": 2.0}})"),
            "[models] config.json: rope_scaling: type: expected \"default\", \"linear\", "
            "\"dynamic\", \"yarn\", \"longrope\" or \"llama3\", got \"alibi\"");
  EXPECT_EQ(
      reject(R"({"partial_rotary_factor": 1.5})"),
      "[models] config.json: partial_rotary_factor: expected a number in [1e-06, 1], got 1.5");
  EXPECT_EQ(reject(R"({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}})"),
            "[models] config.json: rope_parameters: full_attention: expected one set of parameters "
            "for all layers");
}

TEST(Rope, RefusesPartsAndFactorsThatDoNotFit) {
  const auto make = [](const char* text, std::int64_t head_dim) {
    const Json config = parse_json(text, "test");
    return error_of([&] { make_rope(read(config), head_dim, "config.json"); });
  };
  EXPECT_EQ(make(R"({"partial_rotary_factor": 0.5})", 6),
            "[models] config.json: partial_rotary_factor: expected an even part of head_dim = 6, "
            "got 3");
  EXPECT_EQ(make(R"({"partial_rotary_factor": 0.1})", 8),
            "[models] config.json: partial_rotary_factor: expected an even part of head_dim = 8, "
            "got 0");
  const char* longrope =
      R"({"rope_scaling": {"type": "longrope", "short_factor": [1, 2], "long_factor": [1, 2]}})";
  EXPECT_EQ(make(longrope, 6),
            "[models] config.json: rope scaling: expected a factor for each of 3 pairs, got 2");
  EXPECT_EQ(make(R"({"rope_scaling": {"type": "dynamic", "factor": 2.0}})", 2),
            "[models] config.json: head_dim: expected more than one pair for dynamic rope scaling");
}

TEST(Rope, StretchesTheContextWhereTheConfigurationDoesNot) {
  const auto context = [](const char* text, std::int64_t positions) {
    const Json config = parse_json(text, "test");
    return scaled_context(read_rope_parameters(JsonObject(config, "test"), positions, 10000),
                          positions);
  };
  EXPECT_EQ(context("{}", 4096), 4096);
  EXPECT_EQ(context(R"({"rope_scaling": {"type": "linear", "factor": 4.0}})", 4096), 16384);
  EXPECT_EQ(context(R"({"rope_scaling": {"type": "dynamic", "factor": 2.0}})", 4096), 8192);
  const char* yarn = R"({"rope_scaling": {"type": "yarn", "factor": 4.0,
                         "original_max_position_embeddings": 32768}})";
  EXPECT_EQ(context(yarn, 32768), 131072);
  EXPECT_EQ(context(yarn, 131072), 131072);
}

// transformers' _compute_dynamic_ntk_parameters, whose base follows the length reached and has no
// bound: theta * (factor * length / original - (factor - 1))^(dim / (dim - 2)).
TEST(Rope, DynamicBaseFollowsAnyLength) {
  const Json config = parse_json(
      R"({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "rope_theta": 10000})", "test");
  constexpr std::int64_t kOriginal = 4096;
  constexpr std::int64_t kDim = 64;
  const Rope rope = make_rope(read_rope_parameters(JsonObject(config, "test"), kOriginal, 10000),
                              kDim, "config.json");
  RotaryAnglesAttributes angles;
  angles.inverse_frequencies = rope.inverse_frequencies;
  angles.extension = rope.extension;
  std::vector<float> got(kDim / 2);
  for (const std::int64_t length : {4097, 8192, 8193, 16384, 100000, 1000000}) {
    ASSERT_EQ(rotary_epoch(rope.extension, length), length);
    write_frequencies(angles, length, got);
    const double base =
        10000 * std::pow(2.0 * static_cast<double>(length) / kOriginal - 1, kDim / (kDim - 2.0));
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double want = std::pow(base, -2.0 * static_cast<double>(i) / kDim);
      EXPECT_NEAR(got[i], want, 2e-6 * want) << length << " pair " << i;
    }
  }
}

TEST(Rope, RefusesHostileValues) {
  const struct {
    const char* text;
    const char* names;
  } cases[] = {
      {R"({"rope_theta": 0})", "rope_theta"},
      {R"({"rope_theta": -1})", "rope_theta"},
      {R"({"rope_theta": 1e300})", "rope_theta"},
      {R"({"rope_theta": 1e-300})", "rope_theta"},
      {R"({"rope_theta": "10000"})", "rope_theta"},
      {R"({"rope_theta": [1]})", "rope_theta"},
      {R"({"rope_scaling": "linear"})", "rope_scaling"},
      {R"({"rope_scaling": [1]})", "rope_scaling"},
      {R"({"rope_scaling": {"type": 3}})", "type"},
      {R"({"rope_scaling": {"type": "linear"}})", "factor"},
      {R"({"rope_scaling": {"type": "linear", "factor": 0}})", "factor"},
      {R"({"rope_scaling": {"type": "linear", "factor": -2.0}})", "factor"},
      {R"({"rope_scaling": {"type": "linear", "factor": null}})", "factor"},
      {R"({"rope_scaling": {"type": "llama3", "factor": 8.0}})", "low_freq_factor"},
      {R"({"rope_scaling": {"type": "llama3", "factor": 8.0, "low_freq_factor": 4,
           "high_freq_factor": 4}})",
       "high_freq_factor"},
      {R"({"rope_scaling": {"type": "llama3", "factor": 8.0, "low_freq_factor": 1,
           "high_freq_factor": 4, "original_max_position_embeddings": 0}})",
       "original_max_position_embeddings"},
      {R"({"rope_scaling": {"type": "dynamic"}})", "factor"},
      {R"({"rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": 0}})", "beta_fast"},
      {R"({"rope_scaling": {"type": "yarn", "factor": 2, "attention_factor": -1}})",
       "attention_factor"},
      {R"({"rope_scaling": {"type": "yarn", "factor": 2, "mscale": 1, "mscale_all_dim": -1e9}})",
       "mscale"},
      {R"({"rope_scaling": {"type": "longrope", "long_factor": [1]}})", "short_factor"},
      {R"({"rope_scaling": {"type": "longrope", "short_factor": 1, "long_factor": [1]}})",
       "short_factor"},
      {R"({"rope_scaling": {"type": "longrope", "short_factor": ["1"], "long_factor": [1]}})",
       "short_factor"},
      {R"({"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [0]}})",
       "long_factor"},
      {R"({"rope_parameters": {"frequency_factors": [0]}})", "frequency_factors"},
  };
  for (const auto& c : cases) {
    const std::string message = reject(c.text);
    EXPECT_NE(message.find("config.json: "), std::string::npos) << c.text << "\n" << message;
    EXPECT_NE(message.find(c.names), std::string::npos) << c.text << "\n" << message;
  }
}

}  // namespace
}  // namespace tandem
