// tokenizer.model: SentencePiece's protobuf or tiktoken's list of ranks, detected from the content.
#include "tokenizer_exercise.h"

using namespace tandem;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return fuzz::parse([&] {
    const fuzz::InputFile file({data, size});
    const Tokenizer tokenizer = Tokenizer::open(file.path());
    fuzz::exercise(tokenizer, "Hello  naïve\tworld 42! <s>\n日本 \xf0\x9f\x99\x82\xff");
  });
}
