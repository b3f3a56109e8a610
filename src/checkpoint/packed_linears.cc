// Unpacking: from words to codes, and from codes to a weight that kernels can compute with.
#include "checkpoint/packed_linears.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/printable.h"
#include "tensor/half.h"
#include "tensor/packed_codes.h"

namespace tandem {
namespace {

using Method = PackedScheme::Method;

// The nibble of a reordered word that holds column 8c + j.
constexpr std::array<int, 8> kReordered = [] {
  std::array<int, 8> nibbles{};
  for (std::size_t i = 0; i < nibbles.size(); ++i)
    nibbles[static_cast<std::size_t>(kAwqColumns[i])] = static_cast<int>(i);
  return nibbles;
}();
// The names that writers use for the scales.
constexpr std::initializer_list<const char*> kScales = {".scales", ".qscales", ".weight_scale",
                                                        ".weight_scale_inv", ".weight.scale"};
// Only mllm's int8 models have this one.
constexpr const char* kMllmScale = ".weight.scale";

bool is_of_mllm(const TensorStore& store, const std::string& module) {
  return store.tensors().contains(module + kMllmScale);
}

// True if `store` holds 8-bit floats under `name`.
bool is_f8_in(const TensorStore& store, const std::string& name) {
  const auto found = store.tensors().find(name);
  return found != store.tensors().end() && found->second.type.starts_with("F8_");
}

// Rows that are unpacked at a time: 16 words of 8 codes, one cache line of the file.
constexpr std::int64_t kRowBlock = 128;

// A packed weight, unpacked to one byte per code. w[r][c] = (code - zero) * scale of group (r, of
// c).
struct Unpacked {
  std::int64_t n = 0;
  std::int64_t k = 0;
  // Groups along k.
  std::int64_t groups = 0;
  // [n, k]; signed codes are shifted up by half their range.
  std::vector<std::uint8_t> codes;
  // [n, groups].
  std::vector<std::int16_t> zeros;
  // [n, groups].
  std::vector<float> scales;
  // The group of each column; empty if groups are consecutive.
  std::vector<std::int32_t> group_of;

  std::int64_t group() const { return k / groups; }
  std::int64_t group_index(std::int64_t column) const {
    return group_of.empty() ? column / group() : group_of[static_cast<std::size_t>(column)];
  }
};

// The tensors of one packed module.
class PackedReader {
 public:
  PackedReader(const TensorStore& store, const std::string& module, const PackedScheme& scheme,
               std::int64_t n, std::int64_t k, const std::string& place)
      : store_(store), module_(module), scheme_(scheme), n_(n), k_(k), place_(place) {}

  Weight read() {
    if (is_f8_in(store_, module_ + ".weight")) return read_f8();
    if (is_of_mllm(store_, module_)) return read_mllm();
    if (scheme_.method == Method::kNone)
      fail(ErrorCode::kFormat,
           "[packed] {}: {}: is packed, but quantization_config in config.json does not say how",
           place_, module_);
    if (find({".weight_scale_2", ".weight_zero_point_2"}) != nullptr)
      fail(ErrorCode::kUnsupported, "[packed] {}: {}: weights in two stages are not read here",
           place_, module_);
    codes_ = load({".qweight", ".weight"}, "codes");
    load_scales();
    if (const std::string* name = find({".qzeros", ".qqzeros", ".weight_zero_point"}))
      zeros_ = store_.load(*name);
    if (scheme_.method == Method::kQuark && codes_.dtype() != DType::kI32) return read_bytes();
    expect_dtype(codes_, DType::kI32, "codes");
    if (scheme_.method != Method::kGptq && scheme_.bits != 4)
      fail(ErrorCode::kUnsupported, "[packed] {}: {}: {} bits packed in words are not read here",
           place_, module_, scheme_.bits);
    return finish(scheme_.method == Method::kGptq ? read_gptq()
                  : scales_.shape().size() == 1   ? read_per_channel()
                                                  : read_transposed());
  }

 private:
  [[noreturn]] void reject(std::string_view part, const std::string& expected, const Tensor& got) {
    fail(ErrorCode::kFormat, "[packed] {}: {}: {}: expected {}, got {} {}", place_, module_, part,
         expected, to_string(got.dtype()), to_string(got.shape()));
  }

