// tandem convert: a checkpoint from one file format to another.
#include <algorithm>
#include <array>
#include <cctype>
#include <set>

#include "base/error.h"
#include "base/merge_sort.h"
#include "base/printable.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/float_rows.h"
#include "checkpoint/gguf/gguf.h"
#include "checkpoint/gguf/gguf_export.h"
#include "checkpoint/gguf/interleaved_rows.h"
#include "checkpoint/mllm_file.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/torch_file.h"
#include "cli/commands.h"
#include "cli/log.h"
#include "cli/nearest.h"
#include "cli/terminal_observer.h"
#include "graph/finite.h"
#include "models/model.h"
#include "package/write_package.h"
#include "quantize/same_model.h"
#include "runtime/search_options.h"

namespace tandem::cli {
namespace {

struct ConvertFlags {
  std::string input;
  std::string output;
  std::string type;
  std::string dtype;
  std::string config;
  int mllm_version = 1;
  bool mllm_types = false;
};

struct NamedType {
  std::string_view name;
  GgmlType type;
};

constexpr std::array kTypes = {
    NamedType{"f32", GgmlType::kF32},   NamedType{"f16", GgmlType::kF16},
    NamedType{"bf16", GgmlType::kBF16}, NamedType{"q8_0", GgmlType::kQ8_0},
    NamedType{"q4_0", GgmlType::kQ4_0}, NamedType{"q4_1", GgmlType::kQ4_1},
    NamedType{"q6_k", GgmlType::kQ6_K}, NamedType{"q4_k", GgmlType::kQ4_K},
    NamedType{"q2_k", GgmlType::kQ2_K}, NamedType{"q3_k", GgmlType::kQ3_K},
    NamedType{"q8_k", GgmlType::kQ8_K}, NamedType{"q4_0_4_4", GgmlType::kQ4_0_4_4}};

// As help and completions show them.
std::string type_names() {
  std::string names;
  for (const NamedType& entry : kTypes)
    names += fmt::format("{}{}", names.empty() ? "{" : ",", entry.name);
  return names + "}";
}

std::optional<GgmlType> find_type(const std::string& name) {
  if (name.empty()) return std::nullopt;
  std::string known;
  for (const NamedType& entry : kTypes) {
    if (entry.name == name) return entry.type;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", entry.name);
  }
  std::vector<std::string> names;
  for (const NamedType& entry : kTypes) names.emplace_back(entry.name);
  fail(ErrorCode::kInvalidArgument, "[convert] --dtype: expected one of {}, got \"{}\"{}", known,
       name, did_you_mean(name, names));
}

// Checks that the input is of the kind given with --type, in the terms of mllm's converter.
void check_kind(const std::string& type, const Checkpoint& checkpoint) {
  if (type.empty()) return;
  const fs::path& file = checkpoint.weight_files().front();
  const auto mapped = MappedFile::open(file);
  const std::string kind = is_gguf(file)                            ? "gguf"
                           : looks_like_mllm(mapped->bytes())       ? "mllm"
                           : looks_like_torch_file(mapped->bytes()) ? "torch"
                                                                    : "safetensor";
  if (type != kind && !(type == "safetensors" && kind == "safetensor"))
    fail(ErrorCode::kInvalidArgument, "[convert] {}: --type says {}, its content is {}",
         file.string(), type, kind);
}

// A checkpoint as a model: its graph, and the tensors that it is made of.
struct SourceModel {
  Graph graph;
  std::set<std::string> tensors;
};

SourceModel build_model(const Checkpoint& checkpoint) {
  const CheckpointWeights weights(checkpoint);
  Graph graph = build_graph(checkpoint.config_object(), weights);
  return {std::move(graph), weights.read()};
}

// Throws kFormat if a weight of the model is not a number. Files of models that are not known here,
// or of parts of one, are converted as they are.
void require_finite(const Checkpoint& checkpoint, const Observer& observer) {
  std::optional<NonFinite> bad;
  try {
    ThreadPool pool(default_threads());
    bad = find_non_finite(build_model(checkpoint).graph, pool, observer);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNotFound && error.code() != ErrorCode::kUnsupported) throw;
  }
  if (bad)
    fail(ErrorCode::kFormat, "[convert] {}: {}", checkpoint.file_of(bad->tensor).string(),
         to_string(*bad));
}

// The shapes for a file that has none (.mllm version 1): those that its model's builder requests.
std::map<std::string, Shape> asked_shapes(const Checkpoint& checkpoint) {
  class AskedWeights : public CheckpointWeights {
   public:
    using CheckpointWeights::CheckpointWeights;
    Tensor tensor(const std::string& name, const Shape& expected) const override {
      shapes[name] = expected;
      return CheckpointWeights::tensor(name, expected);
    }
    Weight linear(const std::string& module, std::int64_t n, std::int64_t k) const override {
      shapes[module + ".weight"] = {n, k};
      return CheckpointWeights::linear(module, n, k);
    }
    mutable std::map<std::string, Shape> shapes;
  };
  const AskedWeights weights(checkpoint);
  build_graph(checkpoint.config_object(), weights);
  return weights.shapes;
}

// Names of .mllm version 1 end in .weight and .bias.
std::string mllm_name(std::string name) {
  for (const auto& [from, to] : {std::pair{"_weight", ".weight"}, {"_bias", ".bias"}})
    for (std::size_t at = 0; (at = name.find(from, at)) != std::string::npos;)
      name.replace(at, std::string_view(from).size(), to);
  return name;
}

// What a checkpoint holds, by name. The static scales of a packed Linear's activations count by
// themselves: a float weight has no place for them.
std::set<std::string> names_in(const Checkpoint& checkpoint) {
  std::set<std::string> names;
  for (const auto& [name, shape] : checkpoint.contents()) names.insert(name);
  for (const auto& [name, tensor] : checkpoint.unread()) names.insert(name);
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    for (const char* part :
         {".input_scale", ".input_zero_point", ".output_scale", ".output_zero_point"})
      if (name.ends_with(part)) names.insert(name);
  }
  return names;
}

