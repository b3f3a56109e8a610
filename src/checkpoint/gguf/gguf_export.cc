// Writes a checkpoint's tensors in the order, layout and types of GGUF.
#include "checkpoint/gguf/gguf_export.h"

#include <algorithm>

#include "base/error.h"
#include "base/printable.h"
#include "checkpoint/float_rows.h"

namespace tandem {
namespace {

constexpr std::int64_t kBlock = 32;

// llama.cpp's numbers for "mostly of this type".
std::uint32_t file_type(GgmlType type) {
  switch (type) {
    case GgmlType::kF32:
      return 0;
    case GgmlType::kF16:
      return 1;
    case GgmlType::kQ4_0:
      return 2;
    case GgmlType::kQ4_1:
      return 3;
    case GgmlType::kQ8_0:
      return 7;
    case GgmlType::kBF16:
      return 32;
    default:
      fail(ErrorCode::kInvalidArgument, "[gguf] files of type {} are not written here",
           to_string(type));
  }
}

struct Export {
  // In the checkpoint; empty for a rope table.
  std::string name;
  Shape shape;
  GgmlType type;
  // Rows of q and k are stored in pairs.
  bool paired = false;
  // For a norm.
  bool plus_one = false;
};

GgmlType choose_type(GgmlType wanted, const std::string& gguf_name, const Shape& shape) {
  if (shape.size() < 2) return GgmlType::kF32;
  if (wanted == GgmlType::kF32 || wanted == GgmlType::kF16 || wanted == GgmlType::kBF16)
    return wanted;
  if (shape.back() % kBlock != 0) return GgmlType::kF16;
  const bool at_the_ends = gguf_name == "token_embd.weight" || gguf_name == "output.weight";
  return at_the_ends ? GgmlType::kQ8_0 : wanted;
}

// The row of the checkpoint that becomes `row` of GGUF, where the halves of a head are interleaved.
std::int64_t halves_row(std::int64_t row, std::int64_t head_dim) {
  const std::int64_t head = row / head_dim * head_dim;
  const std::int64_t inside = row - head;
  return head + inside % 2 * (head_dim / 2) + inside / 2;
}

void write_floats(GgufWriter& writer, GgmlType type, const std::vector<float>& values,
                  const std::string& name) {
  const GgmlTypeInfo format = ggml_info(type);
  const auto blocks = static_cast<std::int64_t>(values.size()) / format.block_elements;
  std::vector<std::byte> bytes(static_cast<std::size_t>(blocks * format.block_bytes));
  quantize_blocks(type, values, bytes, name);
  writer.write(bytes);
}

// One head at a time, so that its rows can be interleaved.
void write_tensor(GgufWriter& writer, const Checkpoint& checkpoint, const Export& tensor,
                  std::int64_t head_dim) {
  const FloatRows source(checkpoint, tensor.name, tensor.shape);
  if (tensor.paired && tensor.shape.size() == 1) {
    const std::vector<float> values = source.read(0, 1);
    std::vector<float> turned(values.size());
    for (std::size_t i = 0; i < values.size(); ++i)
      turned[i] =
          values[static_cast<std::size_t>(halves_row(static_cast<std::int64_t>(i), head_dim))];
    return write_floats(writer, tensor.type, turned, tensor.name);
  }
  const std::int64_t step = tensor.paired ? head_dim : source.rows_at_once();
  for (std::int64_t row = 0; row < source.rows(); row += step) {
    std::vector<float> values = source.read(row, std::min(step, source.rows() - row));
    if (tensor.plus_one)
      for (float& value : values) value += 1;
    if (tensor.paired) {
      const auto columns = static_cast<std::size_t>(source.columns());
      std::vector<float> turned(values.size());
      for (std::int64_t i = 0; i < head_dim; ++i)
        std::copy_n(values.begin() + halves_row(i, head_dim) * source.columns(), columns,
                    turned.begin() + i * source.columns());
      values = std::move(turned);
    }
    write_floats(writer, tensor.type, values, tensor.name);
  }
}

// True if two matrices have the same elements.
bool same_elements(const Checkpoint& checkpoint, const std::string& a, const std::string& b,
                   const Shape& shape) {
  const FloatRows one(checkpoint, a, shape);
  const FloatRows other(checkpoint, b, shape);
  for (std::int64_t row = 0; row < one.rows(); row += one.rows_at_once()) {
    const std::int64_t count = std::min(one.rows_at_once(), one.rows() - row);
    if (one.read(row, count) != other.read(row, count)) return false;
  }
  return true;
}

std::int64_t read_head_dim(const JsonObject& config) {
  const auto hidden = config.get_int("hidden_size", 1, 1 << 30);
  const auto heads = config.get_int("num_attention_heads", 1, 1 << 16);
  const auto head_dim = config.get_int_or("head_dim", hidden / heads, 1, 1 << 30);
  if (head_dim < 2 || head_dim % 2 != 0)
    fail(ErrorCode::kFormat, "[gguf] {}: head_dim: expected an even number, got {}", config.where(),
         head_dim);
  return head_dim;
}

std::vector<std::int64_t> stored_ends(const Checkpoint& checkpoint) {
  const std::string place = (checkpoint.folder() / "generation_config.json").string();
  for (const JsonObject& settings :
       {JsonObject(checkpoint.generation_config(), place), checkpoint.config_object()}) {
    if (settings.has("eos_token_id")) return settings.get_ints("eos_token_id");
  }
  return {};
}

}  // namespace

void write_gguf(const fs::path& path, const Checkpoint& checkpoint, GgmlType type,
                Observer& observer, std::optional<std::vector<std::int64_t>> ends,
                const std::set<std::string>* wanted) {
  const JsonObject config = checkpoint.config_object();
  const std::string model_type = config.get_string("model_type");
  const auto architecture = find_gguf_architecture_of(model_type);
  if (!architecture)
    fail(ErrorCode::kUnsupported, "[gguf] {}: model_type \"{}\" has no form in GGUF here",
         config.where(), printable(model_type));
  const std::int64_t head_dim = architecture->paired_rows ? read_head_dim(config) : 0;

  GgufMetadata metadata;
  metadata.add_string("general.architecture", architecture->name);
  metadata.add_string("general.type", "model");
  std::string name = checkpoint.folder().filename().string();
  metadata.add_string("general.name", name.empty() ? model_type : name);
  metadata.add_uint32("general.file_type", file_type(type));
  metadata.add_uint32("general.quantization_version", 2);
  add_gguf_sizes(metadata, *architecture, config, observer);
  if (!ends) ends = stored_ends(checkpoint);
  add_gguf_vocabulary(metadata, checkpoint.folder(), config, *std::move(ends), observer);

  const auto tables = gguf_rope_tables(*architecture, config);
  std::vector<GgufWriter::Entry> entries;
  for (const auto& [table, values] : tables)
    entries.push_back({table, GgmlType::kF32, {static_cast<std::int64_t>(values.size())}});
  std::vector<Export> exports;
  const bool tied = config.get_bool_or("tie_word_embeddings", false);
  const auto contents = checkpoint.contents();
  const auto embedding = std::ranges::find_if(contents, [&](const auto& entry) {
    return name_to_gguf(*architecture, entry.first) == "token_embd.weight";
  });
  if (embedding == contents.end())
    fail(ErrorCode::kUnsupported,
         "[gguf] {}: expected the tensors of a {} model, whose embedding is missing",
         checkpoint.path().string(), printable(model_type));
  for (const auto& [tensor, shape] : contents) {
    // What the architecture has no place for, its graph does not need.
    const auto gguf_name = name_to_gguf(*architecture, tensor);
    if (!gguf_name || (wanted != nullptr && !wanted->contains(tensor))) continue;
    // A tied head that is stored nevertheless. One with elements of its own is none, whatever the
    // configuration says.
    if (tied && *gguf_name == "output.weight" && shape == embedding->second &&
        same_elements(checkpoint, tensor, embedding->first, shape))
      continue;
    Export entry{tensor, shape, choose_type(type, *gguf_name, shape)};
    entry.paired = architecture->paired_rows && shape.size() <= 2 &&
                   (tensor.find("self_attn.q_proj.") != std::string::npos ||
                    tensor.find("self_attn.k_proj.") != std::string::npos);
    entry.plus_one = architecture->norms_plus_one && tensor.ends_with("norm.weight");
    if (entry.paired && (shape.empty() || shape[0] % head_dim != 0))
      fail(ErrorCode::kFormat, "[gguf] {}: {}: {} is not heads of {}", checkpoint.path().string(),
           printable(tensor), to_string(shape), head_dim);
    entries.push_back({*gguf_name, entry.type, shape});
    exports.push_back(std::move(entry));
  }

  GgufWriter writer(path, metadata, entries);
  for (const auto& [table, values] : tables) writer.write(std::as_bytes(std::span(values)));
  Task task(observer, "convert", static_cast<std::int64_t>(exports.size()), "tensors");
  for (const Export& entry : exports) {
    write_tensor(writer, checkpoint, entry, head_dim);
    task.advance();
  }
  writer.finish();
}

}  // namespace tandem