  const std::string* find(std::initializer_list<const char*> suffixes) const {
    for (const char* suffix : suffixes) {
      const auto found = store_.tensors().find(module_ + suffix);
      if (found != store_.tensors().end()) return &found->first;
    }
    return nullptr;
  }

  Tensor load(std::initializer_list<const char*> suffixes, std::string_view part) const {
    const std::string* name = find(suffixes);
    if (name == nullptr)
      fail(ErrorCode::kNotFound, "[packed] {}: {}: the {} are missing", place_, module_, part);
    return store_.load(*name);
  }

  // What is computed with a scale that is not a number need not be one that shows.
  void load_scales() {
    scales_ = load(kScales, "scales");
    if (!is_float(scales_.dtype())) reject("scales", "floats", scales_);
    if (!std::ranges::all_of(scales_.to_floats(), [](float s) { return std::isfinite(s); }))
      reject("scales", "finite numbers", scales_);
  }

  void expect_dtype(const Tensor& tensor, DType dtype, std::string_view part) {
    if (tensor.dtype() != dtype) reject(part, std::string(to_string(dtype)), tensor);
  }

  void expect_shape(const Tensor& tensor, const Shape& shape, std::string_view part) {
    if (tensor.shape() != shape) reject(part, to_string(shape), tensor);
  }

  std::int64_t words(std::int64_t codes) const { return (codes * scheme_.bits + 31) / 32; }

  // The number of groups along k, from scales [groups, n].
  std::int64_t read_groups() {
    const Shape& shape = scales_.shape();
    if (shape.size() != 2 || shape[1] != n_ || shape[0] < 1 || k_ % shape[0] != 0)
      reject("scales", fmt::format("[k / group, {}] with k = {}", n_, k_), scales_);
    return shape[0];
  }

  // Scales [groups, n], transposed to [n, groups].
  std::vector<float> transposed_scales(std::int64_t groups) {
    const std::vector<float> stored = scales_.to_floats();
    std::vector<float> scales(stored.size());
    for (std::int64_t g = 0; g < groups; ++g)
      for (std::int64_t r = 0; r < n_; ++r)
        scales[static_cast<std::size_t>(r * groups + g)] =
            stored[static_cast<std::size_t>(g * n_ + r)];
    return scales;
  }

  // Code `i` of consecutive codes packed in words `stride` apart, lowest bits first.
  int code_at(std::span<const std::int32_t> from, std::int64_t i, std::int64_t stride) const {
    const std::int64_t bit = i * scheme_.bits;
    const auto word = [&](std::int64_t w) {
      return static_cast<std::uint64_t>(
          static_cast<std::uint32_t>(from[static_cast<std::size_t>(w * stride)]));
    };
    std::uint64_t value = word(bit / 32) >> (bit % 32);
    if (bit % 32 + scheme_.bits > 32) value |= word(bit / 32 + 1) << (32 - bit % 32);
    return static_cast<int>(value & ((std::uint64_t{1} << scheme_.bits) - 1));
  }

  // The code of column `j` in a row of words of eight nibbles.
  int nibble(std::span<const std::int32_t> row, std::int64_t j) const {
    const auto lane = static_cast<std::size_t>(j % 8);
    const int position = scheme_.reordered ? kReordered[lane] : static_cast<int>(lane);
    const auto word = static_cast<std::uint32_t>(row[static_cast<std::size_t>(j / 8)]);
    return static_cast<int>((word >> (4 * position)) & 15);
  }

  // Two's complement becomes offset binary, for codes and zero points alike.
  int unsign(int code) const { return scheme_.is_signed ? code ^ 8 : code; }

  Unpacked begin(std::int64_t groups) const {
    Unpacked w{.n = n_, .k = k_, .groups = groups};
    w.codes.resize(static_cast<std::size_t>(n_ * k_));
    w.zeros.resize(static_cast<std::size_t>(n_ * groups));
    return w;
  }