// The tensors of a file that was written here, by the names of transformers.
std::set<std::string> names_in(const fs::path& file, const Checkpoint& source) {
  std::set<std::string> names;
  if (is_gguf(file)) {
    const auto architecture =
        find_gguf_architecture_of(source.config_object().get_string("model_type"));
    const GgufFile written = GgufFile::open(file);
    for (const auto& [name, tensor] : written.tensors) {
      const auto known = architecture ? name_from_gguf(*architecture, name) : std::nullopt;
      names.insert(known.value_or(name));
    }
  } else if (looks_like_mllm(MappedFile::open(file)->bytes())) {
    const auto store = open_mllm(file);
    for (const auto& [name, tensor] : store->tensors()) names.insert(name);
  } else {
    const SafetensorsFile written = SafetensorsFile::open(file);
    for (const auto& [name, tensor] : written.tensors) names.insert(name);
  }
  return names;
}

// Compares the lists of tensors: what the output lacks is said, whichever writer left it out.
void warn_of_left_out(const std::set<std::string>& wanted, const fs::path& output,
                      const Checkpoint& source, Observer& observer) {
  const std::set<std::string> written =
      names_in(fs::is_directory(output) ? output / "model.safetensors" : output, source);
  std::vector<std::string> left_out;
  for (const std::string& name : wanted)
    if (!written.contains(name) && !written.contains(mllm_name(name))) left_out.push_back(name);
  if (left_out.empty()) return;
  observer.warn(fmt::format("[convert] {}: {} of {} tensors are left out: {}", output.string(),
                            left_out.size(), wanted.size(), first_of(left_out)));
}

