// Recipes: what they mean for a module, JSON both ways, and what is wrong with a file.
#include "quantize/recipe.h"

#include <gtest/gtest.h>

#include "package/package_files.h"

namespace tandem {
namespace {

using testing::error_of;

constexpr const char* kModule = "model.layers.3.mlp.down_proj";

Scheme scheme_of(const std::string& json) {
  const Recipe recipe =
      parse_recipe(R"({"rules": [{"match": "*", "decode": )" + json + "}]}", "r.json");
  return resolve(recipe, kModule).decode;
}

TEST(Recipe, IsTheDefaultUnlessItSaysMore) {
  EXPECT_EQ(to_json(parse_recipe("{}", "r.json")), to_json(default_recipe()));
  const Recipe recipe = parse_recipe(R"({"chunk": 64, "calibration": {"samples": 3}})", "r.json");
  EXPECT_EQ(recipe.chunk, 64);
  EXPECT_EQ(recipe.calibration.samples, 3);
  EXPECT_EQ(recipe.calibration.window, 512);
  EXPECT_EQ(recipe.calibration.input_bound, InputBound::kLeastError);
  EXPECT_EQ(recipe.rules.size(), 2u);
  EXPECT_EQ(recipe.kv, DType::kF16);
  const Recipe int8 = parse_recipe(R"({"kv": "int8"})", "r.json");
  EXPECT_EQ(int8.kv, DType::kI8);
  EXPECT_EQ(to_json(int8)["kv"], "int8");
  // No rule is another thing than none given.
  EXPECT_TRUE(parse_recipe(R"({"rules": []})", "r.json").rules.empty());
}

TEST(Recipe, DefaultIsInt4AndStaticInt8WithTheHeadInInt4) {
  const Recipe recipe = default_recipe(64, 32);
  const ModulePlan block = resolve(recipe, kModule);
  EXPECT_EQ(block.decode, (Scheme{WeightType::kUint4, 64}));
  EXPECT_EQ(block.prefill, (Scheme{WeightType::kInt8, 0, DType::kF32, ActivationType::kStatic}));
  const ModulePlan head = resolve(recipe, "lm_head");
  EXPECT_EQ(head.decode, (Scheme{WeightType::kUint4, 32}));
  EXPECT_EQ(head.prefill, head.decode);
  EXPECT_EQ(resolve(default_recipe(128, 0), "lm_head").decode, Scheme{});
}

TEST(Recipe, SchemesHaveTheUsualSettings) {
  EXPECT_EQ(scheme_of(R"("float")"), Scheme{});
  EXPECT_EQ(scheme_of(R"({"weights": "uint4"})"), (Scheme{WeightType::kUint4, 128}));
  EXPECT_EQ(scheme_of(R"({"weights": "int4"})"), (Scheme{WeightType::kInt4, 128}));
  EXPECT_EQ(scheme_of(R"({"weights": "uint8"})"), (Scheme{WeightType::kUint8, 0}));
  EXPECT_EQ(scheme_of(R"({"weights": "int8"})"), (Scheme{WeightType::kInt8, 0}));
  EXPECT_EQ(scheme_of(R"({"weights": "int4", "group": 32, "scales": "bfloat16"})"),
            (Scheme{WeightType::kInt4, 32, DType::kBF16}));
  EXPECT_EQ(scheme_of(R"({"weights": "uint4", "group": "row", "scales": "float32"})"),
            (Scheme{WeightType::kUint4, 0, DType::kF32}));
  EXPECT_EQ(scheme_of(R"({"weights": "int8", "activations": "dynamic"})"),
            (Scheme{WeightType::kInt8, 0, DType::kF32, ActivationType::kDynamic}));
  EXPECT_EQ(scheme_of(R"({"weights": "int8", "group": "row", "scales": "float32",
                          "activations": "static"})"),
            (Scheme{WeightType::kInt8, 0, DType::kF32, ActivationType::kStatic}));
  EXPECT_EQ(scheme_of(R"({"weights": "int8", "group": 64, "activations": "float"})"),
            (Scheme{WeightType::kInt8, 64}));
  for (const WeightType type : {WeightType::kInt8, WeightType::kUint8})
    EXPECT_EQ(scheme_of(fmt::format(R"({{"weights": "{}", "group": "tensor"}})", to_string(type))),
              (Scheme{type, kWholeTensor}));
}

TEST(Recipe, MatchesNamesPatternsAndExpressions) {
  const auto matches = [](const std::string& match, const std::string& module = kModule) {
    Recipe recipe;
    recipe.rules.push_back({.match = match, .decode = Scheme{WeightType::kUint4, 64}});
    return resolve(recipe, module).decode.weights == WeightType::kUint4;
  };
  EXPECT_TRUE(matches(kModule));
  EXPECT_FALSE(matches("model.layers.3.mlp"));
  EXPECT_FALSE(matches("down_proj"));
  EXPECT_TRUE(matches("*"));
  EXPECT_TRUE(matches("*.down_proj"));
  EXPECT_TRUE(matches("model.layers.?.mlp.*"));
  EXPECT_FALSE(matches("model.layers.?.mlp.*", "model.layers.12.mlp.up_proj"));
  // Anywhere in the name, unless it says otherwise.
  EXPECT_TRUE(matches("re:down"));
  EXPECT_TRUE(matches("re:layers\\.[0-3]\\."));
  EXPECT_FALSE(matches("re:layers\\.[0-2]\\."));
  EXPECT_TRUE(matches("re:^model.*proj$"));
  EXPECT_FALSE(matches("re:^layers"));
  EXPECT_TRUE(matches("re:"));
  // No pattern: the mark stands at the beginning.
  EXPECT_FALSE(matches("*re:down"));
}

TEST(Recipe, LaterRulesReplaceWhatTheySay) {
  Recipe recipe = parse_recipe(R"({"rules": [
    {"match": "*", "decode": {"weights": "uint4"}, "prefill": {"weights": "int8"}},
    {"match": "*.down_proj", "decode": {"weights": "int4", "group": 32}},
    {"match": "*.up_proj", "prefill": "decode"},
    {"match": "*.up_proj", "decode": "float"},
    {"match": "*.gate_proj", "prefill": "decode"},
    {"match": "*.gate_proj", "prefill": {"weights": "uint8"}}
  ]})",
                               "r.json");
  const ModulePlan down = resolve(recipe, "a.down_proj");
  EXPECT_EQ(down.decode.weights, WeightType::kInt4);
  EXPECT_EQ(down.prefill.weights, WeightType::kInt8);
  // What prefill follows is what decode has become in the end.
  const ModulePlan up = resolve(recipe, "a.up_proj");
  EXPECT_EQ(up.decode, Scheme{});
  EXPECT_EQ(up.prefill, Scheme{});
  const ModulePlan gate = resolve(recipe, "a.gate_proj");
  EXPECT_EQ(gate.decode.weights, WeightType::kUint4);
  EXPECT_EQ(gate.prefill.weights, WeightType::kUint8);
  // A module that no rule names is float; one whose prefill no rule names is read as it is written.
  EXPECT_EQ(resolve(Recipe{}, kModule).decode, Scheme{});
  recipe.rules = {{.match = "*", .decode = Scheme{WeightType::kUint4, 64}}};
  EXPECT_EQ(resolve(recipe, kModule).prefill, (Scheme{WeightType::kUint4, 64}));
}

