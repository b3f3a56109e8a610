// Words of eight codes, and the settings in the spelling of each tool.
#include "checkpoint/packed_writer.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <regex>
#include <span>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "checkpoint/packed_linears.h"
#include "tensor/packed_codes.h"

namespace tandem {
namespace {

constexpr std::int64_t kCodesInWord = 8;

// Which of eight columns each nibble of a word holds.
std::array<std::int64_t, 8> order_of(const PackedStyle& style) {
  const bool is_plain = style.layout == PackedStyle::Layout::kGptq ||
                        (style.layout == PackedStyle::Layout::kQuark && !style.reordered);
  if (is_plain) return {0, 1, 2, 3, 4, 5, 6, 7};
  return kAwqColumns;
}

std::int64_t words_for(std::int64_t codes) { return (codes + kCodesInWord - 1) / kCodesInWord; }

// Four-bit codes [rows, columns] as GroupCodes has them.
class Nibbles {
 public:
  Nibbles(const Tensor& tensor, std::int64_t columns)
      : bytes_(tensor.bytes()), row_bytes_(packed_bytes(columns, 4)) {}
  std::uint32_t at(std::int64_t row, std::int64_t column) const {
    return packed_code(bytes_.data() + row * row_bytes_, 4, column);
  }

 private:
  std::span<const std::byte> bytes_;
  std::int64_t row_bytes_;
};

// Words [rows, ceil(columns / 8)] of what `code(row, column)` gives; zeros fill the last one.
template <typename Code>
Tensor words_of(std::int64_t rows, std::int64_t columns, const PackedStyle& style, Shape shape,
                Code code) {
  const auto order = order_of(style);
  std::byte* data = nullptr;
  Tensor tensor = Tensor::allocate(DType::kI32, std::move(shape), &data);
  auto* words = reinterpret_cast<std::uint32_t*>(data);
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t first = 0; first < columns; first += kCodesInWord) {
      std::uint32_t word = 0;
      for (std::size_t i = 0; i < order.size(); ++i)
        if (const std::int64_t column = first + order[i]; column < columns)
          word |= code(row, column) << (4 * i);
      *words++ = word;
    }
  return tensor;
}

// [rows, columns] of elements of type T as [columns, rows].
template <typename T>
void transpose(std::span<const std::byte> from, std::byte* to, std::int64_t rows,
               std::int64_t columns) {
  const auto* source = reinterpret_cast<const T*>(from.data());
  auto* target = reinterpret_cast<T*>(to);
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t column = 0; column < columns; ++column)
      target[column * rows + row] = source[row * columns + column];
}

// [rows, columns] as [columns, rows].
Tensor transposed(const Tensor& matrix) {
  const std::int64_t rows = matrix.dim(0), columns = matrix.dim(1);
  std::byte* data = nullptr;
  Tensor result = Tensor::allocate(matrix.dtype(), {columns, rows}, &data);
  switch (size_of(matrix.dtype())) {
    case 1:
      transpose<std::uint8_t>(matrix.bytes(), data, rows, columns);
      break;
    case 2:
      transpose<std::uint16_t>(matrix.bytes(), data, rows, columns);
      break;
    default:
      transpose<float>(matrix.bytes(), data, rows, columns);
  }
  return result;
}

// Quark's bytes: as they are for one scale per row, else transposed. Without stored zero points: 0 of
// signed codes, the middle of others. Of a scale that all rows share, one.
std::vector<Tensor> pack_bytes(const GroupCodes& codes) {
  Tensor zeros = codes.zero_points;
  if (zeros.empty()) {
    std::byte* data = nullptr;
    zeros = Tensor::allocate(codes.codes.dtype(), {codes.n, codes.groups()}, &data);
    std::ranges::fill(std::span(data, zeros.bytes().size()),
                      std::byte{codes.is_signed ? std::uint8_t{0} : std::uint8_t{128}});
  }
  if (codes.is_signed) zeros = zeros.view_as(DType::kI8, zeros.shape());
  if (has_one_scale(codes))
    return {codes.codes, zeros.rows(0, 1).view_as(zeros.dtype(), {}),
            codes.scales.rows(0, 1).view_as(codes.scales.dtype(), {})};
  if (codes.group != codes.k)
    return {transposed(codes.codes), transposed(zeros), transposed(codes.scales)};
  return {codes.codes, zeros.view_as(zeros.dtype(), {codes.n}),
          codes.scales.view_as(codes.scales.dtype(), {codes.n})};
}