class Converter {
 public:
  Converter(const Checkpoint& checkpoint, std::optional<GgmlType> type, Observer& observer)
      : checkpoint_(checkpoint),
        type_(type),
        contents_(checkpoint.contents()),
        is_in_parts_(!type && checkpoint.has_mllm_codes()),
        observer_(observer) {}

  // Types of tensors in .mllm as mllm's quantize chooses them: the embedding in Q4_0, and a head even
  // where it is the embedding.
  void use_mllm_types() {
    mllm_types_ = true;
    if (contents_.contains(kTable)) contents_.emplace(kHead, contents_.at(kTable));
  }

  void to_gguf(const fs::path& output) {
    if (is_gguf(checkpoint_.weight_files().front()))
      fail(ErrorCode::kUnsupported,
           "[convert] {}: is a GGUF already; GGUF is written from other formats",
           checkpoint_.path().string());
    const ModelInfo info =
        read_model_info(checkpoint_.config_object(), &checkpoint_.generation_config());
    const SourceModel model = build_model(checkpoint_);
    // Only what reads back as the same model takes the output's place.
    const fs::path draft =
        output.parent_path() / ("." + output.filename().string() + ".draft.gguf");
    try {
      write_gguf(draft, checkpoint_, type_.value_or(GgmlType::kF16), observer_, info.eos,
                 &model.tensors);
      require_same_graph(model.graph, Checkpoint::open(draft), "convert", "GGUF");
      compare_tokenizers(checkpoint_.text_path(), draft, "convert", output.string(), observer_);
      fs::rename(draft, output);
    } catch (...) {
      std::error_code ignored;
      fs::remove(draft, ignored);
      throw;
    }
    if (to_json(recommended_search(generation_object())) != to_json(SearchOptions()))
      observer_.warn(fmt::format(
          "[convert] {}: GGUF has no place for the search that generation_config.json recommends: "
          "name it when running: {}",
          output.string(), to_json(recommended_search(generation_object())).dump()));
  }

  // Same as mllm's converters: version 1 converts everything but bool, int8 and uint8 to F32, and
  // ends names in .weight and .bias; version 2 keeps types as they are.
  void to_mllm(const fs::path& output, int version) {
    struct Planned {
      std::string name;
      Shape shape;
      // The type of integers, which are not converted.
      std::optional<DType> kept;
      GgmlType type = GgmlType::kF32;
    };
    if (version == 1 && type_ == GgmlType::kBF16)
      fail(ErrorCode::kInvalidArgument, "[convert] --dtype: .mllm version 1 has no bf16");
    std::vector<MllmWriter::Entry> entries;
    std::vector<Planned> planned;
    for (const auto& [name, shape] : mllm_contents()) {
      const std::string stored = stored_name(name);
      Planned plan{stored, shape};
      const bool plain = is_in_parts_ || checkpoint_.is_stored_plainly(stored, shape);
      const DType dtype = plain ? checkpoint_.tensors().at(stored).dtype : DType::kF32;
      const bool bytes = dtype == DType::kI8 || dtype == DType::kU8 || dtype == DType::kBool;
      if (!is_float(dtype) && (bytes || version == 2)) {
        plan.kept = dtype;
      } else if (is_float(dtype)) {
        plan.type = choose(name, shape, version == 1 ? DType::kF32 : dtype);
      }
      const auto type = plan.kept ? MllmWriter::type_of(*plan.kept, version)
                                  : std::optional(MllmWriter::type_of(plan.type));
      if (!type)
        fail(ErrorCode::kUnsupported, "[convert] {}: {} has no form in .mllm version {}",
             printable(name), to_string(*plan.kept), version);
      entries.push_back({version == 1 ? mllm_name(name) : name, *type, shape});
      planned.push_back(std::move(plan));
    }
    MllmWriter writer(output, std::move(entries), version);
    Task task = begin(planned.size());
    for (std::size_t i = 0; i < planned.size(); ++i) {
      const Planned& plan = planned[i];
      if (plan.kept) {
        writer.write(i, checkpoint_.load(plan.name).bytes());
      } else {
        const std::vector<std::byte> bytes = encode(plan.name, plan.shape, plan.type);
        writer.write(i, bytes);
      }
      task.advance();
    }
    writer.finish();
  }

