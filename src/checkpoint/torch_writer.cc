// The pickle of a dict whose tensors lie each in a storage of its own, in protocol 2 as torch.save
// writes it.
#include "checkpoint/torch_writer.h"

#include <algorithm>
#include <array>
#include <limits>

#include "base/error.h"
#include "base/printable.h"
#include "checkpoint/byte_writer.h"
#include "checkpoint/zip_writer.h"

namespace tandem {
namespace {

constexpr std::string_view kRoot = "archive/";

std::string_view storage_class(const TorchWriter::Entry& entry, const fs::path& path) {
  constexpr std::array kClasses = {std::pair{DType::kF32, std::string_view("FloatStorage")},
                                   std::pair{DType::kF64, std::string_view("DoubleStorage")},
                                   std::pair{DType::kF16, std::string_view("HalfStorage")},
                                   std::pair{DType::kBF16, std::string_view("BFloat16Storage")},
                                   std::pair{DType::kI64, std::string_view("LongStorage")},
                                   std::pair{DType::kI32, std::string_view("IntStorage")},
                                   std::pair{DType::kI16, std::string_view("ShortStorage")},
                                   std::pair{DType::kI8, std::string_view("CharStorage")},
                                   std::pair{DType::kU8, std::string_view("ByteStorage")},
                                   std::pair{DType::kBool, std::string_view("BoolStorage")}};
  for (const auto& [dtype, name] : kClasses)
    if (dtype == entry.dtype) return name;
  fail(ErrorCode::kUnsupported, "[torch] {}: {}: PyTorch has no storage of {}", path.string(),
       printable(entry.name), to_string(entry.dtype));
}

// Opcodes and operands of the pickle machine.
class Pickler {
 public:
  Pickler() { code("\x80\x02"); }

  void code(std::string_view opcodes) { out_.text(opcodes); }
  void global(std::string_view module, std::string_view name) {
    code("c");
    code(module);
    code("\n");
    code(name);
    code("\n");
  }
  void text(std::string_view value) {
    code("X");
    out_.number(static_cast<std::uint32_t>(value.size()));
    code(value);
  }
  void integer(std::int64_t value) {
    if (value >= 0 && value <= std::numeric_limits<std::int32_t>::max()) {
      code("J");
      out_.number(static_cast<std::int32_t>(value));
    } else {
      code("\x8a\x08");
      out_.number(value);
    }
  }
  void tuple(std::span<const std::int64_t> values) {
    code("(");
    for (const std::int64_t value : values) integer(value);
    code("t");
  }
  std::span<const std::byte> bytes() const { return out_.bytes(); }

 private:
  ByteWriter out_;
};

// torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict()), where the
// storage is found by its key.
void put_tensor(Pickler& out, const TorchWriter::Entry& entry, std::size_t key,
                const fs::path& path) {
  Shape strides(entry.shape.size(), 1);
  for (std::size_t i = strides.size(); i-- > 1;) strides[i - 1] = strides[i] * entry.shape[i];
  out.global("torch._utils", "_rebuild_tensor_v2");
  out.code("((");
  out.text("storage");
  out.global("torch", storage_class(entry, path));
  out.text(std::to_string(key));
  out.text("cpu");
  out.integer(element_count(entry.shape));
  out.code("tQ");
  out.integer(0);
  out.tuple(entry.shape);
  out.tuple(strides);
  out.code("\x89");
  out.global("collections", "OrderedDict");
  out.code(")RtR");
}

std::vector<std::byte> pickle(const std::vector<TorchWriter::Entry>& entries,
                              const fs::path& path) {
  Pickler out;
  out.code("}(");
  for (std::size_t i = 0; i < entries.size();) {
    const TorchWriter::Entry& entry = entries[i];
    out.text(entry.name);
    if (!entry.in_list) {
      put_tensor(out, entry, i++, path);
      continue;
    }
    out.code("](");
    while (i < entries.size() && entries[i].in_list && entries[i].name == entry.name) {
      put_tensor(out, entries[i], i, path);
      ++i;
    }
    out.code("e");
  }
  out.code("u.");
  return {out.bytes().begin(), out.bytes().end()};
}

void put_file(ZipWriter& zip, std::string_view name, std::span<const std::byte> bytes) {
  zip.begin(std::string(kRoot).append(name), bytes.size());
  zip.append(bytes);
}

void put_text(ZipWriter& zip, std::string_view name, std::string_view text) {
  put_file(zip, name, std::as_bytes(std::span(text)));
}

}  // namespace

struct TorchWriter::State {
  State(const fs::path& file, std::vector<Entry> all)
      : zip(file), path(file), entries(std::move(all)) {}

  ZipWriter zip;
  fs::path path;
  std::vector<Entry> entries;
  std::size_t written = 0;
};

TorchWriter::TorchWriter(const fs::path& path, std::vector<Entry> entries) {
  const std::vector<std::byte> dict = pickle(entries, path);
  state_ = std::make_unique<State>(path, std::move(entries));
  put_file(state_->zip, "data.pkl", dict);
  put_text(state_->zip, "byteorder", "little");
}

TorchWriter::~TorchWriter() = default;

void TorchWriter::begin_next() {
  if (state_->written == state_->entries.size())
    fail(ErrorCode::kInvalidArgument, "[torch] {}: all {} tensors are written",
         state_->path.string(), state_->entries.size());
  const Entry& entry = state_->entries[state_->written];
  state_->zip.begin(fmt::format("{}data/{}", kRoot, state_->written),
                    static_cast<std::uint64_t>(*checked_bytes(entry.dtype, entry.shape)));
  ++state_->written;
}

void TorchWriter::write(std::span<const std::byte> bytes) {
  begin_next();
  state_->zip.append(bytes);
}

void TorchWriter::write_rows(const RowSource& rows) {
  begin_next();
  visit_rows(rows, 0, rows.rows(), [&](std::int64_t, std::span<const float> values) {
    state_->zip.append(std::as_bytes(values));
  });
  rows.release();
}

void TorchWriter::finish() {
  if (state_->written != state_->entries.size())
    fail(ErrorCode::kInvalidArgument, "[torch] {}: {} of {} tensors were written",
         state_->path.string(), state_->written, state_->entries.size());
  put_text(state_->zip, "version", "3\n");
  state_->zip.finish();
}

}  // namespace tandem
