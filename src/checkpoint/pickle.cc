// The pickle interpreter.
#include "checkpoint/pickle.h"

#include <algorithm>
#include <array>
#include <optional>

#include "base/error.h"
#include "base/printable.h"

namespace tandem {
namespace {

using Kind = PickleValue::Kind;

// The opcodes of protocols 0 to 5 used in PyTorch's pickles.
enum Op : std::uint8_t {
  kMarkOp = '(',
  kStop = '.',
  kPop = '0',
  kPopMark = '1',
  kDup = '2',
  kBinFloat = 'G',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kNoneOp = 'N',
  kBinPersId = 'Q',
  kReduce = 'R',
  kBinString = 'T',
  kShortBinString = 'U',
  kBinUnicode = 'X',
  kEmptyList = ']',
  kAppend = 'a',
  kBuild = 'b',
  kGlobalOp = 'c',
  kAppends = 'e',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kSetItems = 'u',
  kEmptyDict = '}',
  kEmptyTuple = ')',
  kBinBytes = 'B',
  kShortBinBytes = 'C',
  kProto = 0x80,
  kNewObj = 0x81,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
  kShortBinUnicode = 0x8c,
  kBinUnicode8 = 0x8d,
  kStackGlobal = 0x93,
  kMemoize = 0x94,
  kFrame = 0x95,
};

struct StorageType {
  std::string_view name;
  DType dtype;
};

constexpr std::array kStorageTypes = {
    StorageType{"torch.FloatStorage", DType::kF32},
    StorageType{"torch.HalfStorage", DType::kF16},
    StorageType{"torch.BFloat16Storage", DType::kBF16},
    StorageType{"torch.DoubleStorage", DType::kF64},
    StorageType{"torch.CharStorage", DType::kI8},
    StorageType{"torch.ByteStorage", DType::kU8},
    StorageType{"torch.ShortStorage", DType::kI16},
    StorageType{"torch.IntStorage", DType::kI32},
    StorageType{"torch.LongStorage", DType::kI64},
    StorageType{"torch.BoolStorage", DType::kBool},
    StorageType{"torch.storage.UntypedStorage", DType::kU8},
};

// Dtypes named by tensors on an untyped storage.
constexpr std::array kDTypes = {
    StorageType{"torch.float32", DType::kF32},
    StorageType{"torch.float16", DType::kF16},
    StorageType{"torch.bfloat16", DType::kBF16},
    StorageType{"torch.float64", DType::kF64},
    StorageType{"torch.int8", DType::kI8},
    StorageType{"torch.uint8", DType::kU8},
    StorageType{"torch.int16", DType::kI16},
    StorageType{"torch.uint16", DType::kU16},
    StorageType{"torch.int32", DType::kI32},
    StorageType{"torch.uint32", DType::kU32},
    StorageType{"torch.int64", DType::kI64},
    StorageType{"torch.uint64", DType::kU64},
    StorageType{"torch.bool", DType::kBool},
    StorageType{"torch.float8_e4m3fn", DType::kF8E4M3},
    StorageType{"torch.float8_e5m2", DType::kF8E5M2},
};

// Element types that are not read here, by both kinds of names.
struct UnreadType {
  std::string_view name;
  std::int64_t bytes;
};

constexpr std::array kUnreadTypes = {
    UnreadType{"torch.ComplexFloatStorage", 8}, UnreadType{"torch.ComplexDoubleStorage", 16},
    UnreadType{"torch.QInt8Storage", 1},        UnreadType{"torch.QUInt8Storage", 1},
    UnreadType{"torch.QInt32Storage", 4},       UnreadType{"torch.complex32", 4},
    UnreadType{"torch.complex64", 8},           UnreadType{"torch.complex128", 16},
    UnreadType{"torch.float8_e4m3fnuz", 1},     UnreadType{"torch.float8_e5m2fnuz", 1},
    UnreadType{"torch.float8_e8m0fnu", 1},      UnreadType{"torch.float4_e2m1fn_x2", 1},
};

// What a pickle may "call"; each is handled here without calling anything.
constexpr std::array<std::string_view, 7> kFunctions = {
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
};

// The longest name of a global or a storage.
constexpr std::size_t kLongestName = 256;
// A value takes about 200 bytes in memory and as little as one in the file. A tensor is made of
// about 30 values, and the largest files have a few thousand tensors.
constexpr std::size_t kMaxValues = std::size_t{1} << 20;

template <std::size_t kCount>
std::optional<DType> find_dtype(const std::array<StorageType, kCount>& types,
                                std::string_view name) {
  const auto found = std::ranges::find(types, name, &StorageType::name);
  if (found == types.end()) return std::nullopt;
  return found->dtype;
}

const UnreadType* find_unread(std::string_view name) {
  const auto found = std::ranges::find(kUnreadTypes, name, &UnreadType::name);
  return found == kUnreadTypes.end() ? nullptr : &*found;
}

bool is_known(std::string_view name) {
  return std::ranges::find(kFunctions, name) != kFunctions.end() ||
         find_dtype(kStorageTypes, name) || find_dtype(kDTypes, name) ||
         find_unread(name) != nullptr;
}

}  // namespace

PickleValue* PickleValue::find(std::string_view key) const {
  // The last assignment to a key wins.
  for (auto pair = pairs.rbegin(); pair != pairs.rend(); ++pair)
    if (pair->first->kind == Kind::kString && pair->first->text == key) return pair->second;
  return nullptr;
}

PickleValue* Unpickler::make(Kind kind) {
  values_.emplace_back().kind = kind;
  return &values_.back();
}

// One run of the interpreter: a stack, and the memo of remembered values.
class Unpickler::Machine {
 public:
  Machine(Unpickler& owner, ByteReader& reader) : owner_(owner), reader_(reader) {}

