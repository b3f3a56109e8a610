// Looks for NaN and infinity in everything that a model is made of.
#include "quantize/finite_weights.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/printable.h"

namespace tandem {
namespace {

// Elements that a thread looks at together: their floats stay in its cache.
constexpr std::int64_t kPiece = 1 << 14;

// The first element that is not finite; elements() if all are.
std::int64_t find_non_finite(const Tensor& tensor, ThreadPool& pool) {
  const std::int64_t elements = tensor.elements();
  std::atomic<std::int64_t> first = elements;
  pool.parallel_for((elements + kPiece - 1) / kPiece, 1, [&](Range pieces) {
    std::vector<float> values;
    for (std::int64_t piece = pieces.begin; piece < pieces.end; ++piece) {
      const std::int64_t begin = piece * kPiece;
      values.resize(static_cast<std::size_t>(std::min(kPiece, elements - begin)));
      tensor.copy_floats(begin, values);
      const auto bad = std::ranges::find_if(values, [](float v) { return !std::isfinite(v); });
      if (bad == values.end()) continue;
      const std::int64_t at = begin + (bad - values.begin());
      std::int64_t known = first.load();
      while (at < known && !first.compare_exchange_weak(known, at)) {
      }
      return;
    }
  });
  return first;
}

// Row-major, as the tensor is.
Shape index_of(std::int64_t element, const Shape& shape) {
  Shape index(shape.size());
  for (std::size_t d = shape.size(); d-- > 0;) {
    index[d] = element % shape[d];
    element /= shape[d];
  }
  return index;
}

}  // namespace

void require_finite(const Checkpoint& checkpoint, const std::set<std::string>& names,
                    ThreadPool& pool, const Observer& observer) {
  const std::map<std::string, Shape> contents = checkpoint.contents();
  // A stored tensor is one of `names` itself, or the part of a packed one.
  const auto is_needed = [&](const std::string& stored) {
    if (names.contains(stored)) return true;
    return !contents.contains(stored) &&
           names.contains(stored.substr(0, stored.rfind('.')) + ".weight");
  };
  std::vector<std::string> needed;
  for (const auto& [stored, tensor] : checkpoint.tensors())
    if (is_float(tensor.dtype) && is_needed(stored)) needed.push_back(stored);
  for (const std::string& name : needed) {
    if (observer.cancelled())
      fail(ErrorCode::kCancelled, "[quantize] interrupted before {}", printable(name));
    const Tensor tensor = checkpoint.load(name);
    const std::int64_t element = find_non_finite(tensor, pool);
    if (element < tensor.elements()) {
      float value = 0;
      tensor.copy_floats(element, {&value, 1});
      fail(ErrorCode::kFormat, "[quantize] {}: {}: element {}: expected a finite number, got {}",
           checkpoint.file_of(name).string(), printable(name),
           to_string(index_of(element, tensor.shape())), value);
    }
    tensor.release();
  }
}

}  // namespace tandem