// The group of each of k input channels.
Tensor group_index(std::int64_t k, std::int64_t group) {
  std::byte* data = nullptr;
  Tensor index = Tensor::allocate(DType::kI32, {k}, &data);
  for (std::int64_t channel = 0; channel < k; ++channel)
    reinterpret_cast<std::int32_t*>(data)[channel] = static_cast<std::int32_t>(channel / group);
  return index;
}

const PackedModule& commonest(const std::vector<PackedModule>& modules) {
  std::map<std::tuple<int, bool, std::int64_t>, int> counts;
  const auto form_of = [](const PackedModule& module) {
    return std::tuple(module.bits, module.is_signed, module.group);
  };
  const PackedModule* best = nullptr;
  for (const PackedModule& module : modules) {
    if (!module.is_packed) continue;
    ++counts[form_of(module)];
    if (best == nullptr) best = &module;
  }
  if (best == nullptr)
    fail(ErrorCode::kInvalidArgument, "[export] no module is packed: expected at least one");
  for (const PackedModule& module : modules)
    if (module.is_packed && counts[form_of(module)] > counts[form_of(*best)]) best = &module;
  return *best;
}

OrderedJson float_names(const std::vector<PackedModule>& modules) {
  OrderedJson names = OrderedJson::array();
  for (const PackedModule& module : modules)
    if (!module.is_packed) names.push_back(module.name);
  return names;
}

OrderedJson quark_scheme(const PackedModule& module) {
  const bool is_row = module.group == 0, is_whole = module.group < 0;
  const char* unit = is_whole ? "tensor" : is_row ? "channel" : "group";
  const char* observer = is_whole ? "Tensor" : is_row ? "Channel" : "Group";
  return {{"weight",
           {{"dtype", fmt::format("{}int{}", module.is_signed ? "" : "u", module.bits)},
            {"qscheme", fmt::format("per_{}", unit)},
            {"ch_axis", is_whole ? OrderedJson() : OrderedJson(is_row ? 0 : -1)},
            {"group_size", is_whole || is_row ? OrderedJson() : OrderedJson(module.group)},
            {"symmetric", module.is_signed},
            {"is_dynamic", false},
            {"round_method", "half_even"},
            {"scale_type", "float"},
            {"scale_format", nullptr},
            {"scale_calculation_mode", nullptr},
            {"mx_element_dtype", nullptr},
            {"observer_cls", fmt::format("Per{}MinMaxObserver", observer)},
            {"is_scale_quant", false}}},
          {"input_tensors", nullptr},
          {"output_tensors", nullptr},
          {"bias", nullptr},
          {"target_device", nullptr}};
}

OrderedJson quark_config(const PackedStyle& style, const std::vector<PackedModule>& modules) {
  const PackedModule& usual = commonest(modules);
  OrderedJson others = OrderedJson::object();
  for (const PackedModule& module : modules)
    if (module.is_packed && !module.has_form_of(usual)) others[module.name] = quark_scheme(module);
  return {{"quant_method", "quark"},
          {"quant_mode", "eager_mode"},
          {"version", "0.13"},
          {"global_quant_config", quark_scheme(usual)},
          {"exclude", float_names(modules)},
          {"algo_config", nullptr},
          {"softmax_quant_spec", nullptr},
          {"layer_type_quant_config", OrderedJson::object()},
          {"layer_quant_config", std::move(others)},
          {"kv_cache_quant_config", OrderedJson::object()},
          {"kv_cache_post_rope", false},
          {"export",
           {{"kv_cache_group", OrderedJson::array()},
            {"min_kv_scale", 0.0},
            {"pack_method", style.reordered ? "reorder" : "order"},
            {"weight_format", "real_quantized"},
            {"weight_merge_groups", nullptr}}}};
}