  // AWQ and Quark's per-group layout: codes [k, n / 8], zero points [groups, n / 8].
  Unpacked read_transposed() {
    const std::int64_t groups = read_groups();
    expect_shape(codes_, {k_, words(n_)}, "codes");
    Unpacked w = begin(groups);
    w.scales = transposed_scales(groups);
    const auto stored = codes_.as<std::int32_t>();
    const auto stride = static_cast<std::size_t>(words(n_));
    for (std::int64_t first = 0; first < n_; first += kRowBlock) {
      for (std::int64_t c = 0; c < k_; ++c) {
        const auto row = stored.subspan(static_cast<std::size_t>(c) * stride, stride);
        for (std::int64_t r = first; r < std::min(n_, first + kRowBlock); ++r)
          w.codes[static_cast<std::size_t>(r * k_ + c)] =
              static_cast<std::uint8_t>(unsign(nibble(row, r)));
      }
    }
    if (zeros_.empty()) {
      if (!scheme_.is_signed)
        fail(ErrorCode::kFormat, "[packed] {}: {}: the zero points are missing", place_, module_);
      std::ranges::fill(w.zeros, std::int16_t{8});
      return w;
    }
    expect_dtype(zeros_, DType::kI32, "zero points");
    expect_shape(zeros_, {groups, words(n_)}, "zero points");
    const auto zeros = zeros_.as<std::int32_t>();
    for (std::int64_t g = 0; g < groups; ++g)
      for (std::int64_t r = 0; r < n_; ++r)
        w.zeros[static_cast<std::size_t>(r * groups + g)] = static_cast<std::int16_t>(
            unsign(nibble(zeros.subspan(static_cast<std::size_t>(g) * stride, stride), r)));
    return w;
  }

  // Quark's per-channel layout: codes [n, k / 8], one scale and zero point per row.
  Unpacked read_per_channel() {
    expect_shape(scales_, {n_}, "scales");
    expect_shape(codes_, {n_, words(k_)}, "codes");
    Unpacked w = begin(1);
    w.scales = scales_.to_floats();
    const auto stored = codes_.as<std::int32_t>();
    const auto stride = static_cast<std::size_t>(words(k_));
    for (std::int64_t r = 0; r < n_; ++r) {
      const auto row = stored.subspan(static_cast<std::size_t>(r) * stride, stride);
      for (std::int64_t c = 0; c < k_; ++c)
        w.codes[static_cast<std::size_t>(r * k_ + c)] =
            static_cast<std::uint8_t>(unsign(nibble(row, c)));
    }
    if (!zeros_.empty()) {
      expect_dtype(zeros_, DType::kI32, "zero points");
      expect_shape(zeros_, {words(n_)}, "zero points");
    }
    for (std::int64_t r = 0; r < n_; ++r)
      w.zeros[static_cast<std::size_t>(r)] = static_cast<std::int16_t>(
          unsign(zeros_.empty() ? 0 : nibble(zeros_.as<std::int32_t>(), r)));
    return w;
  }

  // GPTQ: codes [k / 8, n] packed along k, zero points [groups, n / 8], and optionally the group of
  // each column.
  Unpacked read_gptq() {
    if (scales_.shape().size() != 2 || scales_.dim(0) < 1 || scales_.dim(1) != n_)
      reject("scales", fmt::format("[groups, {}]", n_), scales_);
    const std::int64_t groups = scales_.dim(0);
    expect_shape(codes_, {words(k_), n_}, "codes");
    Unpacked w = begin(groups);
    w.scales = transposed_scales(groups);
    read_group_index(w);
    const auto stored = codes_.as<std::int32_t>();
    for (std::int64_t r = 0; r < n_; ++r)
      for (std::int64_t c = 0; c < k_; ++c)
        w.codes[static_cast<std::size_t>(r * k_ + c)] =
            static_cast<std::uint8_t>(code_at(stored.subspan(static_cast<std::size_t>(r)), c, n_));
    if (zeros_.empty())
      fail(ErrorCode::kFormat, "[packed] {}: {}: the zero points are missing", place_, module_);
    expect_dtype(zeros_, DType::kI32, "zero points");
    expect_shape(zeros_, {groups, words(n_)}, "zero points");
    const auto zeros = zeros_.as<std::int32_t>();
    const int mask = (1 << scheme_.bits) - 1;
    const int low = zeros_too_low(zeros, groups);
    for (std::int64_t g = 0; g < groups; ++g) {
      const auto row = zeros.subspan(static_cast<std::size_t>(g * words(n_)));
      for (std::int64_t r = 0; r < n_; ++r)
        w.zeros[static_cast<std::size_t>(r * groups + g)] =
            static_cast<std::int16_t>((code_at(row, r, 1) + low) & mask);
    }
    return w;
  }

