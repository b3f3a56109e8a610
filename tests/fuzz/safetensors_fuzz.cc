// safetensors: whatever the header says, every byte of every tensor is in the file.
#include "checkpoint/safetensors.h"
#include "fuzz.h"

using namespace tandem;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return fuzz::parse([&] {
    const fuzz::InputFile file({data, size});
    std::uint64_t sum = 0;
    for (const auto& [name, tensor] : SafetensorsFile::open(file.path()).tensors)
      for (const std::byte byte : tensor.bytes()) sum += static_cast<std::uint64_t>(byte);
    // Used, so that the reads stay.
    fuzz::require(sum <= size * std::uint64_t{255}, "tensors hold more than the file");
  });
}
