// Graphs are compared as packages store them, tokenizers by what they make of some texts.
#include "quantize/same_model.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/printable.h"
#include "graph/graph_json.h"
#include "models/model.h"
#include "text/tokenizer/tokenizer.h"

namespace tandem {
namespace {

// Settings are stored as 32-bit floats.
constexpr double kTolerance = 1e-5;
// Of the special tokens that are compared within a text.
constexpr std::size_t kMostSpecialTokens = 256;

// A matrix of which only the shape is known.
class UnreadRows : public RowSource {
 public:
  UnreadRows(std::int64_t rows, std::int64_t columns) : RowSource(rows, columns, DType::kF16) {}

 private:
  void read_rows(std::int64_t, std::span<float>) const override {
    fail(ErrorCode::kInternal, "[quantize] a weight was read that is only a shape");
  }
};

// A checkpoint's tensors by name, whose elements nobody asks for.
class WeightShapes : public WeightSource {
 public:
  explicit WeightShapes(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}
  bool has(const std::string& tensor) const override { return checkpoint_.has(tensor); }
  Tensor tensor(const std::string& name, const Shape& expected) const override {
    if (!has(name)) fail(ErrorCode::kNotFound, "tensor \"{}\" is missing", printable(name));
    std::byte* unused = nullptr;
    return Tensor::allocate(DType::kF16, expected, &unused);
  }
  Weight linear(const std::string& module, std::int64_t n, std::int64_t k) const override {
    if (!has(module + ".weight"))
      fail(ErrorCode::kNotFound, "tensor \"{}.weight\" is missing", printable(module));
    return FloatWeight(std::make_shared<UnreadRows>(n, k));
  }
  float input_scale(const std::string&) const override { return 0; }

 private:
  const Checkpoint& checkpoint_;
};

// Keeps the names of tensors in place of tensors.
class Names : public TensorSink {
 public:
  std::string keep(const std::string& name, const Tensor&) override { return name; }
  std::string keep(const std::string& name, const std::shared_ptr<const RowSource>&) override {
    return name;
  }
};

bool is_same(const OrderedJson& a, const OrderedJson& b) {
  if (a.is_number() && b.is_number()) {
    const auto x = a.get<double>();
    const auto y = b.get<double>();
    return std::abs(x - y) <= kTolerance * std::max(std::abs(x), std::abs(y));
  }
  if (!a.is_array() || !b.is_array()) return a == b;
  return std::ranges::equal(a, b, is_same);
}

std::string shown(const OrderedJson& node, const std::string& key) {
  constexpr std::size_t kLongest = 60;
  const auto found = node.find(key);
  std::string text = found == node.end() ? "nothing" : found->dump();
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "…";
  return text;
}

// The first key in which two nodes differ; empty if there is none. A weight may be stored in
// another form.
std::string first_difference(const OrderedJson& a, const OrderedJson& b) {
  for (const auto* node : {&a, &b})
    for (const auto& [key, value] : node->items())
      if (key != "weight" && (!a.contains(key) || !b.contains(key) || !is_same(a[key], b[key])))
        return key;
  return {};
}

std::optional<Tokenizer> open_tokenizer(const fs::path& path) {
  try {
    return Tokenizer::open(path);
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace

void require_same_graph(const Graph& graph, const Checkpoint& written, std::string_view part,
                        std::string_view what) {
  const auto refuse = [&](const std::string& reason) {
    fail(ErrorCode::kUnsupported, "[{}] {} has no form for this model: {}", part, what, reason);
  };
  Names names;
  const OrderedJson expected = graph_to_json(graph, names)["nodes"];
  OrderedJson got;
  try {
    got =
        graph_to_json(build_graph(written.config_object(), WeightShapes(written)), names)["nodes"];
  } catch (const Error& error) {
    refuse(error.what());
  }
  for (std::size_t i = 0; i < std::min(expected.size(), got.size()); ++i) {
    const std::string key = first_difference(expected[i], got[i]);
    if (!key.empty())
      refuse(fmt::format("{}: {}: expected {}, what is read back has {}",
                         expected[i]["name"].get<std::string>(), key, shown(expected[i], key),
                         shown(got[i], key)));
  }
  if (expected.size() != got.size())
    refuse(fmt::format("expected {} operators, what is read back has {}", expected.size(),
                       got.size()));
}

void compare_tokenizers(const fs::path& source, const fs::path& written, std::string_view part,
                        const std::string& name, Observer& observer) {
  const auto one = open_tokenizer(source);
  const auto other = open_tokenizer(written);
  if (!one || !other) return;
  std::vector<std::string> texts = {"hi",       " Hello,  World!", "it's", "12345",
                                    "a\n\n  b", "\ttab",           "ÄÖÜ",  "e\u0301",
                                    "ſ Ⅷ ﬁ ½",  "日本語",          "🙂",   "a_b-c.d/e"};
  for (TokenId id = 0; id < one->vocabulary_size() && texts.size() < kMostSpecialTokens; ++id)
    if (one->is_special(id)) texts.push_back("a " + one->id_to_token(id) + " b");
  for (const std::string& text : texts) {
    if (one->encode(text) == other->encode(text)) continue;
    observer.warn(
        fmt::format("[{}] {}: its tokenizer splits some texts in another way, such as \"{}\"", part,
                    name, printable(text)));
    return;
  }
}

}  // namespace tandem
