// Packed words against those that AMD Quark wrote, tensor by tensor, and read back by our reader.
#include "checkpoint/packed_writer.h"

#include <gtest/gtest.h>

#include <random>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "support.h"
#include "tensor/half.h"
#include "tensor/packed_codes.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::shared_data;

constexpr PackedStyle kAwq{PackedStyle::Layout::kAwq};
constexpr PackedStyle kQuark{PackedStyle::Layout::kQuark};
constexpr PackedStyle kInOrder{PackedStyle::Layout::kQuark, false};

// Random codes with everything that a group can have.
GroupCodes random_codes(std::int64_t n, std::int64_t k, std::int64_t group, bool is_signed,
                        DType scales = DType::kF16, int bits = 4) {
  std::mt19937 random(5);
  const auto bytes = [&](DType dtype, Shape shape, int mask) {
    std::byte* data = nullptr;
    Tensor tensor = Tensor::allocate(dtype, std::move(shape), &data);
    for (std::size_t i = 0; i < tensor.bytes().size(); ++i)
      data[i] = static_cast<std::byte>(random() & static_cast<unsigned>(mask));
    return tensor;
  };
  const auto packed = [&](std::int64_t count) { return bits == 8 ? count : (count + 1) / 2; };
  GroupCodes codes{.n = n,
                   .k = k,
                   .bits = bits,
                   .is_signed = is_signed,
                   .group = group,
                   .codes = {},
                   .scales = {},
                   .zero_points = {}};
  codes.codes = bytes(bits == 8 && is_signed ? DType::kI8 : DType::kU8, {n, packed(k)}, 255);
  // Positive normal numbers of each type.
  codes.scales = bytes(scales, {n, k / group}, 0x2F);
  if (!is_signed) codes.zero_points = bytes(DType::kU8, {n, packed(k / group)}, 255);
  return codes;
}

class QuarkWords : public ::testing::TestWithParam<const char*> {};

// What our reader makes of Quark's file, written again, is the same file.
TEST_P(QuarkWords, AreWrittenAgainAsTheyWere) {
  TANDEM_REQUIRE_SHARED("quark");
  const fs::path folder = shared_data() / "quark" / GetParam();
  const SafetensorsFile file = SafetensorsFile::open(folder / "model.safetensors");
  const Json description = read_json_file(folder / "case.json");
  const bool per_channel = description.value("per_channel", false);
  const PackedStyle style{description.at("custom_mode") == "awq" ? PackedStyle::Layout::kAwq
                                                                 : PackedStyle::Layout::kQuark,
                          description.at("pack_method") == "reorder"};
  const bool is_signed = description.at("scheme").get<std::string>().starts_with("int4");
  const std::string codes_suffix =
      style.layout == PackedStyle::Layout::kAwq ? ".qweight" : ".weight";
  int compared = 0;
  for (const auto& [name, words] : file.tensors) {
    if (words.dtype() != DType::kI32 || !name.ends_with(codes_suffix)) continue;
    const std::string module = name.substr(0, name.size() - codes_suffix.size());
    PackedModule packed{module, true, is_signed, 0};
    if (!per_channel) packed.group = description.at("group_size").get<std::int64_t>();
    const std::int64_t scale_count =
        file.tensors
            .at(module + (style.layout == PackedStyle::Layout::kAwq ? ".scales" : ".weight_scale"))
            .elements();
    const std::int64_t k = per_channel ? words.dim(1) * 8 : words.dim(0);
    const std::int64_t n = per_channel ? words.dim(0) : scale_count * packed.group / k;
    // Unpacked by hand into codes along k.
    const std::int64_t group = per_channel ? k : packed.group;
    const auto& order =
        style.reordered ? std::array{0, 2, 4, 6, 1, 3, 5, 7} : std::array{0, 1, 2, 3, 4, 5, 6, 7};
    const auto nibble = [&](const Tensor& tensor, std::int64_t row, std::int64_t column) {
      const auto width = tensor.shape().back();
      const auto word =
          tensor.as<std::uint32_t>()[static_cast<std::size_t>(row * width + column / 8)];
      const auto at = std::ranges::find(order, static_cast<int>(column % 8)) - order.begin();
      return (word >> (4 * at)) & 15U;
    };
    const auto tensors = packed_tensors(packed, n, k, DType::kF16, style);
    const Tensor& zeros = file.tensors.at(module + tensors[1].suffix);
    const Tensor& scales = file.tensors.at(module + tensors[2].suffix);
    const std::int64_t groups = k / group;
    GroupCodes codes{.n = n,
                     .k = k,
                     .bits = 4,
                     .is_signed = is_signed,
                     .group = group,
                     .codes = {},
                     .scales = {},
                     .zero_points = {}};
    std::byte* data = nullptr;
    codes.codes = Tensor::allocate(DType::kU8, {n, k / 2}, &data);
    for (std::int64_t row = 0; row < n; ++row)
      for (std::int64_t c = 0; c < k; c += 2) {
        const auto get = [&](std::int64_t column) {
          return per_channel ? nibble(words, row, column) : nibble(words, column, row);
        };
        data[row * (k / 2) + c / 2] = static_cast<std::byte>(get(c) | get(c + 1) << 4);
      }
    codes.zero_points = Tensor::allocate(DType::kU8, {n, (groups + 1) / 2}, &data);
    for (std::int64_t row = 0; row < n; ++row)
      for (std::int64_t g = 0; g < groups; g += 2) {
        const auto get = [&](std::int64_t which) {
          if (which >= groups) return 0U;
          return per_channel ? nibble(zeros.view_as(DType::kI32, {1, zeros.elements()}), 0, row)
                             : nibble(zeros, which, row);
        };
        data[row * ((groups + 1) / 2) + g / 2] = static_cast<std::byte>(get(g) | get(g + 1) << 4);
      }
    codes.scales = Tensor::allocate(scales.dtype(), {n, groups}, &data);
    const std::size_t size = size_of(scales.dtype());
    for (std::int64_t row = 0; row < n; ++row)
      for (std::int64_t g = 0; g < groups; ++g) {
        const std::int64_t from = per_channel ? row : g * n + row;
        std::ranges::copy(scales.bytes().subspan(static_cast<std::size_t>(from) * size, size),
                          data + static_cast<std::size_t>(row * groups + g) * size);
      }
    const std::vector<Tensor> made = pack(codes, style);
    ASSERT_EQ(made.size(), 3U);
    for (std::size_t i = 0; i < 3; ++i) {
      const Tensor& expected = file.tensors.at(module + tensors[i].suffix);
      EXPECT_EQ(made[i].shape(), expected.shape()) << module << tensors[i].suffix;
      EXPECT_EQ(tensors[i].shape, expected.shape()) << module << tensors[i].suffix;
      EXPECT_EQ(made[i].dtype(), expected.dtype());
      EXPECT_TRUE(std::ranges::equal(made[i].bytes(), expected.bytes()))
          << module << tensors[i].suffix;
    }
    ++compared;
  }
  EXPECT_GT(compared, 0);
}

