// genai_config.json, the configuration of ONNX Runtime GenAI.
#pragma once

#include <string>

#include "base/json.h"
#include "graph/model_info.h"

namespace tandem {

// The model file that it describes.
struct GenaiModel {
  std::string filename = "model.onnx";
  // The execution provider, as on the model builder's command line.
  std::string provider = "cpu";
  // Whether that gets the options that the model builder gives it.
  bool has_provider_options = true;
  // Whether the model has the input position_ids.
  bool position_ids = false;
};

// The keys that ONNX Runtime GenAI reads; search defaults come from generation_config.json (an
// empty object if the checkpoint has none).
OrderedJson make_genai_config(const ModelInfo& info, const Json& generation_config,
                              const GenaiModel& file = {});

}  // namespace tandem
