// Round to nearest against AMD Quark's exports, value for value, and on weights that can't be
// quantized.
#include "quantize/rtn.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "quark_case.h"

namespace tandem::testing {
namespace {

// Codes, scales and zero points of a whole weight, from the formulas of single groups.
QuarkLinear quantize_by_groups(const std::vector<float>& weights, const QuarkLinear& like,
                               DType dtype, bool is_signed) {
  QuarkLinear result{like.n, like.k, like.group, {}, {}, {}};
  const auto group = static_cast<std::size_t>(like.group);
  std::vector<std::int8_t> int_codes(group);
  std::vector<std::uint8_t> uint_codes(group);
  for (std::size_t first = 0; first < weights.size(); first += group) {
    const std::span<const float> part(weights.data() + first, group);
    const GroupCode code = is_signed ? quantize_group_int4_symmetric(part, dtype, int_codes)
                                     : quantize_group_uint4(part, dtype, uint_codes);
    result.scales.push_back(code.scale);
    result.zero_points.push_back(code.zero_point);
    for (std::size_t i = 0; i < group; ++i)
      result.codes.push_back(is_signed ? int_codes[i] : uint_codes[i]);
  }
  return result;
}

template <typename T>
std::size_t count_unequal(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) return std::max(a.size(), b.size());
  std::size_t unequal = 0;
  for (std::size_t i = 0; i < a.size(); ++i) unequal += a[i] != b[i] ? 1 : 0;
  return unequal;
}

void expect_equal(const QuarkLinear& ours, const QuarkLinear& quark, const std::string& name) {
  EXPECT_EQ(count_unequal(ours.scales, quark.scales), 0U) << name << ": scales";
  EXPECT_EQ(count_unequal(ours.zero_points, quark.zero_points), 0U) << name << ": zero points";
  EXPECT_EQ(count_unequal(ours.codes, quark.codes), 0U) << name << ": codes";
}

GroupCodes uint4_groups(const Tensor& weight, std::int64_t group, const std::string& name,
                        ThreadPool& pool) {
  return quantize_group_codes(*stored_rows(weight), {.group = group}, name, pool);
}

ChannelCodes int8_channels(const Tensor& weight, const std::string& name, ThreadPool& pool) {
  return quantize_channel_codes(*stored_rows(weight), name, pool);
}

// The package's layout taken apart again.
QuarkLinear unpack(const GroupCodes& weight) {
  QuarkLinear result{weight.n, weight.k, weight.group, {}, {}, weight.scales.to_floats()};
  for (const std::uint8_t byte : weight.codes.as<std::uint8_t>()) {
    result.codes.push_back(byte & 15);
    result.codes.push_back(byte >> 4);
  }
  const std::int64_t groups = weight.k / weight.group;
  const auto zeros = weight.zero_points.as<std::uint8_t>();
  for (std::int64_t row = 0; row < weight.n; ++row)
    for (std::int64_t g = 0; g < groups; ++g) {
      const auto byte = zeros[static_cast<std::size_t>(row * ((groups + 1) / 2) + g / 2)];
      result.zero_points.push_back(g % 2 == 0 ? byte & 15 : byte >> 4);
    }
  return result;
}

class QuarkExport : public ::testing::TestWithParam<const char*> {};

TEST_P(QuarkExport, HasTheSameScalesZeroPointsAndCodes) {
  TANDEM_REQUIRE_SHARED(std::string("quark/") + GetParam());
  const QuarkCase quark(GetParam());
  const DType dtype = dtype_of_case(quark.description);
  ThreadPool pool(2);
  const auto names = quark.linears();
  ASSERT_FALSE(names.empty());
  for (const std::string& name : names) {
    const Tensor& weight = quark.float_weight(name);
    const QuarkLinear exported = quark.linear(name);
    ASSERT_EQ(exported.codes.size(), static_cast<std::size_t>(weight.elements())) << name;
    std::vector<float> floats = weight.to_floats();
    for (float& w : floats) w = as_loaded(w, dtype);
    expect_equal(quantize_by_groups(floats, exported, dtype, quark.is_signed()), exported, name);
    // A package's weight is what Quark makes when it loads in float16.
    if (dtype == DType::kF16 && !quark.is_signed() && exported.group <= 128)
      expect_equal(unpack(uint4_groups(weight, exported.group, name, pool)), exported,
                   name + " in a package");
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, QuarkExport,
                         ::testing::Values("rtn_g32_bfloat16", "rtn_g64_float16",
                                           "rtn_g128_float32", "rtn_g128_float16_head",
                                           "rtn_g128_float16_order", "rtn_int4_g128_float16",
                                           "rtn_per_channel_float16"),
                         [](const auto& instance) { return std::string(instance.param); });

TEST(QuarkCorners, AwkwardGroupsAgree) {
  TANDEM_REQUIRE_SHARED("quark/corner_groups.json");
  const Json corners = read_json_file(shared_data() / "quark/corner_groups.json");
  int groups = 0;
  for (const Json& part : corners) {
    const DType dtype = dtype_of_case(part);
    const bool is_signed = part.at("scheme") == "int4";
    for (std::size_t i = 0; i < part.at("weights").size(); ++i, ++groups) {
      const auto weights = part.at("weights")[i].get<std::vector<float>>();
      const auto fake = part.at("fake")[i].get<std::vector<float>>();
      const QuarkLinear like{1,
                             static_cast<std::int64_t>(weights.size()),
                             static_cast<std::int64_t>(weights.size()),
                             {},
                             {},
                             {}};
      const QuarkLinear ours = quantize_by_groups(weights, like, dtype, is_signed);
      const std::string where = part.at("scheme").get<std::string>() + " " +
                                std::string(to_string(dtype)) + " group " + std::to_string(i);
      EXPECT_EQ(ours.scales[0], part.at("scale")[i].get<float>()) << where;
      EXPECT_EQ(ours.zero_points[0], part.at("zero_point")[i].get<int>()) << where;
      for (std::size_t j = 0; j < weights.size(); ++j) {
        const int steps = ours.codes[j] - ours.zero_points[0];
        EXPECT_EQ(as_loaded(static_cast<float>(steps) * ours.scales[0], dtype), fake[j]) << where;
      }
    }
  }
  EXPECT_GE(groups, 100);
}

TEST(QuarkInt8, WeightScalesAndCodesPerTensorAgree) {
  TANDEM_REQUIRE_SHARED("quark/int8_float32");
  const QuarkCase quark("int8_float32");
  int scales = 0;
  int weights = 0;
  for (const auto& [name, tensor] : quark.file.tensors) {
    if (!name.ends_with(".weight_scale")) continue;
    const std::string linear = name.substr(0, name.size() - std::string(".weight_scale").size());
    const std::vector<float> floats = quark.float_weight(linear).to_floats();
    std::vector<std::int8_t> codes(floats.size());
    const GroupCode code = quantize_group_int8_symmetric(floats, DType::kF32, codes);
    EXPECT_EQ(code.scale, tensor.to_floats().at(0)) << linear;
    EXPECT_EQ(code.zero_point, 0);
    ++scales;
    const auto exported = quark.file.tensors.find(linear + ".weight");
    if (exported == quark.file.tensors.end()) continue;
    const auto bytes = exported->second.as<std::int8_t>();
    EXPECT_EQ(count_unequal(codes, std::vector<std::int8_t>(bytes.begin(), bytes.end())), 0U)
        << linear;
    ++weights;
  }
  EXPECT_EQ(scales, 42);
  EXPECT_GE(weights, 1);
}

// A [n, k] weight of float32 values that differ everywhere.
std::vector<float> some_weights(std::int64_t n, std::int64_t k) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < n * k; ++i)
    values.push_back(std::sin(static_cast<float>(i) * 0.37F) * 0.05F + 0.01F);
  return values;
}