  void to_safetensors(const fs::path& output) {
    if (type_ && !plain_dtype(*type_))
      fail(ErrorCode::kInvalidArgument,
           "[convert] --dtype: safetensors hold f32, f16 and bf16, got {}", to_string(*type_));
    std::vector<SafetensorsWriter::Entry> entries;
    for (const auto& [name, shape] : contents_) {
      const bool plain = checkpoint_.is_stored_plainly(name, shape);
      DType dtype = plain ? checkpoint_.tensors().at(name).dtype : DType::kF16;
      if (type_ && is_float(dtype)) dtype = *plain_dtype(*type_);
      entries.push_back({name, dtype, shape});
    }
    // The writer puts wide elements first.
    merge_sort(entries,
               [](const auto& a, const auto& b) { return size_of(a.dtype) > size_of(b.dtype); });
    SafetensorsWriter writer(output, entries, {{"format", "pt"}});
    Task task = begin(entries.size());
    for (const SafetensorsWriter::Entry& entry : entries) {
      if (checkpoint_.is_stored_plainly(entry.name, entry.shape) &&
          checkpoint_.tensors().at(entry.name).dtype == entry.dtype) {
        writer.write(entry.name, checkpoint_.load(entry.name).bytes());
      } else {
        const GgmlType type = entry.dtype == DType::kF32   ? GgmlType::kF32
                              : entry.dtype == DType::kF16 ? GgmlType::kF16
                                                           : GgmlType::kBF16;
        const std::vector<std::byte> bytes = encode(entry.name, entry.shape, type);
        writer.write(entry.name, bytes);
      }
      task.advance();
    }
    writer.finish();
  }

  // A folder that other programs can open as a model: config.json, model.safetensors and the other
  // files next to the input.
  void to_folder(const fs::path& output) {
    if (fs::exists(output) && !fs::is_empty(output))
      fail(ErrorCode::kInvalidArgument, "[convert] {}: exists already", output.string());
    StagedFolder staged(output);
    to_safetensors(staged.path() / "model.safetensors");
    Json config = checkpoint_.config();
    config.erase("quantization_config");
    // A configuration from elsewhere may come with a file that is not copied.
    const Json& generation = checkpoint_.generation_config();
    if (generation.contains("eos_token_id") &&
        !fs::exists(checkpoint_.folder() / "generation_config.json"))
      config["eos_token_id"] = generation["eos_token_id"];
    write_text_file(staged.path() / "config.json", config.dump(2) + "\n");
    put_texts_beside(checkpoint_, staged.path(), observer_);
    staged.commit();
  }

 private:
  static constexpr const char* kTable = "model.embed_tokens.weight";
  static constexpr const char* kHead = "lm_head.weight";

  std::map<std::string, Shape> mllm_contents() const {
    if (!is_in_parts_) return contents_;
    std::map<std::string, Shape> parts;
    for (const auto& [name, tensor] : checkpoint_.tensors()) parts.emplace(name, tensor.shape);
    return parts;
  }
  // Of a head that is the embedding, the embedding's.
  std::string stored_name(const std::string& name) const {
    return name == kHead && !checkpoint_.has(kHead) ? kTable : name;
  }

  JsonObject generation_object() const {
    return {checkpoint_.generation_config(), "generation_config.json"};
  }
  Task begin(std::size_t tensors) const {
    return {observer_, "convert", static_cast<std::int64_t>(tensors), "tensors"};
  }

