// Int4 in blocks with integer scales (LPBQ) against NumPy, and what it makes of the demo.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/json.h"
#include "package/package.h"
#include "quantize/demo_graph.h"
#include "quantize/fake_quantize.h"
#include "quantize/forecast.h"
#include "quantize/rtn.h"
#include "quantize/tiny_checkpoint.h"

namespace tandem::testing {
namespace {

// As in fixtures/make_lpbq.py.
constexpr std::int64_t kN = 12, kK = 192;

std::vector<float> weights() {
  std::vector<float> values;
  for (std::int64_t i = 0; i < kN * kK; ++i) {
    const std::uint32_t hash =
        (static_cast<std::uint32_t>(i) + 1) * 2654435761U + 7U * 40503U * 65536U;
    const auto noise = static_cast<float>(static_cast<double>(hash >> 8 & 0xFFFF) / 32767.5 - 1);
    const std::int64_t row = i / kK, column = i % kK;
    values.push_back(noise * (1.0F / static_cast<float>(column / 16 + 1)));
    if (row == 3) values.back() = 0;
    if (row == 4) values.back() = static_cast<float>(column) / 2 - 56;
  }
  return values;
}

Rows rows() { return stored_rows(Tensor::from_floats(weights(), {kN, kK})); }

TEST(BlockCodes, AreThoseOfNumPy) {
  ThreadPool pool(2);
  const Json fixtures = read_json_file(fixture("quantize/fixtures/lpbq.json"));
  for (const Json& expected : fixtures["cases"]) {
    const auto block = expected["block"].get<std::int64_t>();
    const ChannelCodes got = quantize_block_codes(*rows(), block, "w", pool);
    validate(got, "w");
    validate_codes(got, "w");
    EXPECT_EQ(got.block(), block);
    EXPECT_EQ(got.scales.to_floats(), expected["scales"].get<std::vector<float>>());
    const auto scales = expected["block_scales"].get<std::vector<int>>();
    const auto codes = expected["codes"].get<std::vector<int>>();
    for (std::size_t i = 0; i < scales.size(); ++i)
      EXPECT_EQ(got.block_scales.as<std::uint8_t>()[i], scales[i]) << block << ' ' << i;
    std::vector<std::int8_t> row(static_cast<std::size_t>(kK));
    for (std::int64_t n = 0; n < kN; ++n) {
      read_codes(got, n, 0, row);
      for (std::int64_t k = 0; k < kK; ++k) {
        const auto at = static_cast<std::size_t>(n * kK + k);
        EXPECT_EQ(row[static_cast<std::size_t>(k)],
                  codes[at] * scales[at / static_cast<std::size_t>(block)])
            << block << ' ' << n << ' ' << k;
      }
    }
  }
}

TEST(BlockCodes, AreWhatSearchesJudgeBy) {
  ThreadPool pool(2);
  const Scheme scheme{WeightType::kInt4, 32, DType::kF32, ActivationType::kStatic};
  const FakeQuantizer quantizer(scheme, kK);
  EXPECT_EQ(quantizer.group(), 32);
  EXPECT_EQ(quantizer.quantize_rows(*rows(), pool),
            dequantize_rows(quantize_block_codes(*rows(), 32, "w", pool), 0, kN));
  // A block alone has the finest scale that it can have.
  std::vector<float> block = {7, 3.4F, -0.6F, -7};
  block.resize(32);
  std::vector<std::uint8_t> codes(32);
  quantizer.quantize_group(block, codes);
  EXPECT_EQ((std::vector(block.begin(), block.begin() + 4)), (std::vector<float>{7, 3, -1, -7}));
}

TEST(BlockCodes, OfExtremeRows) {
  ThreadPool pool(1);
  std::vector<float> values(3 * 32, std::numeric_limits<float>::denorm_min());
  values[32] = std::numeric_limits<float>::max();
  values[33] = -std::numeric_limits<float>::max();
  values[64] = 1e-38F;
  const Rows extreme = stored_rows(Tensor::from_floats(values, {3, 32}));
  const ChannelCodes codes = quantize_block_codes(*extreme, 16, "w", pool);
  validate(codes, "w");
  validate_codes(codes, "w");
  const std::vector<float> got = dequantize_rows(codes, 1, 1);
  EXPECT_FLOAT_EQ(got[0], std::numeric_limits<float>::max());
  EXPECT_EQ(got[2], 0);
}

TEST(BlockCodes, RefuseWhatDoesNotFit) {
  ThreadPool pool(1);
  for (const std::int64_t block : {0, 8, 48, 128})
    EXPECT_EQ(
        error_of([&] { quantize_block_codes(*rows(), block, "model.x", pool); }),
        "[quantize] model.x: expected blocks of 16, 32 or 64 columns that divide K = 192, got " +
            std::to_string(block));
  std::vector<float> values = weights();
  values[5 * kK + 7] = std::numeric_limits<float>::quiet_NaN();
  const Rows bad = stored_rows(Tensor::from_floats(values, {kN, kK}));
  EXPECT_EQ(error_of([&] { quantize_block_codes(*bad, 32, "model.x", pool); }),
            "[quantize] model.x: row 5, column 7: expected a finite weight, got nan");
}

// Half a byte for each weight and a byte for each block, where int8 has one for each weight.
TEST(BlockCodes, HalveThePrefillModel) {
  const ScratchFolder folder;
  ThreadPool pool(2);
  Recipe recipe = quick_recipe();
  recipe.calibration = {.samples = 2, .window = 64};
  quantize_quickly(demo_dir(), folder / "w8", recipe);
  recipe.rules.front().prefill =
      Scheme{WeightType::kInt4, 32, DType::kF32, ActivationType::kStatic};
  quantize_quickly(demo_dir(), folder / "w4", recipe);
  const auto size = [&](const char* name) {
    return static_cast<double>(fs::file_size(folder / name / kPrefillFile));
  };
  EXPECT_LT(size("w4"), 0.57 * size("w8"));
  EXPECT_EQ(fs::file_size(folder / "w4" / kDecodeFile), fs::file_size(folder / "w8" / kDecodeFile));
  const DemoGraph demo;
  EXPECT_NEAR(static_cast<double>(forecast(demo.graph(), recipe, 128, 2, pool).disk_bytes),
              size("w4") + static_cast<double>(fs::file_size(folder / "w4" / kDecodeFile)),
              0.1 * size("w4"));
  const Package package = Package::open(folder / "w4", pool, {.verify = true});
  EXPECT_EQ(package.manifest()["format"], kPackageFormat);
  const Graph prefill = package.graph(Phase::kPrefill);
  for (const Node& node : prefill.nodes())
    if (node.name == "model.layers.0.mlp.down_proj") {
      EXPECT_EQ(describe(node.as<LinearAttributes>().weight).substr(0, 14), "int4 block 32 ");
    }
}

}  // namespace
}  // namespace tandem::testing