TEST(Recipe, ExcludeLeavesBothPhasesFloat) {
  Recipe recipe = default_recipe();
  recipe.rules.push_back(exclude("*.down_proj"));
  const ModulePlan plan = resolve(recipe, kModule);
  EXPECT_EQ(plan.decode, Scheme{});
  EXPECT_EQ(plan.prefill, Scheme{});
  EXPECT_EQ(resolve(recipe, "a.up_proj").decode.weights, WeightType::kUint4);
}

TEST(Recipe, RuleThatMatchesNothingIsASlip) {
  Recipe recipe = default_recipe();
  const std::vector<std::string> modules = {"model.layers.0.mlp.up_proj", "lm_head"};
  check_matches(recipe, modules);
  for (const char* slip : {"*.donw_proj", "re:donw", "up_proj"}) {
    recipe.rules = {exclude("*"), exclude(slip)};
    EXPECT_EQ(error_of([&] { check_matches(recipe, modules); }),
              std::string("[recipe] \"") + slip +
                  "\" matches no module; modules are named like \"model.layers.0.mlp.up_proj\"");
  }
  recipe.rules = {exclude("evil\x1b[31m")};
  EXPECT_EQ(error_of([&] { check_matches(recipe, {}); }).find('\x1b'), std::string::npos);
}

