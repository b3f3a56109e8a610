// genai_config.json, the configuration of ONNX Runtime GenAI.
#pragma once

#include "base/json.h"
#include "graph/model_info.h"

namespace tandem {

// The keys that ONNX Runtime GenAI reads; search defaults come from generation_config.json (an
// empty object if the checkpoint has none).
OrderedJson make_genai_config(const ModelInfo& info, const Json& generation_config);

}  // namespace tandem
