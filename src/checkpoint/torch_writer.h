// Writes tensors as torch.save does, for PyTorch and the tools of other projects.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/files.h"
#include "tensor/row_source.h"
#include "tensor/tensor.h"

namespace tandem {

// Writes a dict of tensors piece by piece, so that at most one needs to be in memory.
class TorchWriter {
 public:
  struct Entry {
    std::string name;
    DType dtype = DType::kF32;
    // Of a scalar empty.
    Shape shape;
    // Consecutive entries of one name that are in a list are its elements.
    bool in_list = false;
  };
  // Throws kUnsupported for a type that PyTorch has no storage for.
  TorchWriter(const fs::path& path, std::vector<Entry> entries);
  ~TorchWriter();
  TorchWriter(const TorchWriter&) = delete;
  TorchWriter& operator=(const TorchWriter&) = delete;

  // The next entry, whole. Throws kInvalidArgument unless it has that many bytes.
  void write(std::span<const std::byte> bytes);
  // The same of a matrix F32, a few megabytes at a time.
  void write_rows(const RowSource& rows);
  // Throws kInvalidArgument if an entry is missing. Flushes to disk.
  void finish();

 private:
  struct State;
  void begin_next();
  std::unique_ptr<State> state_;
};

}  // namespace tandem
