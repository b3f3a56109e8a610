// Where passes put the weights they make, so that a whole model of them need not fit in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/files.h"
#include "graph/graph.h"

namespace tandem {

class WeightSink {
 public:
  virtual ~WeightSink() = default;
  // The same weight, wherever its tensors are now.
  virtual Weight keep(Weight weight) = 0;
  // The values of a matrix as a tensor F32.
  virtual Tensor keep_values(const RowSource& rows) = 0;
};

// Leaves weights in memory.
class MemorySink : public WeightSink {
 public:
  Weight keep(Weight weight) override { return weight; }
  Tensor keep_values(const RowSource& rows) override;
};

// Moves codes, scales and values to an unnamed file, from which they are mapped; the system frees its space
// when the last weight is gone. Not thread-safe.
class FileSink : public WeightSink {
 public:
  // The file is on the file system of `folder`. Throws kIo naming it.
  explicit FileSink(const fs::path& folder);
  ~FileSink() override;
  FileSink(const FileSink&) = delete;
  FileSink& operator=(const FileSink&) = delete;

  Weight keep(Weight weight) override;
  Tensor keep_values(const RowSource& rows) override;

 private:
  void append(std::span<const std::byte> bytes);
  // What was appended since `begin`.
  Tensor map(std::int64_t begin, DType dtype, const Shape& shape);
  Tensor move(const Tensor& tensor);

  fs::path folder_;
  int file_ = -1;
  std::int64_t end_ = 0;
};

// Releases the memory used by these weights if they are mapped; they are read again when next
// needed.
void release_weight(const Weight& weight);
// The same for all Linears of a graph.
void release_weights(const Graph& graph);

}  // namespace tandem