// The names that families give their heads.
bool is_head(const PackedModule& module) {
  return module.name == "lm_head" || module.name == "transformer.output_layer";
}

OrderedJson gptq_config(const std::vector<PackedModule>& modules) {
  const PackedModule& usual = commonest(modules);
  const bool packs_head = std::ranges::any_of(
      modules, [](const PackedModule& module) { return module.is_packed && is_head(module); });
  // GPTQModel's way to leave modules out: expressions that begin with "-:".
  OrderedJson rules = OrderedJson::object();
  for (const PackedModule& module : modules)
    if (!module.is_packed && !is_head(module))
      rules["-:" + std::regex_replace(module.name, std::regex("\\."), "\\.")] =
          OrderedJson::object();
  return {{"quant_method", "gptq"},
          {"bits", 4},
          {"group_size", usual.group == 0 ? -1 : usual.group},
          {"desc_act", false},
          {"sym", usual.is_signed},
          {"lm_head", packs_head},
          {"checkpoint_format", "gptq"},
          {"dynamic", std::move(rules)}};
}

}  // namespace

std::string_view to_string(PackedStyle::Layout layout) noexcept {
  switch (layout) {
    case PackedStyle::Layout::kAwq:
      return "awq";
    case PackedStyle::Layout::kGptq:
      return "gptq";
    default:
      return "quark";
  }
}

std::string objection_to_style(const PackedStyle& style, const std::vector<PackedModule>& modules) {
  if (std::ranges::none_of(modules, &PackedModule::is_packed)) return "every module stays float";
  if (style.layout == PackedStyle::Layout::kQuark) return {};
  const bool is_gptq = style.layout == PackedStyle::Layout::kGptq;
  if (!is_gptq && !style.reordered) return "AWQ's words hold their columns in AWQ's order only";
  const PackedModule& usual = commonest(modules);
  for (const PackedModule& module : modules) {
    if (!module.is_packed) continue;
    if (is_gptq) {
      if (module.bits == 4 && module.has_form_of(usual)) continue;
      return fmt::format("{}: GPTQ holds 4-bit codes of one kind and group size only", module.name);
    }
    if (module.is_signed || module.group <= 0 || module.bits != 4)
      return fmt::format("{}: AWQ holds asymmetric 4-bit codes in groups only", module.name);
    if (module.group != usual.group)
      return fmt::format("{}: AWQ has one group size for all, got {} beside {}", module.name,
                         module.group, usual.group);
  }
  return {};
}

bool has_one_scale(const GroupCodes& codes) {
  if (codes.bits != 8 || codes.group != codes.k || codes.n < 2) return false;
  const auto same = [&](const Tensor& tensor) {
    const auto first = tensor.rows(0, 1).bytes();
    for (std::int64_t row = 1; row < codes.n; ++row)
      if (!std::ranges::equal(tensor.rows(row, 1).bytes(), first)) return false;
    return true;
  };
  return same(codes.scales) && (codes.zero_points.empty() || same(codes.zero_points));
}

