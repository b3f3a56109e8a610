// Pickles alone, without the container of a checkpoint.
#include "checkpoint/pickle.h"
#include "fuzz.h"

using namespace tandem;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return fuzz::parse([&] {
    ByteReader reader(std::as_bytes(fuzz::Input{data, size}), "pickle");
    Unpickler unpickler;
    const PickleValue* value = unpickler.read(reader);
    fuzz::require(value != nullptr, "no value");
    value->find("a");
  });
}