INSTANTIATE_TEST_SUITE_P(Cases, QuarkWords,
                         ::testing::Values("awq_g128_float16_awqpack", "awq_g128_bfloat16",
                                           "awq_g32_float32", "rtn_g32_bfloat16", "rtn_g64_float16",
                                           "rtn_g128_float16_order", "rtn_g128_float16_head",
                                           "rtn_int4_g128_float16", "rtn_per_channel_float16"));

// AutoAWQ's own class packed the fixture (fixtures/make_autoawq.py).
TEST(PackedWriter, WritesTheWordsOfAutoAwq) {
  constexpr std::int64_t kN = 64, kK = 128, kGroup = 32;
  const fs::path path = testing::fixture("checkpoint/fixtures/autoawq.safetensors");
  const SafetensorsFile file = SafetensorsFile::open(path);
  const auto packed_rows = [](const Tensor& bytes) {
    std::byte* data = nullptr;
    Tensor packed = Tensor::allocate(DType::kU8, {bytes.dim(0), bytes.dim(1) / 2}, &data);
    for (std::int64_t row = 0; row < bytes.dim(0); ++row)
      pack_codes(bytes.rows(row, 1).as<std::uint8_t>(), 4, data + row * packed.dim(1));
    return packed;
  };
  // AutoAWQ's scales are [groups, n].
  const std::vector<float> theirs = file.tensors.at("scales").to_floats();
  std::byte* data = nullptr;
  Tensor scales = Tensor::allocate(DType::kF16, {kN, kK / kGroup}, &data);
  for (std::int64_t row = 0; row < kN; ++row)
    for (std::int64_t g = 0; g < kK / kGroup; ++g)
      reinterpret_cast<std::uint16_t*>(data)[row * (kK / kGroup) + g] =
          float_to_f16(theirs[static_cast<std::size_t>(g * kN + row)]);
  const GroupCodes codes{.n = kN,
                         .k = kK,
                         .group = kGroup,
                         .codes = packed_rows(file.tensors.at("codes")),
                         .scales = scales,
                         .zero_points = packed_rows(file.tensors.at("zeros"))};
  EXPECT_EQ(dequantize_rows(codes, 0, kN), file.tensors.at("values").to_floats());

  const std::vector<Tensor> words = pack(codes, kAwq);
  const auto entries = packed_tensors({"m", true, false, kGroup}, kN, kK, DType::kF16, kAwq);
  std::map<std::string, Tensor> named;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const Tensor& expected = file.tensors.at(entries[i].suffix.substr(1));
    EXPECT_EQ(words[i].dtype(), expected.dtype());
    EXPECT_EQ(words[i].shape(), expected.shape());
    EXPECT_TRUE(std::ranges::equal(words[i].bytes(), expected.bytes())) << entries[i].suffix;
    named["m" + entries[i].suffix] = expected;
  }
  EXPECT_EQ(words.size(), 3U);

  const testing::ScratchFolder folder;
  write_safetensors(folder / "model.safetensors", named);
  const OrderedJson config = {
      {"model_type", "llama"},
      {"quantization_config", packed_config(kAwq, {{"m", true, false, kGroup}})}};
  write_text_file(folder / "config.json", config.dump());
  EXPECT_EQ(dequantize_rows(Checkpoint::open(folder.path()).linear("m", kN, kK), 0, kN),
            file.tensors.at("values").to_floats());
}