TEST(PackageWeight, HoldsAnOddNumberOfGroupsAndDoesNotDependOnThreads) {
  const std::int64_t n = 5, k = 96;
  const auto values = some_weights(n, k);
  const Tensor weight = Tensor::from_floats(values, {n, k});
  ThreadPool one(1), three(3);
  const GroupCodes a = uint4_groups(weight, 32, "layer", one);
  const GroupCodes b = uint4_groups(weight, 32, "layer", three);
  validate(Weight(a), "layer");
  EXPECT_EQ(a.zero_points.shape(), (Shape{n, 2}));
  expect_equal(unpack(a), unpack(b), "threads");
  for (std::size_t row = 0; row < 5; ++row)
    EXPECT_EQ(a.zero_points.as<std::uint8_t>()[row * 2 + 1] >> 4, 0) << "unused nibble";
  const std::vector<float> back = dequantize_rows(Weight(a), 0, n);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const float scale = unpack(a).scales[i / 32];
    EXPECT_NEAR(back[i], values[i], scale * 0.51F) << i;
  }
}

TEST(PackageWeight, OfEveryFloatTypeAndEveryFloat16Value) {
  // Each finite float16 value survives the rounding of weights to float16 (scale and codes come out
  // equal for the value given as float16 and as float32), and float32 values between them round as
  // float_to_f16 does.
  std::vector<float> values;
  for (std::uint32_t h = 0; h < 0x7C00; ++h) {
    const float f = f16_to_float(static_cast<std::uint16_t>(h));
    values.push_back(f);
    values.push_back(f * 1.0004F < 65504 ? f * 1.0004F : f);
    const float next = f16_to_float(static_cast<std::uint16_t>(h + 1));
    if (std::isfinite(next)) values.push_back((f + next) / 2);  // a tie
  }
  values.resize(values.size() / 32 * 32);
  for (std::size_t i = 1; i < values.size(); i += 4)
    if (values[i] < 40000) values[i] *= -0.4F;  // the spread of a group stays in range
  const auto n = static_cast<std::int64_t>(values.size() / 32);
  std::vector<std::uint16_t> halves;
  for (const float f : values) halves.push_back(float_to_f16(f));
  const Tensor as_half(DType::kF16, {n, 32}, std::as_bytes(std::span(halves)), nullptr);
  ThreadPool pool(2);
  expect_equal(unpack(uint4_groups(Tensor::from_floats(values, {n, 32}), 32, "f32", pool)),
               unpack(uint4_groups(as_half, 32, "f16", pool)), "float32");
}

