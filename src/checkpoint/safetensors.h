// The safetensors format: an 8-byte little-endian header length, a JSON header, then the tensors'
// bytes.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/files.h"
#include "tensor/tensor.h"

namespace tandem {

// Tensors of one file, mapped, not copied. Everything in the header is checked before anything is
// used: length, JSON, nesting, dtypes, shapes, offsets in range, sizes that match, no overlap, no
// holes, no duplicate names. Throws kFormat naming the file, the tensor and what was expected.
struct SafetensorsFile {
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;

  static SafetensorsFile open(const fs::path& path);
};

// Writes a file piece by piece, so that no more than one tensor need be in memory: the constructor
// lays out the header from names, dtypes and shapes; write() fills tensors in that order; finish()
// checks that all were given.
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

  void write(const std::string& name,
             std::span<const std::byte> bytes);  // in the order of the entries
  void finish();                                 // flushes to disk

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// All tensors at once, sorted by name.
void write_safetensors(const fs::path& path, const std::map<std::string, Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace tandem
