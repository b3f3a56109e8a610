// The pickles of PyTorch checkpoints, read as data: a machine that knows dicts, lists, tuples,
// numbers, strings and tensors, and calls nothing. A pickle that names any other function or class
// is refused, so that no file can make code run.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "checkpoint/byte_reader.h"
#include "tensor/tensor.h"

namespace tandem {

struct PickleValue;

// A tensor of a pickle: a view of a storage that lies elsewhere in the file.
struct PickleTensor {
  std::string storage;  // key
  DType dtype = DType::kF32;
  std::int64_t storage_bytes = 0;
  std::int64_t offset = 0;  // elements
  Shape shape;
  Shape strides;  // elements
};

struct PickleValue {
  enum class Kind {
    kNone,
    kBool,
    kInt,
    kFloat,
    kString,
    kTuple,
    kList,
    kDict,
    kGlobal,
    kStorage,
    kTensor,
    kMark
  };
  Kind kind = Kind::kNone;
  std::int64_t number = 0;                                   // kBool, kInt
  double real = 0;                                           // kFloat
  std::string text;                                          // kString, kGlobal "torch.Size"
  std::vector<PickleValue*> items;                           // kTuple, kList
  std::vector<std::pair<PickleValue*, PickleValue*>> pairs;  // kDict, in order
  PickleTensor tensor;                                       // kTensor; kStorage: its storage
  PickleValue* find(std::string_view key) const;             // of a dict, or null
};

// Owns the values of one pickle or several. Values may refer to each other in cycles.
class Unpickler {
 public:
  // Reads one pickle from `reader`, up to and including its STOP. The value lives as long as this.
  // Memory grows with the bytes read and not with what they claim. kFormat for a pickle that is
  // malformed, kUnsupported naming a function, class or opcode that is not known here.
  PickleValue* read(ByteReader& reader);

  // Bytes of every storage that was named, by key, in the order of first mention.
  const std::vector<std::pair<std::string, std::int64_t>>& storages() const noexcept {
    return storages_;
  }

 private:
  class Machine;
  PickleValue* make(PickleValue::Kind kind);

  std::deque<PickleValue> values_;
  std::vector<std::pair<std::string, std::int64_t>> storages_;
  std::unordered_map<std::string, std::size_t> storage_index_;
};

}  // namespace tandem
