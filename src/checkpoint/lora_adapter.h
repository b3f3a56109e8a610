// A LoRA adapter as PEFT saves it: adapter_config.json with adapter_model.safetensors or
// adapter_model.bin.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/files.h"
#include "tensor/tensor.h"

namespace tandem {

// What is added to a weight W: W + scale · up · down.
struct LoraProduct {
  // [rows, rank] and [rank, columns] of W.
  Tensor up;
  Tensor down;
  double scale = 0;
  // The L2 norms that the rows of the sum are scaled to; empty unless it is DoRA.
  std::vector<float> norms;
};

// Tensors by the names that they have in the model, all of them F32, F16 or BF16 and finite.
struct LoraAdapter {
  fs::path folder;
  // Of the tensors.
  fs::path file;
  std::map<std::string, LoraProduct> products;
  // What takes the place of a tensor.
  std::map<std::string, Tensor> replaced;
  // What is added to a bias.
  std::map<std::string, std::vector<float>> added;
  // A tied head changes with the table of embeddings.
  bool keeps_ties = false;

  // Opens a folder, or the file of the tensors in one; an adapter that was downloaded from the
  // Hugging Face hub also by its name there. Throws kNotFound, kFormat or kUnsupported, naming the
  // file and the key or tensor.
  static LoraAdapter open(const fs::path& name);
};

}  // namespace tandem
