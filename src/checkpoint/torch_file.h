// Checkpoints written by torch.save: .bin, .pth and .pt.
#pragma once

#include <memory>
#include <vector>

#include "base/files.h"
#include "checkpoint/tensor_store.h"

namespace tandem {

// The tensors of a state dict, or of the one stored under "state_dict", "model", "model_state_dict"
// or "module". Reads the zip files of PyTorch 1.6 and later, and the older format. Every view is
// checked against its storage; contiguous tensors are mapped, others are copied when loaded. Tensor
// i of a list or tuple under a name is "NAME.i". Names that begin with "_" and values other than
// these are ignored.
std::shared_ptr<const TensorStore> open_torch_file(const fs::path& path);

bool looks_like_torch_file(std::span<const std::byte> bytes) noexcept;

}  // namespace tandem
