// Uses the public API as another project would: outside MODEL_FOLDER answers a prompt, token by
// token.
#include <cstdlib>
#include <exception>
#include <iostream>

#include <tandem/tandem.hpp>

int main(int argc, char** argv) {
  std::cout << "tandem " << tandem::version() << '\n';
  if (argc != 2) return EXIT_FAILURE;
  try {
    tandem::Model model(argv[1]);
    tandem::GenerateOptions options;
    options.max_tokens = 20;
    std::string streamed;
    const auto result = model.generate("Once upon a time, there was a small fox named Lily.",
                                       options, [&](std::string_view text) {
                                         streamed += text;
                                         return true;
                                       });
    std::cout << result.text << '\n';
    const auto ids = model.tokenize(result.text);
    const bool whole =
        streamed == result.text && result.tokens == 20 && model.detokenize(ids) == result.text &&
        model.logits(ids).size() == ids.size() * static_cast<std::size_t>(model.vocabulary());
    if (!whole) return EXIT_FAILURE;

    std::vector<tandem::Message> messages = {{"user", "What is 10 plus 1?"}};
    messages.push_back({"assistant", model.chat(messages).text});
    messages.push_back({"user", "Spell the word cat."});
    const auto second = model.chat(messages);
    std::cout << messages[1].content << ' ' << second.text << '\n';
    if (messages[1].content != "10 plus 1 is 11." || !second.complete) return EXIT_FAILURE;
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return EXIT_FAILURE;
  }
  try {
    tandem::Model missing("no/such/folder");
  } catch (const tandem::Error& error) {
    std::cout << "as expected: " << tandem::to_string(error.code()) << ": " << error.what() << '\n';
    return error.code() == tandem::ErrorCode::kNotFound ? EXIT_SUCCESS : EXIT_FAILURE;
  }
  return EXIT_FAILURE;
}
