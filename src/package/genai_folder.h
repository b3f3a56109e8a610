// A folder that ONNX Runtime GenAI runs: model.onnx and its data, genai_config.json, and the tokenizer.
#pragma once

#include <string>

#include "base/files.h"
#include "base/json.h"
#include "base/observer.h"
#include "graph/graph.h"
#include "graph/model_info.h"
#include "onnx/export_model.h"

namespace tandem {

struct GenaiContents {
  // Of the phase that the folder is for: prompts and answers are read and written with one graph.
  const Graph& graph;
  const ModelInfo& info;
  // The package or checkpoint that it is from: its tokenizer and chat template are copied, and its
  // generation_config.json recommends the search.
  fs::path source;
};

// Fills an empty folder. Throws and reports as export_model().
OnnxReport write_genai_folder(const fs::path& folder, const GenaiContents& contents,
                              const OnnxOptions& options, Observer& observer);

// Why a folder cannot have been written by write_genai_folder(); empty if it may have been.
std::string objection_to_genai_folder(const fs::path& folder);

}  // namespace tandem
