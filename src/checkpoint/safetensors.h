// The safetensors format: an 8-byte little-endian header length, a JSON header, then the tensor
// data.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/files.h"
#include "checkpoint/tensor_store.h"
#include "tensor/row_source.h"
#include "tensor/tensor.h"

namespace tandem {

// The tensors of one file, mapped, not copied. The whole header is validated before any of it is
// used: length, JSON, nesting, dtypes, shapes, offsets in range, matching sizes, no overlaps, no
// gaps, no duplicate names. Throws kFormat naming the file, the tensor and what was expected.
struct SafetensorsFile {
  std::map<std::string, Tensor> tensors;
  // Those of a type that is not read here: no reason to refuse a file before one of them is needed.
  std::map<std::string, StoredTensor> unread;
  std::map<std::string, std::string> metadata;

  static SafetensorsFile open(const fs::path& path);
  // The same for a file that is already mapped, for example to hash it.
  static SafetensorsFile open(const std::shared_ptr<const MappedFile>& file);
};

// Writes a file piece by piece, so that at most one tensor needs to be in memory: the constructor
// lays out the header from names, dtypes and shapes; write() fills in the tensors in that order;
// finish() checks that all were written.
class SafetensorsWriter {
 public:
  struct Entry {
    std::string name;
    DType dtype;
    Shape shape;
  };
  SafetensorsWriter(const fs::path& path, std::vector<Entry> entries,
                    std::map<std::string, std::string> metadata = {});
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // Writes a whole tensor; tensors come in the order of the entries.
  void write(const std::string& name, std::span<const std::byte> bytes);
  // Writes the next bytes of a tensor, in the same order; the tensor is complete once all its bytes
  // are written.
  void write_piece(const std::string& name, std::span<const std::byte> bytes);
  // The same for a matrix in its type, a few megabytes at a time where it is computed.
  void write_rows(const std::string& name, const RowSource& rows);
  // Flushes to disk.
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Writes all tensors at once, sorted by name.
void write_safetensors(const fs::path& path, const std::map<std::string, Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace tandem
