// A LoRA adapter for tests to write, and to spoil before.
#pragma once

#include <map>
#include <random>
#include <string>
#include <vector>

#include "base/json.h"
#include "checkpoint/safetensors.h"
#include "support.h"

namespace tandem::testing {

inline Tensor random_tensor(const Shape& shape, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(-0.1F, 0.1F);
  std::vector<float> values(static_cast<std::size_t>(element_count(shape)));
  for (float& value : values) value = uniform(random);
  return Tensor::from_floats(values, shape);
}

struct AdapterFiles {
  Json config = {{"peft_type", "LORA"}, {"r", 2}, {"lora_alpha", 3}};
  // By name, without "base_model.model.".
  std::map<std::string, Tensor> tensors;

  // Random factors for the weight [n, k] of `module`.
  void add(const std::string& module, std::int64_t n, std::int64_t k, std::int64_t rank = 2) {
    const auto seed = static_cast<unsigned>(tensors.size());
    tensors[module + ".lora_A.weight"] = random_tensor({rank, k}, seed + 1);
    tensors[module + ".lora_B.weight"] = random_tensor({n, rank}, seed + 2);
  }

  void write(const fs::path& folder) const {
    fs::create_directories(folder);
    write_text_file(folder / "adapter_config.json", config.dump());
    std::map<std::string, Tensor> named;
    for (const auto& [name, tensor] : tensors) named["base_model.model." + name] = tensor;
    write_safetensors(folder / "adapter_model.safetensors", named);
  }
};

}  // namespace tandem::testing