  // By how much the stored zero points are too low. Where every zero point is known, what is stored
  // tells the version, whatever the configuration calls it: files of version 2 are found under the
  // name of version 1, and the reverse.
  int zeros_too_low(std::span<const std::int32_t> zeros, std::int64_t groups) const {
    if (!scheme_.symmetric) return scheme_.zeros_minus_one ? 1 : 0;
    const int middle = 1 << (scheme_.bits - 1);
    const int first = code_at(zeros, 0, 1);
    for (std::int64_t g = 0; g < groups; ++g) {
      const auto row = zeros.subspan(static_cast<std::size_t>(g * words(n_)));
      for (std::int64_t r = 0; r < n_; ++r)
        if (const int zero = code_at(row, r, 1);
            zero != first || (zero != middle && zero != middle - 1))
          fail(ErrorCode::kFormat,
               "[packed] {}: {}: zero points: \"sym\" is true, so all are {}: expected all stored "
               "as {} (gptq) or all as {} (gptq_v2), got {} in group {} of row {}",
               place_, module_, middle, middle - 1, middle, zero, g, r);
    }
    return middle - first;
  }

  // g_idx holds the group of each column if columns were quantized in a different order.
  void read_group_index(Unpacked& w) {
    const std::string* name = find({".g_idx"});
    if (name == nullptr) {
      if (k_ % w.groups != 0) reject("scales", fmt::format("a divisor of {} groups", k_), scales_);
      return;
    }
    const Tensor index = store_.load(*name);
    expect_dtype(index, DType::kI32, "g_idx");
    expect_shape(index, {k_}, "g_idx");
    const auto groups = index.as<std::int32_t>();
    bool consecutive = k_ % w.groups == 0;
    for (std::int64_t c = 0; c < k_; ++c) {
      const std::int32_t g = groups[static_cast<std::size_t>(c)];
      if (g < 0 || g >= w.groups)
        fail(ErrorCode::kFormat, "[packed] {}: {}: g_idx: expected groups in [0, {}), got {}",
             place_, module_, w.groups, g);
      consecutive = consecutive && g == c / w.group();
    }
    if (!consecutive) w.group_of.assign(groups.begin(), groups.end());
  }

  // 8-bit floats [n, k] times one scale, one per row, or one per block. The scales are factors
  // under either name, "weight_scale" and DeepSeek's "weight_scale_inv".
  Weight read_f8() {
    if (scheme_.method != Method::kF8 && scheme_.method != Method::kNone)
      fail(ErrorCode::kUnsupported,
           "[packed] {}: {}: is of 8-bit floats, which quantization_config in config.json does not "
           "say",
           place_, module_);
    codes_ = load({".weight"}, "codes");
    load_scales();
    expect_shape(codes_, {n_, k_}, "codes");
    if (const std::string* name = find({".weight_zero_point"})) {
      zeros_ = store_.load(*name);
      if (std::ranges::any_of(zeros_.bytes(), [](std::byte b) { return b != std::byte{0}; }))
        reject("zero points", "zeros, as 8-bit floats have none", zeros_);
    }
    const auto [rows, columns] = f8_block();
    const std::int64_t across = (k_ + columns - 1) / columns;
    const std::vector<float> scales = scales_.to_floats();
    std::byte* memory = nullptr;
    Tensor values = Tensor::allocate(DType::kF32, {n_, k_}, &memory);
    const std::span out(reinterpret_cast<float*>(memory), static_cast<std::size_t>(n_ * k_));
    codes_.copy_floats(0, out);
    for (std::int64_t r = 0; r < n_; ++r)
      for (std::int64_t c = 0; c < k_; ++c)
        out[static_cast<std::size_t>(r * k_ + c)] *=
            scales[static_cast<std::size_t>(r / rows * across + c / columns)];
    return narrowed(std::move(values));
  }