// Every format against the formula of its groups, over rows that are stored and rows that are
// computed.
TEST(GroupFormats, FollowTheFormulasOfSingleGroups) {
  const std::int64_t n = 130, k = 90;
  const std::vector<float> values = some_weights(n, k);
  const Rows stored = stored_rows(Tensor::from_floats(values, {n, k}));
  const Rows computed = scale_rows(stored, std::vector<float>(static_cast<std::size_t>(n), 1.0F));
  ASSERT_EQ(computed->stored(), nullptr);
  ThreadPool pool(3);
  for (const int bits : {4, 8})
    for (const bool is_signed : {false, true})
      for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32})
        for (const std::int64_t group : {1, 5, 9, 18, 90}) {
          const GroupFormat format{bits, is_signed, group, dtype};
          const GroupCodes ours = quantize_group_codes(*stored, format, "layer", pool);
          SCOPED_TRACE(describe(ours) + " " + std::string(to_string(dtype)));
          validate(Weight(ours), "layer");
          EXPECT_EQ(ours.scales.dtype(), dtype);
          EXPECT_EQ(ours.zero_points.empty(), is_signed);
          std::vector<float> expected;
          std::vector<std::uint8_t> codes(static_cast<std::size_t>(group));
          std::vector<std::int8_t> int_codes(static_cast<std::size_t>(group));
          for (std::size_t first = 0; first < values.size(); first += codes.size()) {
            std::vector<float> part(values.begin() + static_cast<std::ptrdiff_t>(first),
                                    values.begin() + static_cast<std::ptrdiff_t>(first) + group);
            for (float& w : part) w = as_loaded(w, dtype);
            const GroupCode code =
                is_signed   ? (bits == 4 ? quantize_group_int4_symmetric(part, dtype, int_codes)
                                         : quantize_group_int8_symmetric(part, dtype, int_codes))
                : bits == 4 ? quantize_group_uint4(part, dtype, codes)
                            : quantize_group_uint8(part, dtype, codes);
            for (std::size_t i = 0; i < codes.size(); ++i)
              expected.push_back(
                  static_cast<float>((is_signed ? int_codes[i] : codes[i]) - code.zero_point) *
                  code.scale);
          }
          EXPECT_EQ(dequantize_rows(ours, 0, n), expected);
          const GroupCodes again = quantize_group_codes(*computed, format, "layer", pool);
          EXPECT_EQ(dequantize_rows(again, 0, n), expected);
          // Half a step each for the code, the zero point and a scale in BF16 (255 codes of a
          // relative 2^-9); the rounding of the weight itself; for a scale below F16's normal
          // numbers, half a step of 2^-24 for each of 255 codes.
          const std::vector<float> scales = ours.scales.to_floats();
          for (std::size_t i = 0; i < expected.size(); ++i)
            EXPECT_NEAR(
                expected[i], values[i],
                scales[i / codes.size()] * 1.5F + std::fabs(values[i]) * 0x1p-8F + 0x1p-17F);
        }
}

