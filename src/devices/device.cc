#include "devices/device.h"

namespace tandem {

std::string_view to_string(Phase phase) noexcept {
  return phase == Phase::kPrefill ? "prefill" : "decode";
}

Tensor NoPackedCache::get_or_pack(const std::function<std::string()>&, std::int64_t bytes,
                                  const std::function<void(std::byte*)>& pack) {
  std::byte* data = nullptr;
  Tensor memory = Tensor::allocate(DType::kU8, {bytes}, &data);
  pack(data);
  return memory;
}

}  // namespace tandem