TEST(Recipe, ExpressionThatIsMalformedIsNamed) {
  for (const char* bad : {"re:(", "re:[a", "re:*", "re:a{3,1}"}) {
    Recipe recipe;
    recipe.rules = {exclude(bad)};
    try {
      resolve(recipe, kModule);
      ADD_FAILURE() << bad;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kFormat);
      EXPECT_NE(std::string(error.what()).find(bad), std::string::npos) << error.what();
    }
    const Json rule = {{"match", bad}};
    const std::string message =
        error_of([&] { parse_recipe("{\"rules\": [\n" + rule.dump() + "]}", "r.json"); });
    EXPECT_TRUE(message.starts_with("[recipe] r.json:2: rules[0].match: ")) << message;
    EXPECT_NE(message.find(bad), std::string::npos) << message;
  }
}

TEST(Recipe, SurvivesJsonBothWays) {
  const char* const texts[] = {"{}", R"({"passes": [], "rules": []})",
                               R"({"passes": ["fold_norms", {"name": "untie_head"}, "fold_norms"],
          "rules": [
            {"match": "*", "decode": {"weights": "uint4", "group": 32, "scales": "bfloat16"},
             "prefill": {"weights": "int8", "activations": "dynamic"}},
            {"match": "re:layers\\.[01]\\.", "decode": {"weights": "int4", "group": "row"},
             "prefill": {"weights": "int8", "group": 64}},
            {"match": "a", "decode": {"weights": "uint8", "scales": "float32"}},
            {"match": "t", "decode": {"weights": "int8", "group": "tensor"}},
            {"match": "b", "prefill": {"weights": "int8", "activations": "static"}},
            {"match": "lm_head", "decode": "float", "prefill": "decode"},
            {"match": "c", "prefill": "float"},
            {"match": "d", "keep_codes": true}, {"match": "*", "keep_codes": false}],
          "calibration": {"samples": 5, "window": 77, "input_scale": "percentile"},
          "chunk": 4096})"};
  for (const char* text : texts) {
    const Recipe recipe = parse_recipe(text, "r.json");
    const OrderedJson json = to_json(recipe);
    const Recipe again = parse_recipe(json.dump(), "again.json");
    EXPECT_EQ(to_json(again), json);
    ASSERT_EQ(again.rules.size(), recipe.rules.size());
    for (std::size_t i = 0; i < recipe.rules.size(); ++i) {
      EXPECT_EQ(again.rules[i].match, recipe.rules[i].match);
      EXPECT_EQ(again.rules[i].decode, recipe.rules[i].decode) << i;
      EXPECT_EQ(again.rules[i].keep_codes, recipe.rules[i].keep_codes) << i;
      EXPECT_EQ(again.rules[i].prefill, recipe.rules[i].prefill) << i;
      EXPECT_EQ(again.rules[i].prefill_as_decode, recipe.rules[i].prefill_as_decode) << i;
    }
    ASSERT_EQ(again.passes.size(), recipe.passes.size());
    for (std::size_t i = 0; i < recipe.passes.size(); ++i)
      EXPECT_EQ(again.passes[i].name, recipe.passes[i].name);
    EXPECT_EQ(again.chunk, recipe.chunk);
    EXPECT_EQ(again.calibration.input_bound, recipe.calibration.input_bound);
  }
  // What is said of all modules gives way to codes that are there, unless told otherwise.
  const Recipe general = parse_recipe(texts[2], "r.json");
  EXPECT_TRUE(general.rules[0].keep_codes);
  EXPECT_FALSE(general.rules[1].keep_codes);
  EXPECT_FALSE(general.rules.back().keep_codes);
  // A recipe that no file wrote: of the built-in one.
  Recipe built = default_recipe(32, 0);
  built.rules.push_back(exclude("*.down_proj"));
  EXPECT_EQ(to_json(parse_recipe(to_json(built).dump(), "x")), to_json(built));
}

// {"line": …} stands for a value that is wrong, on a line of its own.
struct Wrong {
  const char* text;
  // After "[recipe] r.json:".
  const char* message;
};