std::vector<PackedTensor> packed_tensors(const PackedModule& module, std::int64_t n, std::int64_t k,
                                         DType scales, const PackedStyle& style) {
  if (module.bits == 8) {
    const DType dtype = module.is_signed ? DType::kI8 : DType::kU8;
    const Shape per_scale = module.group < 0    ? Shape{}
                            : module.group == 0 ? Shape{n}
                                                : Shape{k / module.group, n};
    return {{".weight", dtype, module.group <= 0 ? Shape{n, k} : Shape{k, n}},
            {".weight_zero_point", dtype, per_scale},
            {".weight_scale", scales, per_scale}};
  }
  const std::int64_t words = words_for(n);
  if (style.layout == PackedStyle::Layout::kGptq) {
    const std::int64_t groups = module.group == 0 ? 1 : k / module.group;
    return {{".qweight", DType::kI32, {words_for(k), n}},
            {".qzeros", DType::kI32, {groups, words}},
            {".scales", scales, {groups, n}},
            {".g_idx", DType::kI32, {k}}};
  }
  if (module.group == 0)
    return {{".weight", DType::kI32, {n, words_for(k)}},
            {".weight_zero_point", DType::kI32, {words}},
            {".weight_scale", scales, {n}}};
  const std::int64_t groups = k / module.group;
  const bool is_awq = style.layout == PackedStyle::Layout::kAwq;
  return {{is_awq ? ".qweight" : ".weight", DType::kI32, {k, words}},
          {is_awq ? ".qzeros" : ".weight_zero_point", DType::kI32, {groups, words}},
          {is_awq ? ".scales" : ".weight_scale", scales, {groups, n}}};
}

std::vector<Tensor> pack(const GroupCodes& codes, const PackedStyle& style) {
  if (codes.bits == 8) return pack_bytes(codes);
  const std::int64_t n = codes.n, k = codes.k, groups = codes.groups();
  const Nibbles values(codes.codes, k);
  // Without stored zero points: 0 of signed codes, the middle of others.
  const Nibbles zeros(codes.zero_points, groups);
  const auto zero = [&](std::int64_t row, std::int64_t group) {
    if (!codes.zero_points.empty()) return zeros.at(row, group);
    return codes.is_signed ? 0U : 8U;
  };
  const bool is_gptq = style.layout == PackedStyle::Layout::kGptq;
  const bool is_row = codes.group == k && style.layout == PackedStyle::Layout::kQuark;
  if ((is_gptq || is_row) && k % kCodesInWord != 0)
    fail(ErrorCode::kInvalidArgument, "[export] K = {}: expected a multiple of 8", k);
  if (is_gptq) {
    // Signed codes count from -8 there.
    const std::uint32_t sign = codes.is_signed ? 8 : 0;
    return {transposed(words_of(n, k, style, {n, words_for(k)},
                                [&](std::int64_t row, std::int64_t column) {
                                  return values.at(row, column) ^ sign;
                                })),
            words_of(groups, n, style, {groups, words_for(n)},
                     [&](std::int64_t group, std::int64_t row) {
                       return ((zero(row, group) ^ sign) - 1U) & 15U;
                     }),
            transposed(codes.scales), group_index(k, codes.group)};
  }
  if (is_row) {
    return {words_of(n, k, style, {n, words_for(k)},
                     [&](std::int64_t row, std::int64_t column) { return values.at(row, column); }),
            words_of(1, n, style, {words_for(n)},
                     [&](std::int64_t, std::int64_t row) { return zero(row, 0); }),
            codes.scales.view_as(codes.scales.dtype(), {n})};
  }
  return {words_of(k, n, style, {k, words_for(n)},
                   [&](std::int64_t column, std::int64_t row) { return values.at(row, column); }),
          words_of(groups, n, style, {groups, words_for(n)},
                   [&](std::int64_t group, std::int64_t row) { return zero(row, group); }),
          transposed(codes.scales)};
}

OrderedJson packed_config(const PackedStyle& style, const std::vector<PackedModule>& modules) {
  if (style.layout == PackedStyle::Layout::kQuark) return quark_config(style, modules);
  if (style.layout == PackedStyle::Layout::kGptq) return gptq_config(modules);
  return {{"quant_method", "awq"},
          {"bits", 4},
          {"group_size", commonest(modules).group},
          {"zero_point", true},
          {"version", "gemm"},
          {"modules_to_not_convert", float_names(modules)}};
}

}  // namespace tandem
