// Weights in an unnamed file, and releasing mapped weights.
#include "quantize/weight_sink.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <system_error>
#include <variant>

#include "base/error.h"

namespace tandem {
namespace {

[[noreturn]] void fail_system(const fs::path& folder, const char* action) {
  fail(ErrorCode::kIo, "[quantize] {}: cannot {} a temporary file: {}", folder.string(), action,
       std::generic_category().message(errno));
}

}  // namespace

FileSink::FileSink(const fs::path& folder) : folder_(folder) {
  std::string name = (folder / ".weights-XXXXXX").string();
  file_ = ::mkostemp(name.data(), O_CLOEXEC);
  if (file_ < 0) fail_system(folder_, "create");
  ::unlink(name.c_str());
}

FileSink::~FileSink() { ::close(file_); }

Tensor FileSink::move(const Tensor& tensor) {
  if (tensor.empty() || tensor.elements() == 0) return tensor;
  const auto bytes = tensor.bytes();
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t wrote = ::pwrite(file_, bytes.data() + done, bytes.size() - done,
                                   static_cast<off_t>(end_) + static_cast<off_t>(done));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) fail_system(folder_, "write");
    done += static_cast<std::size_t>(wrote);
  }
  const auto part = MappedFile::open_part(file_, end_, bytes.size(), "temporary weights");
  // Mappings must start at a page boundary.
  const std::int64_t page = ::sysconf(_SC_PAGESIZE);
  end_ = (end_ + static_cast<std::int64_t>(bytes.size()) + page - 1) / page * page;
  return Tensor(tensor.dtype(), tensor.shape(), part->bytes(), part);
}

Weight FileSink::keep(Weight weight) {
  if (auto* groups = std::get_if<GroupCodes>(&weight)) {
    groups->codes = move(groups->codes);
    groups->scales = move(groups->scales);
    groups->zero_points = move(groups->zero_points);
  } else if (auto* channels = std::get_if<ChannelCodes>(&weight)) {
    channels->codes = move(channels->codes);
    channels->scales = move(channels->scales);
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