  // Vectors and tensors that mllm's quantizer leaves in F32 keep their type; matrices get the
  // requested one, or F32 where their rows are not made of whole blocks.
  GgmlType choose(const std::string& name, const Shape& shape, DType dtype) const {
    const GgmlType own = dtype == DType::kF16    ? GgmlType::kF16
                         : dtype == DType::kBF16 ? GgmlType::kBF16
                                                 : GgmlType::kF32;
    if (!type_) return own;
    if (plain_dtype(*type_)) return *type_;
    if (mllm_types_ && name == kTable) return GgmlType::kQ4_0;
    const auto interleaving = interleaving_of(*type_);
    const bool is_matrix = shape.size() == 2 && shape[1] % ggml_info(*type_).block_elements == 0 &&
                           (!interleaving || shape[0] % interleaving->rows == 0) &&
                           name.find("norm") == std::string::npos && name.ends_with(".weight");
    return is_matrix ? *type_ : GgmlType::kF32;
  }

  std::vector<std::byte> encode(const std::string& name, const Shape& shape, GgmlType type) const {
    if (interleaving_of(type))
      return interleave_rows(type, encode(name, shape, GgmlType::kQ4_0), shape[1]);
    const FloatRows source(checkpoint_, name, shape);
    const GgmlTypeInfo format = ggml_info(type);
    std::vector<std::byte> bytes(static_cast<std::size_t>(*checked_ggml_bytes(type, shape)));
    std::size_t at = 0;
    for (std::int64_t row = 0; row < source.rows(); row += source.rows_at_once()) {
      const std::vector<float> values =
          source.read(row, std::min(source.rows_at_once(), source.rows() - row));
      const auto size = values.size() / static_cast<std::size_t>(format.block_elements) *
                        static_cast<std::size_t>(format.block_bytes);
      quantize_blocks(type, values, std::span(bytes).subspan(at, size), name);
      at += size;
    }
    return bytes;
  }

  const Checkpoint& checkpoint_;
  const std::optional<GgmlType> type_;
  std::map<std::string, Shape> contents_;
  // Whether Linears are in mllm's int8, whose parts it reads by their names.
  const bool is_in_parts_;
  bool mllm_types_ = false;
  Observer& observer_;
};

// The suffix of the format that the output's name asks for; empty for a folder, in whose name a dot
// is part of a version. Throws kInvalidArgument for a file that can't be written.
std::string format_of(const fs::path& output) {
  std::string suffix = output.extension().string();
  for (char& c : suffix) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  const bool written = suffix == ".gguf" || suffix == ".mllm" || suffix == ".safetensors";
  std::error_code ignored;
  if (written && fs::is_directory(output, ignored))
    fail(ErrorCode::kInvalidArgument, "[convert] {}: is a folder: choose another name",
         output.string());
  if (written) return suffix;
  constexpr std::array kOtherFiles = {".bin",  ".pt",  ".pth", ".ckpt", ".onnx", ".npz",
                                      ".json", ".txt", ".zip", ".ggml", ".h5",   ".msgpack"};
  if (std::ranges::find(kOtherFiles, suffix) != kOtherFiles.end())
    fail(ErrorCode::kInvalidArgument,
         "[convert] --output_model: expected a name that ends in .gguf, .mllm or .safetensors, or "
         "a folder, got \"{}\"",
         output.string());
  return {};
}

// The size of the input's weight files.
std::int64_t weight_bytes(const Checkpoint& checkpoint) {
  std::int64_t sum = 0;
  for (const fs::path& file : checkpoint.weight_files())
    sum += static_cast<std::int64_t>(fs::file_size(file));
  return sum;
}

