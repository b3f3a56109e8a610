#include "devices/packed_linear.h"

#include <algorithm>

#include "base/error.h"
#include "base/hash.h"

namespace tandem {
namespace {

// Names the packed form of a weight by everything that decides its bytes.
std::string packed_key(const Weight& weight, const PanelLayout& layout, ThreadPool& pool) {
  std::string content;
  std::visit(
      [&](const auto& w) {
        using T = std::decay_t<decltype(w)>;
        if constexpr (std::is_same_v<T, FloatWeight>) {
          content = content_hash_tree(w.values.bytes(), pool);
        } else {
          content = content_hash_tree(w.codes.bytes(), pool) + content_hash(w.scales.bytes());
          if constexpr (std::is_same_v<T, Int4Groups>)
            content += content_hash(w.zero_points.bytes());
        }
      },
      weight);
  return content_hash(fmt::format("panels v{} kind {} n {} k {} group {} {}", kPanelLayoutVersion,
                                  static_cast<int>(layout.kind), layout.n, layout.k, layout.group,
                                  content));
}

}  // namespace

std::string why_not_static(const Int8Channels& weight) {
  if (!(weight.input_scale > 0)) return "int8 weight without a static input scale";
  if (weight.k > kMaxInt8K)
    return fmt::format("K = {}: int32 sums are exact up to {}", weight.k, kMaxInt8K);
  return {};
}

PackedLinear pack_linear(const Node& node, const CompileContext& context) {
  const auto& attributes = node.as<LinearAttributes>();
  PackedLinear packed;
  packed.layout = panel_layout(attributes.weight);
  packed.bias = attributes.bias;
  packed.output = node.output;
  if (const auto* int8 = std::get_if<Int8Channels>(&attributes.weight))
    packed.input_scale = int8->input_scale;
  const auto pack = [&](std::byte* out) {
    context.pool.parallel_for(packed.layout.panels(), 1, [&](Range range) {
      pack_panels(attributes.weight, packed.layout, range, out);
    });
  };
  packed.panels = context.packed.get_or_pack(
      [&] { return packed_key(attributes.weight, packed.layout, context.pool); },
      packed.layout.bytes(), pack);
  return packed;
}

void Scratch::Region::reserve(std::int64_t bytes) {
  if (!memory.empty() && memory.elements() >= bytes) return;
  memory = Tensor::allocate(DType::kU8, {bytes}, &data);
}

void Scratch::reserve_rows(std::int64_t rows, std::int64_t k, std::int64_t groups) {
  codes_.reserve(rows * code_stride(k));
  scales_.reserve(rows * groups * static_cast<std::int64_t>(sizeof(float)));
  sums_.reserve(rows * groups * static_cast<std::int64_t>(sizeof(std::int32_t)));
}

void Scratch::reserve_attention(int threads, std::int64_t floats) {
  attention_floats_ = std::max(attention_floats_, (floats + 15) / 16 * 16);
  attention_.reserve(threads * attention_floats_ * static_cast<std::int64_t>(sizeof(float)));
}

void run_int8_linears(const Kernels& kernels, std::span<const PackedLinear> linears,
                      const StaticInt8Rows& input, std::int64_t rows, const RunContext& context) {
  for_each_panel(context.pool, linears, [&](const PackedLinear& linear, Range range) {
    const LinearOutput output{context.values[static_cast<std::size_t>(linear.output)],
                              linear.layout.n,
                              linear.bias.empty() ? nullptr : linear.bias.as<float>().data()};
    kernels.linear_int8(linear.layout, linear.panels.bytes().data(), range, input, rows, output);
  });
}

}  // namespace tandem
