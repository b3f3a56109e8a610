// Writes GGUF, version 3: metadata value by value, then tensor by tensor.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "checkpoint/byte_writer.h"
#include "checkpoint/gguf/ggml_blocks.h"

namespace tandem {

// Keys and values, in the order in which they are added.
class GgufMetadata {
 public:
  void add_uint32(std::string_view key, std::uint32_t value);
  void add_float(std::string_view key, float value);
  void add_bool(std::string_view key, bool value);
  void add_string(std::string_view key, std::string_view value);
  void add_strings(std::string_view key, const std::vector<std::string>& values);
  void add_ints(std::string_view key, const std::vector<std::int32_t>& values);
  void add_floats(std::string_view key, const std::vector<float>& values);

 private:
  friend class GgufWriter;
  void text(std::string_view text);
  void begin(std::string_view key, std::uint32_t type);
  void begin_array(std::string_view key, std::uint32_t type, std::size_t count);

  ByteWriter bytes_;
  std::uint64_t keys_ = 0;
};

class GgufWriter {
 public:
  struct Entry {
    std::string name;
    GgmlType type;
    // Outermost dimension first.
    Shape shape;
  };
  GgufWriter(const fs::path& path, const GgufMetadata& metadata, const std::vector<Entry>& entries);
  ~GgufWriter();
  GgufWriter(const GgufWriter&) = delete;
  GgufWriter& operator=(const GgufWriter&) = delete;

  // Writes the next bytes of the tensors, which follow each other in the order of the entries. A
  // piece may not extend from one tensor into the next.
  void write(std::span<const std::byte> bytes);
  // Flushes to disk.
  void finish();
  // Instead of the other tensors: their elements are a hole in the file, and read as zeros.
  void finish_outline();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tandem