TEST(GroupFormats, Uint8UsesItsRange) {
  const std::vector<float> weights = {-1.0F, 0.0F, 0.5F, 1.55F};
  std::vector<std::uint8_t> codes(4);
  const GroupCode code = quantize_group_uint8(weights, DType::kF32, codes);
  EXPECT_FLOAT_EQ(code.scale, 2.55F / 255);
  EXPECT_EQ(code.zero_point, 100);
  EXPECT_EQ(codes, (std::vector<std::uint8_t>{0, 100, 150, 255}));
}

TEST(Int8PerChannel, OfComputedRowsIsThatOfStoredOnes) {
  const std::int64_t n = 70, k = 33;
  const Rows stored = stored_rows(Tensor::from_floats(some_weights(n, k), {n, k}));
  const Rows computed = scale_rows(stored, std::vector<float>(static_cast<std::size_t>(n), 1.0F));
  ThreadPool pool(2);
  const ChannelCodes a = quantize_channel_codes(*stored, "a", pool);
  const ChannelCodes b = quantize_channel_codes(*computed, "b", pool);
  EXPECT_EQ(dequantize_rows(a, 0, n), dequantize_rows(b, 0, n));
  EXPECT_EQ(a.scales.to_floats(), b.scales.to_floats());
  validate_codes(a, "a");
}

TEST(Int8PerChannel, ScalesEachRowByItsLargestWeight) {
  const std::int64_t n = 4, k = 300;
  std::vector<float> values = some_weights(n, k);
  for (std::int64_t i = 0; i < k; ++i) {
    values[static_cast<std::size_t>(k + i)] = 0;            // row 1: zeros
    values[static_cast<std::size_t>(2 * k + i)] *= 1e-42F;  // row 2: subnormal
  }
  values[3 * k + 299] = -12.7F;
  ThreadPool pool(2);
  const ChannelCodes weight = int8_channels(Tensor::from_floats(values, {n, k}), "layer", pool);
  const auto scales = weight.scales.as<float>();
  const auto codes = weight.codes.as<std::int8_t>();
  EXPECT_EQ(scales[1], 1.0F);
  EXPECT_GT(scales[2], 0.0F);
  EXPECT_FLOAT_EQ(scales[3], 0.1F);
  EXPECT_EQ(codes[3 * k + 299], -127);
  for (std::int64_t row : {0, 3}) {
    const float scale = scales[static_cast<std::size_t>(row)];
    for (std::int64_t i = 0; i < k; ++i) {
      const auto at = static_cast<std::size_t>(row * k + i);
      EXPECT_NEAR(codes[at] * scale, values[at], scale * 0.501F);
    }
  }
  for (std::size_t i = 0; i < static_cast<std::size_t>(k); ++i) EXPECT_EQ(codes[k + i], 0);
}

TEST(BadWeights, GroupThatDoesNotFit) {
  ThreadPool pool(1);
  const Tensor weight = Tensor::from_floats(some_weights(2, 96), {2, 96});
  EXPECT_EQ(error_of([&] { uint4_groups(weight, 128, "model.x", pool); }),
            "[quantize] model.x: K = 96 is not a multiple of the group size 128");
  for (const std::int64_t group : {0, -32})
    EXPECT_EQ(error_of([&] { uint4_groups(weight, group, "model.x", pool); }),
              "[quantize] model.x: group size " + std::to_string(group) +
                  ", expected a divisor of K = 96");
  EXPECT_NE(error_of([&] { uint4_groups(weight, 36, "model.x", pool); }).find("not a multiple"),
            std::string::npos);
}

TEST(BadWeights, FormatsThatAreNone) {
  ThreadPool pool(1);
  const Rows weight = stored_rows(Tensor::from_floats(some_weights(2, 96), {2, 96}));
  const auto message = [&](const GroupFormat& format) {
    return error_of([&] { quantize_group_codes(*weight, format, "model.x", pool); });
  };
  EXPECT_EQ(message({.bits = 5, .group = 32}),
            "[quantize] model.x: expected codes of 4 or 8 bits, got 5");
  EXPECT_EQ(message({.group = 32, .scales = DType::kI8}),
            "[quantize] model.x: scales of type I8, expected F32, F16 or BF16");
}

