// Checkpoints of torch.save: the zip, the pickle in it, and the older format.
#include "checkpoint/torch_file.h"
#include "store_exercise.h"

using namespace tandem;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fuzz::InputFile file({data, size});
  return fuzz::parse([&] { fuzz::exercise(*open_torch_file(file.path())); });
}
