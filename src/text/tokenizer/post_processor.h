// The fourth stage: tokens added before and after those of a text, such as <s>.
#pragma once

#include <memory>
#include <vector>

#include "base/json.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem {

class PostProcessor {
 public:
  virtual ~PostProcessor() = default;
  virtual void add_special_tokens(std::vector<TokenId>& ids) const = 0;
};

// Creates the component at "post_processor" of tokenizer.json; ids in it must be below
// `vocabulary_size`. Throws kFormat, or kUnsupported for an unknown type.
std::unique_ptr<PostProcessor> make_post_processor(const JsonObject& config,
                                                   std::int64_t vocabulary_size);

}  // namespace tandem