TEST(Recipe, ErrorsNameFileLineAndKey) {
  const Wrong cases[] = {
      {"[]", "1: recipe: expected an object"},
      {"7", "1: recipe: expected an object"},
      {"{\n\"ruels\": []}",
       "2: ruels: unknown key, expected one of passes, rules, calibration, chunk, kv"},
      {"{\n\n\"passes\": {}}", "3: passes: expected an array"},
      {"{\n\"kv\": \"int4\"}", "2: kv: expected one of \"float16\", \"int8\", got \"int4\""},
      {"{\"passes\": [\n\"fold_norms\",\n\"unroll\"]}",
       "3: passes[1]: expected a pass, one of fold_norms, untie_head, rotate, smoothquant, awq, "
       "mse_clip, "
       "seqmse, gptq, got "
       "\"unroll\""},
      {"{\"passes\": [\n7]}", "2: passes[0]: expected an object"},
      {"{\"passes\": [\n{\"pass\": \"fold_norms\"}]}", "2: passes[0]: expected name to be a name"},
      {"{\"passes\": [{\n\"name\": 3}]}", "2: passes[0].name: expected name to be a name"},
      {"{\"passes\": [{\"name\": \"fold_norms\",\n\"strength\": 3}]}",
       "1: passes[0]: fold_norms has no settings, got \"strength\""},
      {"{\"passes\": [\n{\"name\": \"smoothquant\", \"alpha\": \"serch\"}]}",
       "2: passes[0]: alpha: expected a number in [0, 1] or \"search\", got \"serch\""},
      {"{\n\"rules\": \"*\"}", "2: rules: expected an array"},
      {"{\"rules\": [\n\"*\"]}", "2: rules[0]: expected an object"},
      {"{\"rules\": [\n{\"decode\": \"float\"}]}", "2: rules[0]: expected match to be a name"},
      {"{\"rules\": [{\n\"match\": \"\"}]}", "2: rules[0].match: expected match to be a name"},
      {"{\"rules\": [{\n\"match\": [\"*\"]}]}", "2: rules[0].match: expected match to be a name"},
      {"{\"rules\": [{\"match\": \"*\"},\n{\"match\": \"*\",\n\"decod\": 1}]}",
       "3: rules[1].decod: unknown key, expected one of match, decode, prefill, keep_codes"},
      {"{\"rules\": [{\"match\": \"*\",\n\"keep_codes\": 1}]}",
       "2: rules[0].keep_codes: expected true or false"},
      {"{\"rules\": [{\"match\": \"*\",\n\"decode\": 4}]}",
       "2: rules[0].decode: expected \"float\" or an object with \"weights\""},
      {"{\"rules\": [{\"match\": \"*\",\n\"decode\": \"decode\"}]}",
       "2: rules[0].decode: expected \"float\" or an object with \"weights\""},
      {"{\"rules\": [{\"match\": \"*\",\n\"prefill\": \"prefill\"}]}",
       "2: rules[0].prefill: expected \"float\" or an object with \"weights\""},
      {"{\"rules\": [{\"match\": \"*\", \"decode\":\n{\"group\": 32}}]}",
       "1: rules[0].decode: expected \"weights\""},
      {"{\"rules\": [{\"match\": \"*\", \"decode\": {\n\"weights\": \"int3\"}}]}",
       "2: rules[0].decode.weights: expected one of \"float\", \"uint4\", \"int4\", \"uint8\", "
       "\"int8\", got \"int3\""},
      {"{\"rules\": [{\"match\": \"*\", \"decode\": {\n\"weights\": 4}}]}",
       "2: rules[0].decode.weights: expected one of \"float\", \"uint4\", \"int4\", \"uint8\", "
       "\"int8\", got 4"},
      {"{\"rules\": [{\"match\": \"*\", \"decode\": {\"weights\": \"int4\",\n\"size\": 1}}]}",
       "2: rules[0].decode.size: unknown key, expected one of weights, group, scales, activations"},
      {"{\"rules\": [{\"match\": \"*\", \"decode\": {\"weights\": \"int4\",\n\"scales\": "
       "\"int8\"}}]}",
       "2: rules[0].decode.scales: expected one of \"float16\", \"bfloat16\", \"float32\", got "
       "\"int8\""},
      {"{\"rules\": [{\"match\": \"*\", \"prefill\": {\"weights\": \"int8\",\n\"activations\": "
       "\"int8\"}}]}",
       "2: rules[0].prefill.activations: expected one of \"float\", \"static\", \"static16\", "
       "\"dynamic\", got "
       "\"int8\""},
      {"{\n\"calibration\": []}", "2: calibration: expected an object"},
      {"{\"calibration\": {\n\"sample\": 1}}",
       "2: calibration.sample: unknown key, expected one of samples, window, input_scale, prefix, "
       "shadow"},
      {"{\"calibration\": {\n\"samples\": 0}}",
       "2: calibration.samples: expected an integer in [1, 1048576], got 0"},
      {"{\"calibration\": {\n\"window\": 1}}",
       "2: calibration.window: expected an integer in [2, 1048576], got 1"},
      {"{\"calibration\": {\n\"input_scale\": \"mean\"}}",
       "2: calibration.input_scale: expected one of \"least_error\", \"max\", \"percentile\", got "
       "\"mean\""},
      {"{\n\"chunk\": 0}", "2: chunk: expected an integer in [1, 4096], got 0"},
      {"{\n\"chunk\": 4097}", "2: chunk: expected an integer in [1, 4096], got 4097"},
      {"{\n\"chunk\": 1.5}", "2: chunk: expected an integer in [1, 4096], got 1.5"},
      {"{\n\"chunk\": 1e300}", "2: chunk: expected an integer in [1, 4096], got 1e+300"},
      {"{\n\"chunk\": null}", "2: chunk: expected an integer in [1, 4096], got null"},
      {"{\n\"chunk\": 18446744073709551615}",
       "2: chunk: expected an integer in [1, 4096], got 18446744073709551615"},
  };
  for (const Wrong& wrong : cases) {
    try {
      parse_recipe(wrong.text, "r.json");
      ADD_FAILURE() << wrong.text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kFormat) << wrong.text;
      EXPECT_EQ(error.what(), std::string("[recipe] r.json:") + wrong.message) << wrong.text;
    }
  }
}