  PickleValue* run() {
    while (true) {
      const std::uint64_t at = reader_.position();
      const auto op = reader_.number<std::uint8_t>("an opcode");
      if (op == kStop) break;
      at_ = at;
      if (owner_.values_.size() > kMaxValues)
        reject(fmt::format("expected {} values at most", kMaxValues));
      step(op);
    }
    PickleValue* result = pop();
    if (!stack_.empty()) reject("values are left on the stack");
    return result;
  }

 private:
  [[noreturn]] void reject(const std::string& reason) const {
    fail(ErrorCode::kFormat, "{}: pickle, byte {}: {}", reader_.place(), at_, reason);
  }

  void step(std::uint8_t op) {
    switch (op) {
      case kProto:
        reader_.take(1, "protocol");
        return;
      case kFrame:
        reader_.take(8, "frame length");
        return;
      case kMarkOp:
        return push(owner_.make(Kind::kMark));
      case kPop:
        pop_any();
        return;
      case kPopMark:
        pop_to_mark();
        return;
      case kDup:
        return push(top());
      case kNoneOp:
        return push(owner_.make(Kind::kNone));
      case kNewTrue:
      case kNewFalse:
        return push_number(Kind::kBool, op == kNewTrue);
      case kBinInt:
        return push_number(Kind::kInt, reader_.number<std::int32_t>("an integer"));
      case kBinInt1:
        return push_number(Kind::kInt, reader_.number<std::uint8_t>("an integer"));
      case kBinInt2:
        return push_number(Kind::kInt, reader_.number<std::uint16_t>("an integer"));
      case kLong1:
        return push_long();
      case kBinFloat:
        return push_float();
      case kShortBinUnicode:
      case kShortBinString:
      case kShortBinBytes:
        return push_text(reader_.number<std::uint8_t>("a string's length"));
      case kBinUnicode:
      case kBinString:
      case kBinBytes:
        return push_text(reader_.number<std::uint32_t>("a string's length"));
      case kBinUnicode8:
        return push_text(reader_.number<std::uint64_t>("a string's length"));
      case kEmptyList:
        return push(owner_.make(Kind::kList));
      case kEmptyTuple:
        return push(owner_.make(Kind::kTuple));
      case kEmptyDict:
        return push(owner_.make(Kind::kDict));
      case kTuple:
        return push_tuple(pop_to_mark());
      case kTuple1:
      case kTuple2:
      case kTuple3:
        return push_tuple(pop_items(op - kTuple1 + 1));
      case kAppend:
        return append(pop_items(1));
      case kAppends:
        return append(pop_to_mark());
      case kSetItem:
        return set_items(pop_items(2));
      case kSetItems:
        return set_items(pop_to_mark());
      case kBinGet:
        return get(reader_.number<std::uint8_t>("a memo index"));
      case kLongBinGet:
        return get(reader_.number<std::uint32_t>("a memo index"));
      case kBinPut:
        return put(reader_.number<std::uint8_t>("a memo index"));
      case kLongBinPut:
        return put(reader_.number<std::uint32_t>("a memo index"));
      case kMemoize:
        return put(static_cast<std::uint32_t>(memo_.size()));
      case kGlobalOp: {
        const std::string module = read_line();
        return push_global(module, read_line());
      }
      case kStackGlobal: {
        const std::string name = pop_string();
        return push_global(pop_string(), name);
      }
      case kReduce:
      case kNewObj:
        return reduce();
      case kBuild:
        return build();
      case kBinPersId:
        return push_storage();
      default:
        fail(ErrorCode::kUnsupported,
             "{}: pickle, byte {}: opcode 0x{:02x} is not one of a state "
             "dict",
             reader_.place(), at_, op);
    }
  }

