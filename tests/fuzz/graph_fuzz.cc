// graph.json of a package: any graph that is accepted is complete, and survives a round trip
// through writing and reading.
#include <algorithm>
#include <cstring>
#include <sstream>
#include <string>

#include "fuzz.h"
#include "graph/graph_json.h"

using namespace tandem;

namespace {

// References spell the tensor that they stand for, "F32 4 8": small ones of any type and shape.
class SpelledTensors : public TensorSource {
 public:
  Tensor find(const std::string& reference) const override {
    std::istringstream words(reference);
    std::string type;
    words >> type;
    Shape shape;
    for (std::int64_t dim = 0; shape.size() < 4 && words >> dim;)
      shape.push_back(std::clamp<std::int64_t>(dim, 0, 64));
    const DType dtype = dtype_from_string(type);
    std::byte* data = nullptr;
    const Tensor tensor = Tensor::allocate(dtype, shape, &data);
    std::fill_n(data, tensor.bytes().size(), std::byte{1});
    // Numbers of channels have to ascend.
    if (dtype == DType::kI32)
      for (std::int32_t i = 0; i < tensor.elements(); ++i) std::memcpy(data + 4 * i, &i, 4);
    return tensor;
  }
};

class SpellingSink : public TensorSink {
 public:
  std::string keep(const std::string&, const Tensor& tensor) override {
    return spell(tensor.dtype(), tensor.shape());
  }
  std::string keep(const std::string&, const Rows& rows) override {
    return spell(rows->dtype(), {rows->rows(), rows->columns()});
  }

 private:
  static std::string spell(DType dtype, const Shape& shape) {
    std::string reference(to_string(dtype));
    for (const std::int64_t dim : shape) reference += " " + std::to_string(dim);
    return reference;
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return fuzz::parse([&] {
    const Json json = parse_json(fuzz::as_text({data, size}), "graph.json");
    const Graph graph = graph_from_json(JsonObject(json, "graph.json"), SpelledTensors());
    verify(graph);
    SpellingSink sink;
    const std::string text = graph_to_json(graph, sink).dump();
    const Json again = parse_json(text, "again");
    const Graph reread = graph_from_json(JsonObject(again, "again"), SpelledTensors());
    fuzz::require(dump(graph) == dump(reread), "a graph that was written reads otherwise");
  });
}