  // The rows and columns that share a scale, by the shape of the scales.
  std::array<std::int64_t, 2> f8_block() {
    const Shape& shape = scales_.shape();
    if (scales_.elements() == 1) return {n_, k_};
    const auto [rows, columns] = scheme_.block;
    if (rows != 0) {
      expect_shape(scales_, {(n_ + rows - 1) / rows, (k_ + columns - 1) / columns}, "scales");
      return scheme_.block;
    }
    // The default of "fp8" in transformers.
    constexpr std::int64_t kDefault = 128;
    if (scheme_.method == Method::kF8 && shape != Shape{n_, 1} &&
        shape == Shape{(n_ + kDefault - 1) / kDefault, (k_ + kDefault - 1) / kDefault})
      return {kDefault, kDefault};
    if (shape != Shape{n_} && shape != Shape{n_, 1})
      reject("scales",
             fmt::format("[1], [{}] or [{}, 1], as quantization_config has no weight_block_size",
                         n_, n_),
             scales_);
    return {1, k_};
  }

  // mllm's int8: codes [k, n], or without a shape, and one scale.
  Weight read_mllm() {
    codes_ = load({".weight"}, "codes");
    load_scales();
    expect_dtype(codes_, DType::kI8, "codes");
    if (codes_.shape() != Shape{n_ * k_}) expect_shape(codes_, {k_, n_}, "codes");
    if (scales_.elements() != 1) reject("scales", "one", scales_);
    std::byte* memory = nullptr;
    ChannelCodes w{.n = n_, .k = k_, .codes = Tensor::allocate(DType::kI8, {n_, k_}, &memory)};
    w.scales = Tensor::from_floats(scales_.to_floats(), {1});
    const auto stored = codes_.as<std::int8_t>();
    for (std::int64_t first = 0; first < n_; first += kRowBlock)
      for (std::int64_t c = 0; c < k_; ++c)
        for (std::int64_t r = first; r < std::min(n_, first + kRowBlock); ++r)
          memory[r * k_ + c] = static_cast<std::byte>(stored[static_cast<std::size_t>(c * n_ + r)]);
    return w;
  }

  // Quark's int8 and uint8: [n, k] with one scale per tensor or per row, or transposed [k, n] with
  // scales [groups, n].
  Weight read_bytes() {
    const DType dtype = scheme_.is_signed ? DType::kI8 : DType::kU8;
    expect_dtype(codes_, dtype, "codes");
    const bool transposed = scales_.shape().size() == 2;
    const std::int64_t groups = transposed ? read_groups() : 1;
    const std::int64_t rows = scales_.elements() == 1 ? 1 : n_;
    if (!transposed && !scales_.shape().empty() && scales_.shape() != Shape{rows})
      reject("scales", fmt::format("[] or [{}]", n_), scales_);
    expect_shape(codes_, transposed ? Shape{k_, n_} : Shape{n_, k_}, "codes");
    if (!zeros_.empty() && (zeros_.dtype() != dtype || zeros_.shape() != scales_.shape()))
      reject("zero points", fmt::format("{} {}", to_string(dtype), to_string(scales_.shape())),
             zeros_);
    const auto zero_bytes = zeros_.as<std::uint8_t>();
    const bool symmetric = std::ranges::all_of(zero_bytes, [](std::uint8_t z) { return z == 0; });
    const auto signed_codes = codes_.as<std::int8_t>();
    if (scheme_.is_signed && symmetric && !transposed &&
        std::ranges::find(signed_codes, std::int8_t{-128}) == signed_codes.end()) {
      ChannelCodes w{.n = n_, .k = k_, .codes = codes_};
      w.scales = Tensor::from_floats(scales_.to_floats(), {rows});
      validate(w, module_);
      return w;
    }
    Unpacked w = begin(groups);
    // int8 in offset binary, like the codes in words.
    const std::uint8_t sign = scheme_.is_signed ? 0x80 : 0;
    const auto stored = codes_.as<std::uint8_t>();
    const std::vector<float> scales = scales_.to_floats();
    for (std::int64_t r = 0; r < n_; ++r) {
      for (std::int64_t c = 0; c < k_; ++c)
        w.codes[static_cast<std::size_t>(r * k_ + c)] =
            stored[static_cast<std::size_t>(transposed ? c * n_ + r : r * k_ + c)] ^ sign;
      for (std::int64_t g = 0; g < groups; ++g) {
        const auto at = static_cast<std::size_t>(transposed ? g * n_ + r : rows == 1 ? 0 : r);
        const std::uint8_t zero = zero_bytes.empty() ? std::uint8_t{0} : zero_bytes[at];
        w.zeros[static_cast<std::size_t>(r * groups + g)] = zero ^ sign;
        w.scales.push_back(scales[at]);
      }
    }
    return finish(w);
  }

