// The configuration that mllm's tools for Qualcomm's NPU share: one JSON file with two sections,
// what is profiled and what is exported.
//
//   {
//     "profile_config": {
//       "dataset_path": "TEXT", "output_path": "DISTRIBUTION.json", "num_samples": 2, "no_bias": true,
//       "model_config": {"model_type": "qwen2", "tokenizer_name": "MODEL", "model_name": "MODEL",
//                        "online_rotation": true, "random_rotate": true, "save_rotation": "R.bin"}
//     },
//     "export_config": {
//       "scale_file": "DISTRIBUTION.json", "output_model": "INT8.bin", "t01m_clip_threshold": 64,
//       "quant_bias": false,
//       "model_config": {"model_type": "qwen2", "tokenizer_name": "MODEL", "model_name": "MODEL",
//                        "online_rotation": true, "R_path": "R.bin"}
//     }
//   }
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/files.h"

namespace tandem {

struct MllmModelConfig {
  // Of the checkpoint's config.json.
  std::string model_type;
  fs::path tokenizer_name;
  fs::path model_name;
  // Whether the checkpoint is rotated once it is loaded, by random matrices or by those of a file.
  bool online_rotation = false;
  bool random_rotate = false;
  // Where random matrices are kept; empty: nowhere.
  fs::path save_rotation;
  // Of a file; mllm's default is ./R.bin.
  fs::path r_path;
  // Linears whose scales follow the 99.9th percentile whatever their largest value is.
  std::vector<std::string> skip_layers;
};

struct MllmProfileConfig {
  // JSON lines with a "text" each, or a folder with val.jsonl.zst, val.jsonl or another such file.
  fs::path dataset_path;
  fs::path output_path;
  std::int64_t num_samples = 0;
  // Whether outputs are seen without their bias.
  bool no_bias = false;
  MllmModelConfig model;
};

struct MllmExportConfig {
  fs::path scale_file;
  fs::path output_model;
  // How many times the 99.9th percentile the largest value may be for the scale to reach it.
  std::optional<std::int64_t> clip_threshold;
  // Whether biases become codes, too.
  bool quant_bias = false;
  // Whether every scale reaches the largest value.
  bool clip_all = false;
  MllmModelConfig model;

  // As decide_clip() takes it.
  double threshold() const {
    return clip_all ? 0 : static_cast<double>(clip_threshold.value_or(0));
  }
};

struct MllmConfig {
  MllmProfileConfig profile;
  MllmExportConfig export_model;
};

// Throws kFormat, naming file, line and key, for what mllm's own check refuses: a key of the two
// sections that is unknown or missing, sections that name different models, a rotation with biases
// in the statistics or in codes, random matrices beside R_path. Keys of model_config that mean
// nothing here are accepted, as mllm does.
MllmConfig read_mllm_config(const fs::path& path);

}  // namespace tandem
