// Rounding as ONNX Runtime's quantizer does it, code by code, and which Linears it applies to.
#include "quantize/onnx_rounding.h"

#include <gtest/gtest.h>

#include "base/json.h"
#include "quantize/demo_graph.h"
#include "quantize/rtn.h"
#include "support.h"
#include "tensor/packed_codes.h"

namespace tandem {
namespace {

using testing::error_of;

TEST(OnnxRounding, IsThatOfOnnxRuntime) {
  const Json fixture = read_json_file(testing::fixture("quantize/fixtures/onnx_rounding.json"));
  std::vector<float> values;
  for (const Json& row : fixture["weight"])
    for (const Json& value : row) values.push_back(value.get<float>());
  const auto n = static_cast<std::int64_t>(fixture["weight"].size());
  const std::int64_t k = static_cast<std::int64_t>(values.size()) / n;
  const Rows rows = stored_rows(Tensor::from_floats(values, {n, k}));
  const std::int64_t block = fixture["block"];
  ThreadPool pool(1);
  for (const Json& expected : fixture["cases"]) {
    const int bits = expected["bits"];
    const bool symmetric = expected["symmetric"];
    const GroupCodes codes = quantize_group_codes(*rows,
                                                  {.bits = bits,
                                                   .is_signed = symmetric,
                                                   .group = block,
                                                   .scales = DType::kF32,
                                                   .formula = GroupFormula::kOnnx},
                                                  "w", pool);
    EXPECT_EQ(codes.zero_points.empty(), symmetric);
    // Signed codes here, with an offset there.
    const int offset = symmetric ? 1 << (bits - 1) : 0;
    for (std::int64_t row = 0; row < n; ++row) {
      const auto r = static_cast<std::size_t>(row);
      const std::byte* packed = codes.codes.bytes().data() + row * packed_bytes(k, bits);
      for (std::int64_t i = 0; i < k; ++i)
        EXPECT_EQ(packed_code(packed, bits, i) ^ offset,
                  expected["codes"][r][static_cast<std::size_t>(i)])
            << bits << symmetric << " row " << row << " column " << i;
      for (std::int64_t g = 0; g < k / block; ++g) {
        const auto at = static_cast<std::size_t>(g);
        EXPECT_EQ(codes.scales.as<float>()[static_cast<std::size_t>(row * (k / block) + g)],
                  expected["scales"][r][at].get<float>());
        if (symmetric) continue;
        const std::byte* zeros =
            codes.zero_points.bytes().data() + row * packed_bytes(k / block, bits);
        EXPECT_EQ(packed_code(zeros, bits, g), expected["zero_points"][r][at]);
      }
    }
  }
}

std::vector<std::string> rounded(const OnnxRounding& rounding, const Graph& graph) {
  std::vector<std::string> names;
  for (const Node& node : graph.nodes())
    if (node.op == Op::kLinear && rounding.applies_to(node)) names.push_back(node.name);
  return names;
}

TEST(OnnxRounding, LeavesOutWhatIsNamed) {
  const testing::DemoGraph demo;
  const Graph& graph = demo.graph();
  ThreadPool pool(1);
  const auto count = [&](std::vector<std::string> excluded) {
    return rounded(OnnxRounding({.excluded = std::move(excluded)}, graph, pool), graph).size();
  };
  EXPECT_EQ(count({}), 43U);
  EXPECT_EQ(count({"lm_head"}), 42U);
  EXPECT_EQ(count({"/lm_head/MatMul", "model.layers.2.mlp.*"}), 39U);
  EXPECT_EQ(count({"/model/layers.0/attn/qkv_proj/MatMul"}), 40U);
  EXPECT_EQ(count({"re:layers\\.[01]\\..*down_proj"}), 41U);
  EXPECT_NE(
      error_of([&] { count({"model.layers.9.*"}); }).find("\"model.layers.9.*\" matches no module"),
      std::string::npos);
  EXPECT_NE(error_of([&] {
              OnnxRounding({.block = 24}, graph, pool);
            }).find("a power of two from 16 to 256, got 24"),
            std::string::npos);
}

}  // namespace
}  // namespace tandem