  void push(PickleValue* value) { stack_.push_back(value); }

  PickleValue* pop_any() {
    if (stack_.empty()) reject("the stack is empty");
    PickleValue* value = stack_.back();
    stack_.pop_back();
    return value;
  }

  PickleValue* pop() {
    PickleValue* value = pop_any();
    if (value->kind == Kind::kMark) reject("expected a value, got a mark");
    return value;
  }

  PickleValue* top() const {
    if (stack_.empty() || stack_.back()->kind == Kind::kMark) reject("expected a value");
    return stack_.back();
  }

  std::vector<PickleValue*> pop_items(int count) {
    std::vector<PickleValue*> items;
    for (int i = 0; i < count; ++i) items.push_back(pop());
    std::ranges::reverse(items);
    return items;
  }

  std::vector<PickleValue*> pop_to_mark() {
    auto mark = stack_.end();
    while (mark != stack_.begin() && (*(mark - 1))->kind != Kind::kMark) --mark;
    if (mark == stack_.begin()) reject("there is no mark");
    std::vector<PickleValue*> items(mark, stack_.end());
    stack_.erase(mark - 1, stack_.end());
    return items;
  }

  std::string pop_string() {
    const PickleValue* value = pop();
    if (value->kind != Kind::kString) reject("expected a string");
    return value->text;
  }

  void push_number(Kind kind, std::int64_t number) {
    PickleValue* value = owner_.make(kind);
    value->number = number;
    push(value);
  }

  // Little-endian two's complement of any length. Numbers longer than 8 bytes occur as magic
  // numbers; their value is never needed.
  void push_long() {
    const auto bytes = reader_.take(reader_.number<std::uint8_t>("an integer"), "an integer");
    std::uint64_t number = 0;
    for (std::size_t i = std::min<std::size_t>(bytes.size(), 8); i-- > 0;)
      number = number << 8 | static_cast<std::uint64_t>(bytes[i]);
    if (!bytes.empty() && bytes.size() < 8 && (bytes.back() & std::byte{0x80}) != std::byte{0})
      number |= ~std::uint64_t{0} << (8 * bytes.size());
    if (bytes.size() > 8) number = 0;
    push_number(Kind::kInt, static_cast<std::int64_t>(number));
  }

  // Big-endian, unlike all other numbers.
  void push_float() {
    std::uint64_t bits = 0;
    for (const std::byte byte : reader_.take(8, "a float"))
      bits = bits << 8 | static_cast<std::uint64_t>(byte);
    PickleValue* value = owner_.make(Kind::kFloat);
    value->real = std::bit_cast<double>(bits);
    push(value);
  }

  void push_text(std::uint64_t length) {
    PickleValue* value = owner_.make(Kind::kString);
    value->text = reader_.text(length, "a string");
    push(value);
  }

  void push_tuple(std::vector<PickleValue*> items) {
    PickleValue* value = owner_.make(Kind::kTuple);
    value->items = std::move(items);
    push(value);
  }

  void append(std::vector<PickleValue*> items) {
    PickleValue* list = top();
    if (list->kind != Kind::kList) reject("expected a list to append to");
    list->items.insert(list->items.end(), items.begin(), items.end());
  }

  void set_items(const std::vector<PickleValue*>& items) {
    PickleValue* dict = top();
    if (dict->kind != Kind::kDict || items.size() % 2 != 0) reject("expected a dict and pairs");
    for (std::size_t i = 0; i < items.size(); i += 2)
      dict->pairs.emplace_back(items[i], items[i + 1]);
  }

  void get(std::uint32_t index) {
    const auto found = memo_.find(index);
    if (found == memo_.end()) reject(fmt::format("the memo has no {}", index));
    push(found->second);
  }

  void put(std::uint32_t index) { memo_[index] = top(); }

  std::string read_line() {
    std::string line;
    while (true) {
      const char c = static_cast<char>(reader_.number<std::uint8_t>("a name"));
      if (c == '\n') return line;
      if (line.size() == kLongestName) reject("expected a shorter name");
      line += c;
    }
  }

  void push_global(const std::string& module, const std::string& name) {
    PickleValue* value = owner_.make(Kind::kGlobal);
    value->text = module + "." + name;
    if (!is_known(value->text))
      fail(ErrorCode::kUnsupported,
           "{}: pickle, byte {}: names \"{}\", which is not part of a state dict: save "
           "model.state_dict() alone, or convert to safetensors",
           reader_.place(), at_, printable(value->text));
    push(value);
  }