void convert(const ConvertFlags& flags) {
  refuse_standard_stream(flags.input, "input", "a model is mapped into memory");
  refuse_standard_stream(flags.output, "output", "a model is not written from front to end");
  refuse_swapped("convert", flags.input, flags.output);
  catch_interrupt();
  const std::optional<GgmlType> type = find_type(flags.dtype);
  const fs::path output = flags.output;
  TerminalObserver observer;
  Checkpoint checkpoint = Checkpoint::open(flags.input, input_path(flags.config), observer);
  check_kind(flags.type, checkpoint);
  if (checkpoint.is_weight_file(output))
    fail(ErrorCode::kInvalidArgument, "[convert] {}: is the input: choose another name",
         output.string());
  // A tensor of a type that is not read here can be left out, unless the model needs it: then
  // building the graph refuses it by name.
  if (!checkpoint.unread().empty() && !checkpoint.config().empty())
    build_graph(checkpoint.config_object(), CheckpointWeights(checkpoint));
  const std::string suffix = format_of(output);
  const std::set<std::string> wanted = names_in(checkpoint);
  const bool in_blocks = type && !plain_dtype(*type);
  if (!checkpoint.has_shapes() && (suffix != ".mllm" || flags.mllm_version != 1 || in_blocks))
    checkpoint.set_shapes(asked_shapes(checkpoint));
  if (!checkpoint.config().empty()) require_finite(checkpoint, observer);
  Converter converter(checkpoint, type, observer);
  if (flags.mllm_types) converter.use_mllm_types();
  if (suffix == ".gguf") {
    converter.to_gguf(output);
  } else if (suffix == ".mllm") {
    converter.to_mllm(output, flags.mllm_version);
  } else if (suffix == ".safetensors") {
    converter.to_safetensors(output);
  } else {
    converter.to_folder(output);
  }
  warn_of_left_out(wanted, output, checkpoint, observer);
  const Written made = written(output);
  spdlog::info("{} ({} MB) -> {}: {} file{}, {} MB", flags.input,
               megabytes(weight_bytes(checkpoint)), flags.output, made.files,
               made.files == 1 ? "" : "s", megabytes(made.bytes));
  const bool alone = suffix == ".mllm" || suffix == ".safetensors";
  const fs::path folder = fs::absolute(output).parent_path();
  if (!alone || fs::exists(folder / "config.json")) {
    suggest_run(flags.output);
  } else {
    spdlog::info("to run it, put config.json and the tokenizer's files of the model next to it");
  }
}

}  // namespace

void add_convert(CLI::App& app) {
  auto* command = app.add_subcommand(
      "convert",
      "a checkpoint from one file format to another: .gguf, .mllm, .safetensors, folder");
  auto flags = std::make_shared<ConvertFlags>();
  command
      ->add_option("input,--input_model,--input", flags->input,
                   "model folder, or a .safetensors, .pth, .bin, .gguf or .mllm file")
      ->required();
  command
      ->add_option("output,--output_model,--output", flags->output,
                   "what to write: NAME.gguf, NAME.mllm, NAME.safetensors or a new folder")
      ->required();
  command
      ->add_option(
          "--type", flags->type,
          "what the input is (default: told by its content): torch, safetensor, gguf, mllm")
      ->check(CLI::IsMember({"torch", "safetensor", "safetensors", "gguf", "mllm"}));
  command
      ->add_option("--dtype,--outtype", flags->dtype,
                   "f32, f16, bf16, q8_0, q4_0, q4_1, q6_k or q4_k (llama.cpp's Q4_K_S); also, "
                   "for .mllm, q2_k, q3_k, q8_k or q4_0_4_4 (default: f16 for GGUF, f32 for .mllm "
                   "version 1, else as it is)")
      ->type_name(type_names());
  command->add_option("--config", flags->config,
                      "config.json of an input that has none in its folder");
  command->add_option("--mllm_version", flags->mllm_version, "of .mllm files (default: 1)")
      ->check(CLI::IsMember({1, 2}));
  command->add_flag(
      "--mllm_types", flags->mllm_types,
      "types as mllm's quantize chooses them: the embedding in q4_0, a head of its own "
      "(tandem quantize IN.mllm OUT.mllm Q4_K is the same)");
  command->callback([flags] { convert(*flags); });
}

}  // namespace tandem::cli