// Through a file and our reader, with rows that do not fill the last word.
TEST(PackedWriter, IsReadBackBitForBit) {
  const testing::ScratchFolder scratch;
  int count = 0;
  const auto check = [&](const PackedStyle& style, const GroupCodes& codes) {
    const std::int64_t n = codes.n;
    const PackedModule module{"m", true, codes.is_signed, codes.group == 96 ? 0 : codes.group,
                              codes.bits};
    const std::vector<Tensor> tensors = pack(codes, style);
    std::map<std::string, Tensor> named;
    const auto entries = packed_tensors(module, n, 96, codes.scales.dtype(), style);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      EXPECT_EQ(tensors[i].shape(), entries[i].shape);
      EXPECT_EQ(tensors[i].dtype(), entries[i].dtype);
      named["m" + entries[i].suffix] = tensors[i];
    }
    const fs::path folder = scratch / fmt::format("{}", count++);
    fs::create_directory(folder);
    write_safetensors(folder / "model.safetensors", named);
    const OrderedJson config = {{"model_type", "llama"},
                                {"quantization_config", packed_config(style, {module})}};
    write_text_file(folder / "config.json", config.dump());
    const Weight read = Checkpoint::open(folder).linear("m", n, 96);
    EXPECT_EQ(dequantize_rows(read, 0, n), dequantize_rows(codes, 0, n))
        << to_string(style.layout) << codes.is_signed << n << codes.bits;
  };
  for (const PackedStyle& style : {kAwq, kQuark, kInOrder})
    for (const bool is_signed : {false, true})
      for (const std::int64_t n : {24, 13}) {
        if (is_signed && style.layout == PackedStyle::Layout::kAwq) continue;
        check(style, random_codes(n, 96, 32, is_signed));
      }
  for (const bool is_signed : {false, true})
    for (const std::int64_t group : {32, 96})
      for (const DType scales : {DType::kF16, DType::kBF16, DType::kF32})
        check(kQuark, random_codes(13, 96, group, is_signed, scales, 8));
}

TEST(PackedWriter, RefusesWhatAStyleHasNoWordsFor) {
  const PackedModule usual{"a", true, false, 128}, other{"b", true, false, 32},
      symmetric{"s", true, true, 128}, row{"r", true, false, 0}, plain{"f"};
  EXPECT_EQ(objection_to_style(kAwq, {usual, usual, plain}), "");
  EXPECT_EQ(objection_to_style(kQuark, {usual, other, symmetric, row, plain}), "");
  EXPECT_EQ(objection_to_style(kQuark, {plain}), "every module stays float");
  EXPECT_EQ(objection_to_style(kAwq, {usual, usual, other}),
            "b: AWQ has one group size for all, got 32 beside 128");
  EXPECT_EQ(objection_to_style(kAwq, {symmetric}),
            "s: AWQ holds asymmetric 4-bit codes in groups only");
  EXPECT_EQ(objection_to_style(kAwq, {row}), "r: AWQ holds asymmetric 4-bit codes in groups only");
  EXPECT_EQ(objection_to_style({PackedStyle::Layout::kAwq, false}, {usual}),
            "AWQ's words hold their columns in AWQ's order only");
  EXPECT_EQ(objection_to_style(kAwq, {{"e", true, false, 128, 8}}),
            "e: AWQ holds asymmetric 4-bit codes in groups only");
  EXPECT_EQ(error_of([&] { pack(random_codes(8, 12, 12, false), kQuark); }),
            "[export] K = 12: expected a multiple of 8");
  EXPECT_EQ(error_of([&] { packed_config(kQuark, {plain}); }),
            "[export] no module is packed: expected at least one");
}

TEST(PackedWriter, SaysHowToReadIt) {
  const std::vector<PackedModule> modules = {
      {"a", true, false, 128}, {"b", true, false, 128}, {"lm_head", true, false, 32}, {"f"}};
  const OrderedJson quark = packed_config(kInOrder, modules);
  EXPECT_EQ(quark["global_quant_config"]["weight"]["group_size"], 128);
  EXPECT_EQ(quark["layer_quant_config"].size(), 1U);
  EXPECT_EQ(quark["layer_quant_config"]["lm_head"]["weight"]["group_size"], 32);
  EXPECT_EQ(quark["exclude"], OrderedJson::array({"f"}));
  EXPECT_EQ(quark["export"]["pack_method"], "order");
  const OrderedJson awq = packed_config(kAwq, {modules[0], modules[3]});
  EXPECT_EQ(awq["group_size"], 128);
  EXPECT_EQ(awq["modules_to_not_convert"], OrderedJson::array({"f"}));
}

}  // namespace
}  // namespace tandem
