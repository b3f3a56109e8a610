// From the pickle and storages of torch.save to tensors.
#include "checkpoint/torch_file.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.h"
#include "base/files.h"
#include "base/printable.h"
#include "checkpoint/byte_reader.h"
#include "checkpoint/pickle.h"
#include "checkpoint/zip_file.h"

namespace tandem {
namespace {

using Kind = PickleValue::Kind;
using Storages = std::map<std::string, std::span<const std::byte>>;

// The first value of a pre-zip file: PROTO 2, LONG1 of ten bytes.
constexpr std::array<std::uint8_t, 14> kLegacyMagic = {0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c,
                                                       0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};

bool has_tensors(const PickleValue& dict) {
  return std::ranges::any_of(dict.pairs,
                             [](const auto& pair) { return pair.second->kind == Kind::kTensor; });
}

// The state dict: the value itself, or what a training script wrapped around it.
const PickleValue& find_state_dict(const PickleValue& root, const std::string& place) {
  constexpr int kDeepest = 4;
  const PickleValue* dict = &root;
  for (int depth = 0; depth < kDeepest && dict->kind == Kind::kDict; ++depth) {
    if (has_tensors(*dict)) return *dict;
    const PickleValue* inner = nullptr;
    for (const char* key : {"state_dict", "model", "model_state_dict", "module"}) {
      inner = dict->find(key);
      if (inner != nullptr) break;
    }
    if (inner == nullptr) break;
    dict = inner;
  }
  fail(ErrorCode::kFormat,
       "{}: expected a dict of tensors, or one under \"state_dict\" or \"model\"", place);
}

// A view that was validated against its storage.
struct View {
  DType dtype = DType::kF32;
  Shape shape;
  // In elements.
  Shape strides;
  // From the first element on.
  std::span<const std::byte> bytes;
};

bool is_contiguous(const View& view) {
  std::int64_t expected = 1;
  for (std::size_t i = view.shape.size(); i-- > 0;) {
    if (view.shape[i] != 1 && view.strides[i] != expected) return false;
    expected *= view.shape[i];
  }
  return true;
}

View check_view(const PickleTensor& tensor, std::span<const std::byte> storage,
                const std::string& place, const std::string& name) {
  const auto width = static_cast<std::int64_t>(size_of(tensor.dtype));
  const auto elements = static_cast<std::int64_t>(storage.size()) / width;
  const auto bytes = checked_bytes(tensor.dtype, tensor.shape);
  const auto reject = [&](std::string_view reason) {
    fail(ErrorCode::kFormat, "{}: {}: {} with strides {} from element {} on {} its storage of {}",
         place, printable(name), to_string(tensor.shape), to_string(tensor.strides), tensor.offset,
         reason, elements);
  };
  // Also limits a copy to the size of what is in the file, whatever strides of 0 may claim.
  if (!bytes || *bytes / width > elements) reject("is larger than");
  View view{tensor.dtype, tensor.shape, tensor.strides, {}};
  if (*bytes == 0) return view;
  if (tensor.offset >= elements) reject("begins beyond");
  // How far the last element may be from the first.
  std::int64_t left = elements - 1 - tensor.offset;
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
    const std::int64_t steps = tensor.shape[i] - 1;
    if (steps > 0 && tensor.strides[i] > left / steps) reject("leaves");
    left -= steps * tensor.strides[i];
    if (steps == 0) view.strides[i] = 0;  // never taken, so not checked
  }
  view.bytes = storage.subspan(static_cast<std::size_t>(tensor.offset * width));
  return view;
}

class TorchStore : public TensorStore {
 public:
  TorchStore(const PickleValue& root, const Storages& storages, const std::string& place,
             std::shared_ptr<const MappedFile> file)
      : file_(std::move(file)) {
    const PickleValue& dict = find_state_dict(root, place);
    for (const auto& [key, value] : dict.pairs) {
      if (key->kind != Kind::kString || key->text.starts_with('_')) continue;
      add(key->text, *value, storages, place);
      if (value->kind != Kind::kList && value->kind != Kind::kTuple) continue;
      for (std::size_t i = 0; i < value->items.size(); ++i)
        add(fmt::format("{}.{}", key->text, i), *value->items[i], storages, place);
    }
  }

  Tensor load(const std::string& name) const override {
    const View& view = views_.at(name);
    const auto size = static_cast<std::size_t>(*checked_bytes(view.dtype, view.shape));
    const bool aligned =
        reinterpret_cast<std::uintptr_t>(view.bytes.data()) % size_of(view.dtype) == 0;
    if (is_contiguous(view) && aligned && size > 0)
      return load_elements(Tensor(view.dtype, view.shape, view.bytes.first(size), file_));
    std::byte* out = nullptr;
    Tensor copy = Tensor::allocate(view.dtype, view.shape, &out);
    if (size > 0) gather(view, out);
    return load_elements(copy);
  }

