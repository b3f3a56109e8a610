// Writes model.onnx and its external data: nodes and typed values are gathered in memory, initializers
// stream into one file beside the model, so that memory stays at what is being written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/files.h"
#include "onnx/dialect.h"

namespace tandem {

// Element types, with ONNX's numbers.
enum class OnnxType : std::int32_t {
  kFloat = 1,
  kUint8 = 2,
  kInt8 = 3,
  kInt32 = 6,
  kInt64 = 7,
  kBool = 9,
  kFloat16 = 10,
};
// "FLOAT", as in the names of constants.
std::string_view to_string(OnnxType type) noexcept;
// Bytes per element.
std::int64_t size_of(OnnxType type) noexcept;

// A number, or the name of one that is known when the model runs, such as "batch_size".
using OnnxDim = std::variant<std::int64_t, std::string>;

struct OnnxValue {
  std::string name;
  OnnxType type = OnnxType::kFloat;
  std::vector<OnnxDim> shape;
};

struct OnnxAttribute {
  std::string name;
  std::variant<std::int64_t, float, std::string, std::vector<std::int64_t>> value;
};

struct OnnxNode {
  // Such as "MatMulNBits".
  std::string op;
  std::string name;
  // Values by name; an empty name stands for an optional input that is absent.
  std::vector<std::string> inputs;
  std::vector<OnnxValue> outputs;
  std::vector<OnnxAttribute> attributes = {};
  // Empty for ONNX's own operators, or "com.microsoft".
  std::string domain = {};
};

// A tensor that is stored in model.onnx itself.
struct OnnxConstant {
  std::string name;
  OnnxType type = OnnxType::kFloat;
  std::vector<std::int64_t> shape;
  std::string bytes;
};

// Where the bytes of an initializer go, in order.
using ByteSink = std::function<void(std::span<const std::byte>)>;

class ModelWriter {
 public:
  // Begins `folder`/`filename` and `folder`/`filename`.data.
  ModelWriter(const fs::path& folder, const std::string& filename, const OnnxDialect& dialect);
  ~ModelWriter();
  ModelWriter(const ModelWriter&) = delete;
  ModelWriter& operator=(const ModelWriter&) = delete;

  void add_input(const OnnxValue& value);
  void add_output(const OnnxValue& value);
  // Throws kInternal for an operator, output or initializer whose name is taken.
  void add_node(const OnnxNode& node);

  // The name of a constant that is added when it is first asked for: "/model/constants/INT64/[1]" for
  // a list, "/model/constants/INT64/1" for a number, or as the dialect has it.
  std::string constant(const std::vector<std::int64_t>& list);
  std::string constant(std::int64_t number);
  std::string constant(float number, OnnxType type);
  // The zero point of symmetric int8 codes.
  std::string int8_zero();

  // Calls `write` with where the tensor's bytes go. Throws kInternal unless they are as many as the
  // shape says.
  void add_initializer(const std::string& name, OnnxType type,
                       const std::vector<std::int64_t>& shape,
                       const std::function<void(const ByteSink&)>& write);

  // An If whose branches give constants, as many as it has outputs.
  void add_choice(const std::string& name, const std::string& condition,
                  const std::vector<OnnxValue>& outputs, std::span<const OnnxConstant> if_true,
                  std::span<const OnnxConstant> if_false);

  // Writes model.onnx; nothing can be added after that.
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tandem
