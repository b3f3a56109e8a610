// tokenizer.json: the input is the file, followed by a zero byte (which JSON cannot contain) and
// the text to encode.
#include "tokenizer_exercise.h"

using namespace tandem;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input = fuzz::as_text({data, size});
  const std::size_t end = std::min(input.find('\0'), size);
  return fuzz::parse([&] {
    const fuzz::InputFile file({data, end});
    const Tokenizer tokenizer = Tokenizer::open(file.path());
    fuzz::exercise(tokenizer, "Hello  naïve\tworld 42! <s>\n日本 \xf0\x9f\x99\x82\xff");
    if (end < size) fuzz::exercise(tokenizer, input.substr(end + 1));
  });
}