TEST(Recipe, GroupsAreNumbersOrTheWholeRow) {
  for (const char* bad :
       {"0", "-1", "65537", "1.5", "\"32\"", "\"column\"", "true", "[32]", "null", "{}", "1e300"}) {
    const std::string text = R"({"rules": [{"match": "*", "decode": {"weights": "int4",)"
                             "\n\"group\": " +
                             std::string(bad) + "}}]}";
    const std::string message = error_of([&] { parse_recipe(text, "r.json"); });
    EXPECT_TRUE(message.starts_with(
        "[recipe] r.json:2: rules[0].decode.group: expected an integer in [1, 65536]"))
        << message;
  }
  EXPECT_EQ(scheme_of(R"({"weights": "int4", "group": 65536})").group, 65536);
}

TEST(Recipe, OneScalePerTensorIsForEightBits) {
  for (const char* type : {"int4", "uint4"})
    EXPECT_EQ(error_of([&] {
                parse_recipe(fmt::format("{{\"rules\": [{{\"match\": \"*\", \"decode\": {{"
                                         "\"weights\": \"{}\",\n\"group\": \"tensor\"}}}}]}}",
                                         type),
                             "r.json");
              }),
              "[recipe] r.json:2: rules[0].decode.group: one scale per tensor is for int8 and "
              "uint8");
}

TEST(Recipe, Int8ActivationsNeedInt8WeightsWithRowScales) {
  for (const char* kind : {"static", "static16", "dynamic"})
    for (const char* rest :
         {R"("weights": "uint4")", R"("weights": "uint8")",
          R"("weights": "int4", "scales": "float16")", R"("weights": "int8", "group": 64)",
          R"("weights": "int8", "scales": "float16")", R"("weights": "int8", "group": "tensor")",
          R"("weights": "float")"}) {
      const std::string text = std::string(R"({"rules": [{"match": "*", "prefill": {)") + rest +
                               ",\n\"activations\": \"" + kind + "\"}}]}";
      EXPECT_EQ(error_of([&] { parse_recipe(text, "r.json"); }),
                "[recipe] r.json:2: rules[0].prefill.activations: int8 activations need int8 "
                "weights or int4 in blocks, and one float32 scale for each row");
    }
}

TEST(Recipe, Int4WithInt8ActivationsIsInBlocks) {
  const Scheme usual = scheme_of(R"({"weights": "int4", "activations": "static"})");
  EXPECT_EQ(usual, (Scheme{WeightType::kInt4, 32, DType::kF32, ActivationType::kStatic}));
  EXPECT_EQ(scheme_of(R"({"weights": "int4", "group": 64, "activations": "dynamic"})"),
            (Scheme{WeightType::kInt4, 64, DType::kF32, ActivationType::kDynamic}));
  EXPECT_EQ(scheme_of(R"({"weights": "int4", "group": 16, "activations": "static16"})"),
            (Scheme{WeightType::kInt4, 16, DType::kF32, ActivationType::kStatic16}));
  EXPECT_EQ(scheme_of(R"({"weights": "int8", "activations": "static16"})"),
            (Scheme{WeightType::kInt8, 0, DType::kF32, ActivationType::kStatic16}));
  for (const char* group : {"\"row\"", "8", "48", "128"})
    EXPECT_EQ(error_of([&] {
                parse_recipe(fmt::format(R"({{"rules": [{{"match": "*", "prefill": {{
"weights": "int4", "activations": "static",
"group": {}}}}}]}})",
                                         group),
                             "r.json");
              }),
              "[recipe] r.json:3: rules[0].prefill.group: int4 with int8 activations is in blocks "
              "of 16, 32 or 64");
}

