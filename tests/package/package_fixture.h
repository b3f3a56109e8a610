// A small package with graphs that are built by hand: one norm, attention and MLP in each layer.
#pragma once

#include "graph/graph.h"
#include "graph/model_info.h"
#include "package/package_files.h"
#include "package/write_package.h"

namespace tandem::testing {

inline constexpr std::int64_t kTinyVocabulary = 50;
inline constexpr std::int64_t kTinyHidden = 64;
inline constexpr std::int64_t kTinyInner = 128;

// The same weights every time: int4 in groups of 64 for decode, static int8 for prefill; the head
// is the embedding's table in both phases.
struct TinyModel {
  ModelInfo info;
  Graph prefill;
  Graph decode;
};
TinyModel tiny_model();

// A folder with config.json, weights, graphs and manifest; its chunk is 32.
void write_tiny_package(const fs::path& folder);

}  // namespace tandem::testing