TEST(BadWeights, WithoutRows) {
  ThreadPool pool(1);
  const Tensor none = Tensor::from_floats({}, {0, 32});
  EXPECT_EQ(error_of([&] { uint4_groups(none, 32, "v", pool); }),
            "[quantize] v: expected a weight [n, k], got [0, 32]");
  EXPECT_EQ(error_of([&] { int8_channels(none, "v", pool); }),
            "[quantize] v: expected a weight [n, k], got [0, 32]");
}

TEST(BadWeights, NotFiniteNamesTheFirstRow) {
  ThreadPool pool(2);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {nan, -nan, infinity, -infinity}) {
    std::vector<float> values = some_weights(40, 64);
    values[7 * 64 + 33] = bad;
    values[30 * 64] = bad;
    const Tensor weight = Tensor::from_floats(values, {40, 64});
    const std::string int4 = error_of([&] { uint4_groups(weight, 32, "model.layers.3.x", pool); });
    const std::string int8 = error_of([&] { int8_channels(weight, "model.layers.3.x", pool); });
    const std::string start =
        "[quantize] model.layers.3.x: row 7, column 33: expected a finite weight, got ";
    EXPECT_TRUE(int4.starts_with(start)) << int4;
    EXPECT_TRUE(int8.starts_with(start)) << int8;
  }
}

TEST(BadWeights, BeyondFloat16) {
  ThreadPool pool(2);
  for (const float high : {70000.0F, 40000.0F}) {  // a value, then only the spread of the group
    std::vector<float> values = some_weights(4, 64);
    values[2 * 64 + 1] = high;
    values[2 * 64 + 2] = -40000.0F;
    const Tensor weight = Tensor::from_floats(values, {4, 64});
    const std::string message = error_of([&] { uint4_groups(weight, 64, "model.y", pool); });
    EXPECT_TRUE(message.starts_with("[quantize] model.y: row 2: weights from -40000 to "))
        << message;
    int8_channels(weight, "model.y", pool);  // float32 scales have the range
  }
}

TEST(BadWeights, BeyondTheRangeOfOtherScales) {
  ThreadPool pool(1);
  std::vector<float> values = some_weights(2, 32);
  values[40] = 3e38F;
  values[41] = -3e38F;
  const Rows weight = stored_rows(Tensor::from_floats(values, {2, 32}));
  const auto message = [&](bool is_signed, DType scales) {
    return error_of([&] {
      quantize_group_codes(*weight, {.is_signed = is_signed, .group = 32, .scales = scales}, "w",
                           pool);
    });
  };
  EXPECT_NE(message(false, DType::kF32)
                .find("row 1: weights from -3e+38 to 3e+38 are beyond "
                      "float32's range"),
            std::string::npos);
  EXPECT_NE(message(false, DType::kBF16).find("beyond bfloat16's range"), std::string::npos);
  EXPECT_NE(message(true, DType::kF16).find("beyond float16's range"), std::string::npos);
  quantize_group_codes(*weight, {.is_signed = true, .group = 32, .scales = DType::kBF16}, "w",
                       pool);
}

TEST(BadWeights, GroupFunctionsSurviveAnything) {
  // They are fed finite values by contract; other values must still not do harm.
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<std::uint8_t> codes(4);
  std::vector<std::uint8_t> more_codes(8);
  std::vector<std::int8_t> int_codes(4);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16})
    for (const float bad : {nan, infinity, -infinity, 3e38F}) {
      const std::vector<float> weights = {bad, -bad, 1.0F, -3e38F};
      const GroupCode code = quantize_group_uint4(weights, dtype, codes);
      EXPECT_GE(code.zero_point, 0);
      EXPECT_LE(code.zero_point, 15);
      for (const auto c : codes) EXPECT_LE(c, 15);
      quantize_group_int4_symmetric(weights, dtype, int_codes);
      for (const auto c : int_codes) EXPECT_TRUE(c >= -8 && c <= 7);
    }
  const std::vector<float> weights = {1.0F, 2.0F, 3.0F, 4.0F, 5.0F};
  EXPECT_NE(error_of([&] { quantize_group_uint4(weights, DType::kF32, codes); }).find("room for 4"),
            std::string::npos);
  EXPECT_NE(
      error_of([&] { quantize_group_uint4(weights, DType::kI8, more_codes); }).find("type I8"),
      std::string::npos);
}

}  // namespace
}  // namespace tandem::testing