  void reduce() {
    const PickleValue* arguments = pop();
    const PickleValue* function = pop();
    if (function->kind != Kind::kGlobal || arguments->kind != Kind::kTuple)
      reject("expected a function and its arguments");
    const auto& items = arguments->items;
    const std::string& name = function->text;
    if (name == "collections.OrderedDict" && items.empty()) return push(owner_.make(Kind::kDict));
    if (name == "torch.Size" && items.size() == 1) return push(items[0]);
    if (name.starts_with("torch._utils._rebuild_parameter") && !items.empty() &&
        items[0]->kind == Kind::kTensor)
      return push(items[0]);
    if (name.starts_with("torch._utils._rebuild_tensor") && items.size() >= 4)
      return push_tensor(name.ends_with("_v3"), items);
    reject(fmt::format("{} can't be called with these {} arguments", name, items.size()));
  }

  Shape sizes(const PickleValue* value) const {
    if (value->kind != Kind::kTuple && value->kind != Kind::kList)
      reject("expected a tuple of sizes");
    // PyTorch's limit.
    constexpr std::size_t kMostDimensions = 64;
    if (value->items.size() > kMostDimensions) reject("expected at most 64 dimensions");
    Shape result;
    for (const PickleValue* item : value->items) {
      if (item->kind != Kind::kInt || item->number < 0)
        reject("expected sizes and strides from 0 up");
      result.push_back(item->number);
    }
    return result;
  }

  // (storage, offset, size, stride, …); the third version names the element type in seventh place.
  void push_tensor(bool names_type, const std::vector<PickleValue*>& items) {
    if (items[0]->kind != Kind::kStorage || items[1]->kind != Kind::kInt || items[1]->number < 0)
      reject("expected a storage and an offset");
    PickleValue* value = owner_.make(Kind::kTensor);
    value->tensor = items[0]->tensor;
    value->tensor.offset = items[1]->number;
    value->tensor.shape = sizes(items[2]);
    value->tensor.strides = sizes(items[3]);
    if (value->tensor.shape.size() != value->tensor.strides.size())
      reject("expected as many strides as sizes");
    if (names_type) {
      if (items.size() < 7) reject("expected an element type");
      const auto dtype = find_dtype(kDTypes, items[6]->text);
      if (!dtype && find_unread(items[6]->text) == nullptr) reject("expected an element type");
      value->tensor.dtype = dtype.value_or(DType::kU8);
      value->tensor.unread_type = dtype ? "" : items[6]->text;
    }
    push(value);
  }

  // State dicts carry module versions as an attribute, which is irrelevant for the tensors.
  void build() {
    pop();
    if (top()->kind != Kind::kDict) reject("only a dict may have a state");
  }

  // ("storage", type, key, location, elements)
  void push_storage() {
    const PickleValue* id = pop();
    const auto& items = id->items;
    const bool known = id->kind == Kind::kTuple && items.size() >= 5 &&
                       items[0]->kind == Kind::kString && items[0]->text == "storage" &&
                       items[1]->kind == Kind::kGlobal && items[2]->kind == Kind::kString &&
                       items[2]->text.size() <= kLongestName && items[4]->kind == Kind::kInt &&
                       items[4]->number >= 0;
    if (!known) reject("expected the id of a storage");
    const auto dtype = find_dtype(kStorageTypes, items[1]->text);
    const UnreadType* unread = find_unread(items[1]->text);
    if (!dtype && unread == nullptr) reject("expected the id of a storage");
    if (items.size() > 5 && items[5]->kind != Kind::kNone) reject("a storage is part of another");
    const auto bytes = dtype ? checked_bytes(*dtype, {items[4]->number})
                             : checked_bytes(DType::kU8, {items[4]->number, unread->bytes});
    if (!bytes) reject("a storage is too large");
    PickleValue* value = owner_.make(Kind::kStorage);
    value->tensor.storage = items[2]->text;
    value->tensor.dtype = dtype.value_or(DType::kU8);
    if (!dtype) value->tensor.unread_type = unread->name;
    value->tensor.storage_bytes = *bytes;
    const auto [slot, inserted] =
        owner_.storage_index_.emplace(items[2]->text, owner_.storages_.size());
    if (inserted) {
      owner_.storages_.emplace_back(items[2]->text, *bytes);
    } else if (owner_.storages_[slot->second].second != *bytes) {
      reject("a storage is named with two sizes");
    }
    push(value);
  }

  Unpickler& owner_;
  ByteReader& reader_;
  // Of the current opcode.
  std::uint64_t at_ = 0;
  std::vector<PickleValue*> stack_;
  std::unordered_map<std::uint32_t, PickleValue*> memo_;
};

PickleValue* Unpickler::read(ByteReader& reader) { return Machine(*this, reader).run(); }

}  // namespace tandem
