// Reads the pickles of PyTorch checkpoints as data: an interpreter that knows dicts, lists, tuples,
// numbers, strings and tensors, and calls nothing. A pickle that names any other function or class
// is rejected, so that no file can execute code.
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

// A tensor of a pickle: a view of a storage elsewhere in the file.
struct PickleTensor {
  // The storage's key.
  std::string storage;
  DType dtype = DType::kF32;
  // PyTorch's name of an element type that is not read here; dtype then means nothing.
  std::string unread_type;
  std::int64_t storage_bytes = 0;
  // In elements.
  std::int64_t offset = 0;
  Shape shape;
  // In elements.
  Shape strides;
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
  // For kBool and kInt.
  std::int64_t number = 0;
  // For kFloat.
  double real = 0;
  // For kString, and kGlobal such as "torch.Size".
  std::string text;
  // For kTuple and kList.
  std::vector<PickleValue*> items;
  // For kDict, in order.
  std::vector<std::pair<PickleValue*, PickleValue*>> pairs;
  // For kTensor; for kStorage, its storage.
  PickleTensor tensor;
  // The value of `key` in a dict, or null.
  PickleValue* find(std::string_view key) const;
};

// Owns the values of one or more pickles. Values may refer to each other in cycles.
class Unpickler {
 public:
  // Reads one pickle from `reader`, up to and including its STOP. The value lives as long as this
  // object. Memory grows with the bytes read, not with the sizes they claim. Throws kFormat for a
  // malformed pickle, kUnsupported naming an unknown function, class or opcode.
  PickleValue* read(ByteReader& reader);

  // The size in bytes of every storage mentioned, by key, in the order of first mention.
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