TEST(Recipe, FileThatIsNoJson) {
  const testing::ScratchFolder folder;
  EXPECT_NE(error_of([&] { read_recipe(folder / "none.json"); }).find("none.json"),
            std::string::npos);
  for (const char* text : {"", "{", "{\"chunk\": 1,}", "\xff", "{\"chunk\": 1, \"chunk\": 2}"}) {
    testing::write_bytes(folder / "r.json", text);
    EXPECT_NE(error_of([&] { read_recipe(folder / "r.json"); }).find("r.json"), std::string::npos);
  }
  testing::write_bytes(folder / "r.json", std::string((16 << 20) + 1, ' '));
  EXPECT_NE(error_of([&] { read_recipe(folder / "r.json"); }).find("r.json"), std::string::npos);
  // Text that means harm to a terminal is not repeated as it is.
  testing::write_bytes(folder / "r.json", "{\"evil\\u001b[31m\": 1}");
  EXPECT_EQ(error_of([&] { read_recipe(folder / "r.json"); }).find('\x1b'), std::string::npos);
  testing::write_bytes(folder / "r.json", "{\"chunk\": 17}");
  EXPECT_EQ(read_recipe(folder / "r.json").chunk, 17);
}

TEST(Recipe, HasAPrefix) {
  const auto calibration = [](const std::string& prefix) {
    return parse_recipe(R"({"calibration": {"prefix": )" + prefix + "}}", "r.json");
  };
  EXPECT_FALSE(calibration(R"("none")").calibration.has_prefix());
  EXPECT_TRUE(calibration(R"("search")").calibration.searches_prefix);
  EXPECT_EQ(calibration("[1, 13]").calibration.prefix, (std::vector<std::int32_t>{1, 13}));
  for (const char* prefix : {R"("none")", R"("search")", "[1, 13]"}) {
    const OrderedJson json = to_json(calibration(prefix));
    EXPECT_EQ(to_json(parse_recipe(json.dump(), "r.json")), json) << prefix;
  }
  for (const char* bad : {R"("some")", "[-1]", "[1.5]", "[3000000000]", "7", R"(["a"])"})
    EXPECT_NE(error_of([&] {
                calibration(bad);
              }).find("calibration.prefix: expected \"none\", \"search\" or at most 64 token ids"),
              std::string::npos)
        << bad;
}

TEST(Recipe, HasShadows) {
  const auto shadow = [](const std::string& words) {
    return parse_recipe("{\"calibration\": {\"shadow\": " + words + "}}", "r.json");
  };
  EXPECT_FALSE(shadow(R"("none")").calibration.shadow.any());
  EXPECT_EQ(shadow(R"({"threshold": 64})").calibration.shadow.threshold, 64);
  EXPECT_EQ(shadow(R"({"budget": 2.5})").calibration.shadow.budget, 2.5);
  for (const char* words : {R"("none")", R"({"threshold": 64})", R"({"budget": 2.5})"}) {
    const OrderedJson json = to_json(shadow(words));
    EXPECT_EQ(to_json(parse_recipe(json.dump(), "r.json")), json) << words;
  }
  const auto refusal = [&](const char* words) { return error_of([&] { shadow(words); }); };
  const std::string place = "[recipe] r.json:1: calibration.shadow";
  for (const char* bad : {"3", R"("search")", "{}", R"({"threshold": 64, "budget": 3})", "[]"})
    EXPECT_EQ(refusal(bad),
              fmt::format("{}: expected \"none\", {{\"threshold\": RATIO}} or {{\"budget\": "
                          "PERCENT}}, got {}",
                          place, parse_json(bad, "bad").dump()));
  EXPECT_EQ(refusal(R"({"size": 3})"),
            place + ".size: unknown key, expected one of threshold, budget");
  EXPECT_EQ(refusal(R"({"threshold": 0.5})"),
            place + ".threshold: expected a number in [1, 1000000], got 0.5");
  EXPECT_EQ(refusal(R"({"budget": 0})"),
            place + ".budget: expected a number in [0.01, 100], got 0");
  EXPECT_EQ(refusal(R"({"budget": "3"})"),
            place + ".budget: expected a number in [0.01, 100], got \"3\"");
}

}  // namespace
}  // namespace tandem
