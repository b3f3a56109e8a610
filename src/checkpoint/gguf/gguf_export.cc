// Writes a checkpoint's tensors in the order, layout and types of GGUF.
#include "checkpoint/gguf/gguf_export.h"

#include <algorithm>

#include "base/error.h"
#include "base/printable.h"
#include "checkpoint/float_rows.h"
#include "checkpoint/gguf/gguf_mixture.h"

namespace tandem {
namespace {

// The row of the checkpoint that becomes `row` of GGUF, where the halves of a head are interleaved.
std::int64_t halves_row(std::int64_t row, std::int64_t head_dim) {
  const std::int64_t head = row / head_dim * head_dim;
  const std::int64_t inside = row - head;
  return head + inside % 2 * (head_dim / 2) + inside / 2;
}

// Floats that become some megabytes at most are encoded at once.
constexpr std::int64_t kElementsAtOnce = std::int64_t{1} << 20;

bool is_paired(const GgufArchitecture& architecture, const GgufContent& content) {
  return architecture.paired_rows && content.shape.size() <= 2 &&
         (content.name.find("self_attn.q_proj.") != std::string::npos ||
          content.name.find("self_attn.k_proj.") != std::string::npos);
}

// The rows of whole heads with the halves of each interleaved.
std::vector<std::byte> interleave(const std::vector<std::byte>& rows, std::int64_t count,
                                  std::int64_t head_dim) {
  const std::size_t size = rows.size() / static_cast<std::size_t>(count);
  std::vector<std::byte> turned(rows.size());
  for (std::int64_t row = 0; row < count; ++row)
    std::copy_n(rows.begin() + halves_row(row, head_dim) * static_cast<std::ptrdiff_t>(size), size,
                turned.begin() + row * static_cast<std::ptrdiff_t>(size));
  return turned;
}

// `head_dim` is 0 for a tensor whose rows keep their order.
void write_content(GgufWriter& writer, const GgufContent& content, std::int64_t head_dim) {
  const std::int64_t elements = element_count(content.shape);
  if (elements == 0) return;
  const GgufContent::Read read = content.open();
  const std::int64_t rows = content.shape.empty() ? 1 : content.shape[0];
  std::int64_t step = rows;
  if (content.shape.size() > 1) {
    const std::int64_t unit = std::max<std::int64_t>(head_dim, 1);
    step = std::max<std::int64_t>(1, kElementsAtOnce / (elements / rows) / unit) * unit;
  }
  for (std::int64_t row = 0; row < rows; row += step) {
    const std::int64_t count = std::min(step, rows - row);
    const std::vector<std::byte> bytes = read(row, count);
    writer.write(head_dim == 0 ? bytes : interleave(bytes, count, head_dim));
  }
}

// A tensor of a checkpoint, plus `offset`.
GgufContent content_of(const Checkpoint& checkpoint, const std::string& name, const Shape& shape,
                       GgmlType type, float offset) {
  const auto open = [&checkpoint, name, shape, type, offset]() -> GgufContent::Read {
    return [source = FloatRows(checkpoint, name, shape), name, type, offset](std::int64_t begin,
                                                                             std::int64_t count) {
      std::vector<float> values =
          source.rows() == 1 ? source.read(0, 1) : source.read(begin, count);
      if (offset != 0)
        for (float& value : values) value += offset;
      return quantize_blocks(type, values, name);
    };
  };
  return {name, shape, type, open};
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

std::int64_t layers_of(const JsonObject& config) {
  return config.get_int(config.has("num_layers") ? "num_layers" : "num_hidden_layers", 1, 1 << 16);
}

GgufMetadata metadata_of(const Checkpoint& checkpoint, const GgufArchitecture& architecture,
                         GgmlType type, std::optional<std::vector<std::int64_t>> ends,
                         Observer& observer) {
  const JsonObject config = checkpoint.config_object();
  GgufMetadata metadata;
  metadata.add_string("general.architecture", architecture.name);
  metadata.add_string("general.type", "model");
  const std::string name = checkpoint.folder().filename().string();
  metadata.add_string("general.name", name.empty() ? config.get_string("model_type") : name);
  metadata.add_uint32("general.file_type", gguf_file_type(type));
  metadata.add_uint32("general.quantization_version", 2);
  add_gguf_sizes(metadata, architecture, config, observer);
  if (!ends) ends = stored_ends(checkpoint);
  add_gguf_vocabulary(metadata, checkpoint.folder(), config, *std::move(ends), observer);
  return metadata;
}

}  // namespace

GgufArchitecture gguf_architecture_of(const Checkpoint& checkpoint) {
  const JsonObject config = checkpoint.config_object();
  const std::string model_type = config.get_string("model_type");
  const auto architecture = find_gguf_architecture_of(model_type);
  if (!architecture)
    fail(ErrorCode::kUnsupported, "[gguf] {}: model_type \"{}\" has no form in GGUF here",
         config.where(), printable(model_type));
  return *architecture;
}

void warn_of_fallback(std::int64_t count, GgmlType type, Observer& observer) {
  if (count > 0)
    observer.warn(fmt::format(
        "[gguf] {} matri{} not of whole {} blocks in each row and ha{} a type of "
        "smaller blocks",
        count, count == 1 ? "x is" : "ces are", to_string(type), count == 1 ? "s" : "ve"));
}

void write_gguf_contents(const fs::path& path, const Checkpoint& checkpoint, GgmlType type,
                         const std::vector<GgufContent>& contents, std::string_view task_name,
                         Observer& observer, std::optional<std::vector<std::int64_t>> ends,
                         bool is_outline) {
  const JsonObject config = checkpoint.config_object();
  const GgufArchitecture architecture = gguf_architecture_of(checkpoint);
  const std::int64_t head_dim = architecture.paired_rows ? read_head_dim(config) : 0;
  const GgufMetadata metadata =
      metadata_of(checkpoint, architecture, type, std::move(ends), observer);
  const auto tables = gguf_rope_tables(architecture, config);
  std::vector<GgufWriter::Entry> entries;
  for (const auto& [table, values] : tables)
    entries.push_back({table, GgmlType::kF32, {static_cast<std::int64_t>(values.size())}});
  for (const GgufContent& content : contents) {
    const auto name = name_to_gguf(architecture, content.name);
    if (!name)
      fail(ErrorCode::kUnsupported, "[gguf] {}: {}: has no place in architecture {}",
           checkpoint.path().string(), printable(content.name), architecture.name);
    if (is_paired(architecture, content) &&
        (content.shape.empty() || content.shape[0] % head_dim != 0))
      fail(ErrorCode::kFormat, "[gguf] {}: {}: {} is not heads of {}", checkpoint.path().string(),
           printable(content.name), to_string(content.shape), head_dim);
    entries.push_back({*name, content.type, content.shape});
  }
  GgufWriter writer(path, metadata, entries);
  for (const auto& [table, values] : tables) writer.write(std::as_bytes(std::span(values)));
  if (is_outline) return writer.finish_outline();
  Task task(observer, task_name, static_cast<std::int64_t>(contents.size()), "tensors");
  for (const GgufContent& content : contents) {
    write_content(writer, content, is_paired(architecture, content) ? head_dim : 0);
    task.advance();
  }
  writer.finish();
}

void write_gguf(const fs::path& path, const Checkpoint& checkpoint, GgmlType type,
                Observer& observer, std::optional<std::vector<std::int64_t>> ends,
                const std::set<std::string>* wanted) {
  const JsonObject config = checkpoint.config_object();
  const GgufArchitecture architecture = gguf_architecture_of(checkpoint);
  const auto stored = checkpoint.contents();
  const auto find = [&](std::string_view gguf_name) {
    return std::ranges::find_if(stored, [&](const auto& entry) {
      return name_to_gguf(architecture, entry.first) == gguf_name;
    });
  };
  const auto embedding = find("token_embd.weight");
  if (embedding == stored.end())
    fail(ErrorCode::kUnsupported,
         "[gguf] {}: expected the tensors of a {} model, whose embedding is missing",
         checkpoint.path().string(), printable(config.get_string("model_type")));
  const auto is_wanted = [&](const std::string& name) {
    return wanted == nullptr || wanted->contains(name);
  };
  // A tied head that is stored nevertheless is left out. One with elements of its own is none,
  // whatever the configuration says.
  const auto head = find("output.weight");
  const bool is_tied =
      head == stored.end() || !is_wanted(head->first) ||
      (config.get_bool_or("tie_word_embeddings", false) && head->second == embedding->second &&
       same_elements(checkpoint, head->first, embedding->first, head->second));
  GgufMixture mixture(type, layers_of(config), is_tied);
  std::vector<GgufContent> contents;
  for (const auto& [name, shape] : stored) {
    // What the architecture has no place for, its graph does not need.
    const auto gguf_name = name_to_gguf(architecture, name);
    if (!gguf_name || !is_wanted(name) || (is_tied && *gguf_name == "output.weight")) continue;
    const bool is_norm = architecture.norms_plus_one && name.ends_with("norm.weight");
    contents.push_back(content_of(checkpoint, name, shape, mixture.choose(*gguf_name, shape),
                                  is_norm ? 1.0f : 0.0f));
  }
  warn_of_fallback(mixture.fallen_back(), type, observer);
  write_gguf_contents(path, checkpoint, type, contents, "convert", observer, std::move(ends));
}

}  // namespace tandem
