// GGUF: metadata and tensors of any file, the values of every supported type, and the chat template
// that it may contain.
#include "checkpoint/gguf/gguf.h"
#include "fuzz.h"
#include "text/chat_template.h"

using namespace tandem;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fuzz::InputFile file({data, size});
  fuzz::parse([&] {
    for (const auto& [name, tensor] : GgufFile::open(file.path()).tensors) {
      fuzz::require(tensor.bytes.size() <= size, "a tensor is larger than the file");
      const auto elements = static_cast<std::size_t>(element_count(tensor.shape));
      if (can_dequantize(tensor.type) && elements < (1 << 16)) {
        std::vector<float> values(elements);
        dequantize_blocks(tensor.type, tensor.bytes, values);
      }
    }
  });
  return fuzz::parse([&] { ChatTemplate::open(file.path()); });
}