 private:
  // Anything but a tensor is left out.
  void add(const std::string& name, const PickleValue& value, const Storages& storages,
           const std::string& place) {
    if (value.kind != Kind::kTensor) return;
    const PickleTensor& tensor = value.tensor;
    const auto storage = storages.find(tensor.storage);
    if (storage == storages.end())
      fail(ErrorCode::kFormat, "{}: {}: its storage \"{}\" is missing", place, printable(name),
           printable(tensor.storage));
    if (static_cast<std::uint64_t>(tensor.storage_bytes) > storage->second.size())
      fail(ErrorCode::kFormat, "{}: {}: its storage \"{}\" has {} bytes, expected {}", place,
           printable(name), printable(tensor.storage), storage->second.size(),
           tensor.storage_bytes);
    if (!tensor.unread_type.empty()) {
      unread_[name] = {
          .type = tensor.unread_type, .shape = tensor.shape, .bytes = tensor.storage_bytes};
      return;
    }
    View view = check_view(
        tensor, storage->second.first(static_cast<std::size_t>(tensor.storage_bytes)), place, name);
    tensors_[name] = describe_plain(view.dtype, view.shape, *checked_bytes(view.dtype, view.shape));
    views_[name] = std::move(view);
  }

  static void gather(const View& view, std::byte* out) {
    const std::size_t width = size_of(view.dtype);
    std::vector<std::int64_t> index(view.shape.size(), 0);
    const std::int64_t count = element_count(view.shape);
    // In elements.
    std::int64_t at = 0;
    for (std::int64_t i = 0; i < count; ++i, out += width) {
      std::memcpy(out, view.bytes.data() + static_cast<std::size_t>(at) * width, width);
      for (std::size_t d = index.size(); d-- > 0;) {
        at += view.strides[d];
        if (++index[d] < view.shape[d]) break;
        at -= view.strides[d] * view.shape[d];
        index[d] = 0;
      }
    }
  }

  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, View> views_;
};

std::shared_ptr<const TensorStore> open_zip(std::shared_ptr<const MappedFile> file) {
  const std::string place = "[torch] " + file->path().string();
  const auto entries = read_zip(*file);
  // Everything is in one folder, named after the file.
  const auto pickle = std::ranges::find_if(
      entries, [](const auto& entry) { return entry.first.ends_with("/data.pkl"); });
  if (pickle == entries.end())
    fail(ErrorCode::kFormat, "{}: expected a file of torch.save, which holds data.pkl", place);
  const std::string folder = pickle->first.substr(0, pickle->first.size() - 8);
  if (const auto order = entries.find(folder + "byteorder"); order != entries.end()) {
    constexpr std::string_view kLittle = "little";
    if (!std::ranges::equal(order->second, std::as_bytes(std::span(kLittle))))
      fail(ErrorCode::kUnsupported, "{}: byteorder: expected \"little\"", place);
  }
  Storages storages;
  const std::string data = folder + "data/";
  for (auto entry = entries.lower_bound(data);
       entry != entries.end() && entry->first.starts_with(data); ++entry)
    storages.emplace(entry->first.substr(data.size()), entry->second);
  Unpickler unpickler;
  ByteReader reader(pickle->second, place);
  const PickleValue* root = unpickler.read(reader);
  return std::make_shared<TorchStore>(*root, storages, place, std::move(file));
}

// Before PyTorch 1.6: a magic number, a version, the writer's type sizes, the object and the
// storages' keys, each a pickle; then each storage as an element count and its bytes.
std::shared_ptr<const TensorStore> open_legacy(std::shared_ptr<const MappedFile> file) {
  const std::string place = "[torch] " + file->path().string();
  ByteReader reader(file->bytes(), place);
  Unpickler unpickler;
  unpickler.read(reader);
  unpickler.read(reader);
  const PickleValue* system = unpickler.read(reader);
  if (const PickleValue* little = system->find("little_endian"); little && little->number == 0)
    fail(ErrorCode::kUnsupported, "{}: is big-endian; expected little-endian", place);
  const PickleValue* root = unpickler.read(reader);
  const PickleValue* keys = unpickler.read(reader);
  if (keys->kind != Kind::kList)
    fail(ErrorCode::kFormat, "{}: expected a list of storages after the object", place);
  std::map<std::string_view, std::int64_t> sizes;
  for (const auto& [key, bytes] : unpickler.storages()) sizes.emplace(key, bytes);
  Storages storages;
  for (const PickleValue* key : keys->items) {
    const auto size = sizes.find(key->text);
    if (key->kind != Kind::kString || size == sizes.end())
      fail(ErrorCode::kFormat, "{}: storage \"{}\" belongs to no tensor", place,
           printable(key->text));
    reader.take(8, "a storage's length");
    storages[key->text] = reader.take(static_cast<std::uint64_t>(size->second), "a storage");
  }
  return std::make_shared<TorchStore>(*root, storages, place, std::move(file));
}

bool is_legacy(std::span<const std::byte> bytes) noexcept {
  return bytes.size() >= kLegacyMagic.size() &&
         std::memcmp(bytes.data(), kLegacyMagic.data(), kLegacyMagic.size()) == 0;
}

}  // namespace

bool looks_like_torch_file(std::span<const std::byte> bytes) noexcept {
  return looks_like_zip(bytes) || is_legacy(bytes);
}

std::shared_ptr<const TensorStore> open_torch_file(const fs::path& path) {
  auto file = MappedFile::open(path);
  if (looks_like_zip(file->bytes())) return open_zip(std::move(file));
  if (is_legacy(file->bytes())) return open_legacy(std::move(file));
  fail(ErrorCode::kFormat,
       "[torch] {}: expected a file of torch.save: a zip archive, or the pickles of PyTorch "
       "before 1.6 (load and save it again for any older form)",
       path.string());
}

}  // namespace tandem
