// Rotations: channels are mixed by orthogonal matrices so that no single one has outliers, and the
// weights around them undo it, so that the graph computes what it did. The names are SpinQuant's
// (Liu et al. 2024): R1 turns the residual stream, R2 the values of each layer's attention, both
// folded into weights; R3 turns queries and keys behind the rotary embedding and R4 what the last
// Linear of an MLP reads, both with a Hadamard operator in the graph.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "base/files.h"
#include "graph/graph.h"
#include "quantize/weight_sink.h"
#include "tensor/rotation.h"

namespace tandem {

enum class RotationKind : std::uint8_t {
  kNone,
  // A Hadamard matrix with random signs.
  kHadamard,
  // Uniformly distributed.
  kRandom,
  // What gradient descent makes of a Hadamard matrix (learn_rotations.h).
  kLearned,
};

struct RotateSettings {
  RotationKind r1 = RotationKind::kHadamard;
  RotationKind r2 = RotationKind::kHadamard;
  bool r3 = false;
  bool r4 = true;
  // Columns that R4 mixes, which must divide the width; 0: all, or, of a width whose largest odd
  // divisor d is above 256, as many as leave the largest divisor of d up to there.
  std::int64_t r4_block = 0;
  std::uint64_t seed = 0;
  // Of learning: how often each rotation is turned, and by about how much at first, at most 1.
  std::int64_t steps = 100;
  double learning_rate = 1;
};

struct Rotations {
  std::optional<Rotation> r1;
  // By layer; layers without one keep their values.
  std::map<std::int32_t, Rotation> r2;
};

// R1 and R2 for a graph, made at random; what is to be learned begins as a Hadamard matrix.
Rotations make_rotations(const Graph& graph, const RotateSettings& settings);

// From a safetensors file or one of torch.save: "R1" and "model.layers.N.self_attn.R2" as SpinQuant
// names them, or "R" and a list "R_v" as mllm does; float matrices of any type. Throws kFormat
// naming file and tensor for anything else or what is not orthogonal.
Rotations read_rotations(const fs::path& path);

// Writes R1 and R2 where read_rotations() finds them: as safetensors for NAME.safetensors, F32 by
// SpinQuant's names, else as mllm does, by torch.save, F64. Throws kInvalidArgument where mllm has
// no place for layers without R2 among others.
void write_rotations(const fs::path& path, const Rotations& rotations);

// The rotated graph: untied, its norms folded, R1 and R2 in embeddings, weights and biases, R3 and
// R4 as operators where `settings` asks for them. Weights are computed when they are read; the
// embedding's table goes to the sink. R2 and R4 leave a layer alone whose values or products are
// read by anything but one float Linear. Throws kInvalidArgument, naming the node, for a rotation
// that does not fit and for a residual stream that can't be rotated.
Graph rotate(const Graph& graph, const Rotations& rotations, const RotateSettings& settings,
             WeightSink& sink);

}  // namespace tandem