  // Codes of 4 and 8 bits in consecutive groups stay codes; the scales keep their type.
  Weight finish(const Unpacked& w) {
    if ((scheme_.bits != 4 && scheme_.bits != 8) || !w.group_of.empty()) return dequantized(w);
    GroupCodes result{.n = n_, .k = k_, .bits = scheme_.bits, .group = w.group()};
    result.codes = packed_rows(w.codes, k_);
    result.zero_points =
        packed_rows(std::vector<std::uint8_t>(w.zeros.begin(), w.zeros.end()), w.groups);
    std::byte* scales = nullptr;
    result.scales = Tensor::allocate(scales_.dtype(), {n_, w.groups}, &scales);
    encode_floats(w.scales, scales_.dtype(), scales);
    return result;
  }

  // Rows of codes, one per byte, as GroupCodes has them.
  Tensor packed_rows(const std::vector<std::uint8_t>& codes, std::int64_t columns) const {
    const std::int64_t bytes = packed_bytes(columns, scheme_.bits);
    std::byte* out = nullptr;
    Tensor packed = Tensor::allocate(DType::kU8, {n_, bytes}, &out);
    const std::span<const std::uint8_t> all(codes);
    for (std::int64_t r = 0; r < n_; ++r)
      pack_codes(
          all.subspan(static_cast<std::size_t>(r * columns), static_cast<std::size_t>(columns)),
          scheme_.bits, out + r * bytes);
    return packed;
  }

  // To F16 if every value is within its range.
  static Weight narrowed(Tensor values) {
    const auto wide = values.as<float>();
    const bool fits = std::ranges::all_of(wide, [](float value) {
      const float half = f16_to_float(float_to_f16(value));
      return std::isfinite(half) && (half != 0) == (value != 0);
    });
    if (!fits) return FloatWeight(std::move(values));
    return FloatWeight(values.to_f16());
  }

  Weight dequantized(const Unpacked& w) {
    std::byte* memory = nullptr;
    Tensor values = Tensor::allocate(DType::kF32, {n_, k_}, &memory);
    auto* out = reinterpret_cast<float*>(memory);
    for (std::int64_t r = 0; r < n_; ++r) {
      for (std::int64_t c = 0; c < k_; ++c) {
        const auto group = static_cast<std::size_t>(r * w.groups + w.group_index(c));
        const auto at = static_cast<std::size_t>(r * k_ + c);
        out[at] = static_cast<float>(w.codes[at] - w.zeros[group]) * w.scales[group];
      }
    }
    return narrowed(std::move(values));
  }

