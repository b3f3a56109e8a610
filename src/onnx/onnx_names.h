// How the model builder names nodes and tensors after the modules of a checkpoint.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

namespace tandem {

// The nodes that tell attention about the mask.
inline constexpr const char* kMaskNodes = "/model/attn_mask_reformat/attn_mask_subgraph";

// "model.layers.3.self_attn.q_proj" -> "/model/layers.3/attn/q_proj".
inline std::string onnx_path(std::string_view module) {
  std::string path = "/";
  for (std::size_t i = 0; i < module.size(); ++i) {
    const bool in_front_of_number =
        i + 1 < module.size() && module[i + 1] >= '0' && module[i + 1] <= '9';
    path += module[i] == '.' && !in_front_of_number ? '/' : module[i];
  }
  constexpr std::string_view kOwn = "/self_attn", kTheirs = "/attn";
  if (const auto found = path.find(kOwn); found != std::string::npos)
    path.replace(found, kOwn.size(), kTheirs);
  return path;
}

// The node's part of the model: "/model/layers.3/mlp/act_fn" -> "/model/layers.3/mlp".
inline std::string onnx_parent(const std::string& path) { return path.substr(0, path.rfind('/')); }

// "/model/layers.3/attn/q_proj/MatMul" -> "model.layers.3.attn.q_proj.MatMul".
inline std::string onnx_tensor(std::string_view path) {
  std::string name(path.substr(1));
  std::ranges::replace(name, '/', '.');
  return name;
}

}  // namespace tandem
