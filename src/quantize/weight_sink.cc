// Weights in an unnamed file, and releasing mapped weights.
#include "quantize/weight_sink.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <system_error>
#include <variant>
#include <vector>

#include "base/error.h"

namespace tandem {
namespace {

[[noreturn]] void fail_system(const fs::path& folder, const char* action) {
  fail(ErrorCode::kIo, "[quantize] {}: cannot {} a temporary file: {}", folder.string(), action,
       std::generic_category().message(errno));
}

}  // namespace

Tensor MemorySink::keep_values(const RowSource& rows) {
  std::vector<float> values(static_cast<std::size_t>(rows.rows() * rows.columns()));
  rows.read(0, values);
  return Tensor::from_floats(values, {rows.rows(), rows.columns()});
}

FileSink::FileSink(const fs::path& folder) : folder_(folder) {
  std::string name = (folder / ".weights-XXXXXX").string();
  file_ = ::mkostemp(name.data(), O_CLOEXEC);
  if (file_ < 0) fail_system(folder_, "create");
  ::unlink(name.c_str());
}

FileSink::~FileSink() { ::close(file_); }

void FileSink::append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t wrote = ::pwrite(file_, bytes.data(), bytes.size(), static_cast<off_t>(end_));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) fail_system(folder_, "write");
    bytes = bytes.subspan(static_cast<std::size_t>(wrote));
    end_ += wrote;
  }
}

Tensor FileSink::map(std::int64_t begin, DType dtype, const Shape& shape) {
  const auto part = MappedFile::open_part(file_, begin, static_cast<std::size_t>(end_ - begin),
                                          "temporary weights");
  // Mappings must start at a page boundary.
  const std::int64_t page = ::sysconf(_SC_PAGESIZE);
  end_ = (end_ + page - 1) / page * page;
  return Tensor(dtype, shape, part->bytes(), part);
}

Tensor FileSink::move(const Tensor& tensor) {
  if (tensor.empty() || tensor.elements() == 0) return tensor;
  const std::int64_t begin = end_;
  append(tensor.bytes());
  return map(begin, tensor.dtype(), tensor.shape());
}

Tensor FileSink::keep_values(const RowSource& rows) {
  const std::int64_t begin = end_;
  visit_rows(rows, 0, rows.rows(),
             [&](std::int64_t, std::span<const float> values) { append(std::as_bytes(values)); });
  return map(begin, DType::kF32, {rows.rows(), rows.columns()});
}

Weight FileSink::keep(Weight weight) {
  if (auto* groups = std::get_if<GroupCodes>(&weight)) {
    groups->codes = move(groups->codes);
    groups->scales = move(groups->scales);
    groups->zero_points = move(groups->zero_points);
  } else if (auto* channels = std::get_if<ChannelCodes>(&weight)) {
    channels->codes = move(channels->codes);
    channels->scales = move(channels->scales);
    channels->block_scales = move(channels->block_scales);
  }
  return weight;
}

void release_weight(const Weight& weight) {
  // Computed values have been read from something as well.
  if (const auto* real = std::get_if<FloatWeight>(&weight)) real->rows->release();
  for (const Tensor& part : parts_of(weight)) part.release();
}

void release_weights(const Graph& graph) {
  for (const Node& node : graph.nodes())
    if (node.op == Op::kLinear) release_weight(node.as<LinearAttributes>().weight);
}

}  // namespace tandem