  const TensorStore& store_;
  const std::string& module_;
  const PackedScheme scheme_;
  const std::int64_t n_;
  const std::int64_t k_;
  const std::string& place_;
  Tensor codes_;
  Tensor scales_;
  Tensor zeros_;
};

}  // namespace

bool has_mllm_codes(const TensorStore& store) {
  return std::ranges::any_of(store.tensors(),
                             [](const auto& tensor) { return tensor.first.ends_with(kMllmScale); });
}

bool is_packed(const TensorStore& store, const std::string& module) {
  const auto is_codes = [&](const char* suffix) {
    const auto found = store.tensors().find(module + suffix);
    return found != store.tensors().end() &&
           (!is_float(found->second.dtype) || is_f8_in(store, found->first));
  };
  if (!is_codes(".qweight") && !is_codes(".weight")) return false;
  return std::ranges::any_of(
      kScales, [&](const char* suffix) { return store.tensors().contains(module + suffix); });
}

void require_scales(const TensorStore& store, const PackedSettings& settings,
                    const std::string& place) {
  constexpr std::string_view kWeight = ".weight";
  for (const auto& [name, tensor] : store.tensors()) {
    if (!name.ends_with(kWeight) || !is_f8_in(store, name)) continue;
    const std::string module = name.substr(0, name.size() - kWeight.size());
    if (settings.scheme(module).method == Method::kF8 && !is_packed(store, module))
      fail(ErrorCode::kNotFound, "[packed] {}: {}: the scales are missing", place,
           printable(module));
  }
}

bool is_packed_part(const TensorStore& store, const std::string& name) {
  constexpr const char* kParts[] = {".qweight",
                                    ".weight",
                                    ".scales",
                                    ".qscales",
                                    ".weight_scale",
                                    ".weight_scale_inv",
                                    kMllmScale,
                                    ".bias.scale",
                                    ".clip_input",
                                    ".clip_output",
                                    ".qzeros",
                                    ".qqzeros",
                                    ".weight_zero_point",
                                    ".g_idx",
                                    ".input_scale",
                                    ".input_scale_ub",
                                    ".activation_scale",
                                    ".input_zero_point",
                                    ".output_scale",
                                    ".output_zero_point"};
  // Those of the KV cache stand by themselves, in the attention or in its projections.
  for (const char* cache : {".q_scale", ".k_scale", ".v_scale"})
    if (name.ends_with(cache)) return true;
  return std::ranges::any_of(kParts, [&](std::string_view part) {
    return name.ends_with(part) && is_packed(store, name.substr(0, name.size() - part.size()));
  });
}

Shape packed_shape(const TensorStore& store, const PackedSettings& settings,
                   const std::string& module) {
  const auto shape_of = [&](std::initializer_list<const char*> suffixes) {
    for (const char* suffix : suffixes) {
      const auto found = store.tensors().find(module + suffix);
      if (found != store.tensors().end()) return found->second;
    }
    return StoredTensor{};
  };
  const StoredTensor codes = shape_of({".qweight", ".weight"});
  const Shape scales = shape_of(kScales).shape;
  const PackedScheme scheme = settings.scheme(module);
  const bool grouped = scales.size() == 2;
  if (codes.shape.size() == 2 && is_of_mllm(store, module)) return {codes.shape[1], codes.shape[0]};
  if (codes.shape.size() != 2 || is_float(codes.dtype)) return codes.shape;
  if (codes.dtype != DType::kI32)
    return grouped ? Shape{codes.shape[1], codes.shape[0]} : codes.shape;
  if (scheme.method == Method::kGptq)
    return {codes.shape[1], codes.shape[0] * 32 / std::max(scheme.bits, 1)};
  if (grouped) return {scales[1], codes.shape[0]};
  return {codes.shape[0], codes.shape[1] * 8};
}

Weight read_packed_linear(const TensorStore& store, const PackedSettings& settings,
                          const std::string& module, std::int64_t n, std::int64_t k,
                          const std::string& place) {
  if (n < 1 || k < 1)
    fail(ErrorCode::kInvalidArgument, "[packed] {}: [{}, {}] is not a matrix", module, n, k);
  return PackedReader(store, module, settings.scheme(module), n, k, place).read();
}

float read_packed_input_scale(const TensorStore& store, const std::string& module,
                              const std::string& place) {
  const std::string name = module + ".input_scale";
  if (!is_packed(store, module) || !store.tensors().contains(name) ||
      is_f8_in(store, module + ".weight"))
    return 0;
  const Tensor scale = store.load(name);
  if (!is_float(scale.dtype()) || scale.elements() != 1)
    fail(ErrorCode::kFormat, "[packed] {}: {}: input scale: expected one float, got {} {}", place,
         module, to_string(scale.dtype()), to_string(scale.shape()));
  const float value = scale.to_floats()[0];
  if (!std::isfinite(value) || value < 0)
    fail(ErrorCode::kFormat,
         "[packed] {}: {}: input scale: expected a finite number from 0 up, got {}", place, module,
         value);
  // mllm stores the largest value instead.
  return is_of_mllm(store, module) ? value / 127.0F : value;
}

bool has_unclipped_input(const TensorStore& store, const std::string& module,
                         const std::string& place) {
  const std::string name = module + ".clip_input";
  if (!is_of_mllm(store, module) || !store.tensors().contains(name)) return false;
  const Tensor clips = store.load(name);
  if (clips.bytes().size() != 1)
    fail(ErrorCode::kFormat, "[packed] {}: {}: clip_input: expected one byte, got {} {}", place,
         module, to_string(clips.dtype()), to_string(clips.shape()));
  return clips.bytes()[0] == std::byte{0};
}

}  // namespace tandem
