// Angles in the order of positions; the names are the model builder's.
#include "onnx/rotary_caches.h"

#include <algorithm>
#include <array>
#include <vector>

#include "graph/rotary.h"
#include "onnx/onnx_weights.h"

namespace tandem {
namespace {

// The cosines or the sines of the first `rows` positions at the frequencies of an epoch.
class CacheTable {
 public:
  CacheTable(const RotaryAnglesAttributes& angles, std::int64_t epoch, std::int64_t rows)
      : frequencies_(angles.inverse_frequencies.size()),
        factor_(angles.attention_factor),
        rows_(rows) {
    write_frequencies(angles, epoch, frequencies_);
  }

  std::int64_t rows() const noexcept { return rows_; }
  std::int64_t pairs() const noexcept { return static_cast<std::int64_t>(frequencies_.size()); }

  void write(bool sines, OnnxType type, const ByteSink& sink) const {
    std::vector<float> angles(2 * frequencies_.size());
    const std::span<const float> all(angles);
    for (std::int64_t position = 0; position < rows_; ++position) {
      write_angles(frequencies_, position, factor_, angles.data());
      write_values(sines ? all.last(frequencies_.size()) : all.first(frequencies_.size()), type,
                   sink);
    }
  }

  OnnxConstant constant(std::string name, bool sines, OnnxType type) const {
    OnnxConstant constant{std::move(name), type, {rows(), pairs()}, {}};
    write(sines, type, [&](std::span<const std::byte> bytes) {
      constant.bytes.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    });
    return constant;
  }

 private:
  std::vector<float> frequencies_;
  float factor_;
  std::int64_t rows_;
};

void add_tables(const std::vector<CacheTable>& tables, OnnxType type, ModelWriter& writer) {
  std::int64_t rows = 0;
  for (const CacheTable& table : tables) rows += table.rows();
  for (const bool sines : {false, true})
    writer.add_initializer(sines ? "sin_cache" : "cos_cache", type, {rows, tables[0].pairs()},
                           [&](const ByteSink& sink) {
                             for (const CacheTable& table : tables) table.write(sines, type, sink);
                           });
}

// Positions of a sequence that reaches beyond the first `rows`, moved to the rows behind them.
std::string add_moved_positions(std::int64_t rows, ModelWriter& writer) {
  const std::string base = "/model/pos_ids_reformat";
  const auto add = [&](const std::string& op, const std::string& name,
                       std::vector<std::string> inputs, OnnxValue output,
                       std::vector<OnnxAttribute> attributes = {}) {
    output.name = name + "/output_0";
    writer.add_node({op, name, std::move(inputs), {output}, std::move(attributes)});
    return output.name;
  };
  const OnnxValue number{"", OnnxType::kInt64, {}};
  const std::string longest = add("ReduceMax", base + "/ReduceMax", {"position_ids"}, number,
                                  {{"keepdims", std::int64_t{0}}});
  const std::string beyond = add("GreaterOrEqual", base + "/GreaterOrEqual",
                                 {longest, writer.constant(rows)}, {"", OnnxType::kBool, {}});
  const std::string flag = add("Cast", base + "/Cast", {beyond}, number,
                               {{"to", static_cast<std::int64_t>(OnnxType::kInt64)}});
  const std::string offset = add("Mul", base + "/Mul", {flag, writer.constant(rows)}, number);
  return add("Add", base + "/Add", {"position_ids", offset},
             {"", OnnxType::kInt64, {"batch_size", "sequence_length"}});
}

}  // namespace

std::int64_t rotary_context(const RotaryAnglesAttributes& angles, std::int64_t context) noexcept {
  const RotaryExtension& extension = angles.extension;
  const bool changes = extension.original_context > 0 && extension.inverse_frequencies.empty();
  return changes ? std::min(context, extension.original_context) : context;
}

RotaryCaches add_rotary_caches(const RotaryAnglesAttributes& angles, std::int64_t context,
                               OnnxType type, const CacheChoice& choice, ModelWriter& writer) {
  RotaryCaches caches{"cos_cache", "sin_cache"};
  const std::int64_t original = angles.extension.original_context;
  if (original == 0 || original >= context) {
    add_tables({CacheTable(angles, 0, context)}, type, writer);
    return caches;
  }
  const CacheTable small(angles, 0, original), large(angles, 1, context);
  if (!choice.has_if) {
    add_tables({small, large}, type, writer);
    caches.positions = add_moved_positions(original, writer);
    return caches;
  }
  const std::string greater = choice.nodes + "/Greater";
  writer.add_node({.op = "Greater",
                   .name = greater,
                   .inputs = {choice.total_length, writer.constant(original)},
                   .outputs = {{greater + "/output_0", OnnxType::kBool, {}}}});
  const std::array if_large = {large.constant("cos_cache_large", false, type),
                               large.constant("sin_cache_large", true, type)};
  const std::array if_small = {small.constant("cos_cache_small", false, type),
                               small.constant("sin_cache_small", true, type)};
  const std::vector<OnnxDim> shape = {"max_sequence_length", "head_dim / 2"};
  writer.add_choice(choice.nodes + "/If", greater + "/output_0",
                    {{caches.cosines, type, shape}, {caches.sines, type, shape}}, if_large,
                    if_small);
  return caches;
}

}  // namespace tandem
