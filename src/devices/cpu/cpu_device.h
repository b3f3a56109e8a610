// The CPU as a device: runs every operator, in float, int4 or int8 depending on weights and values.
#pragma once

#include <memory>
#include <string_view>

#include "devices/device.h"
#include "kernels/kernels.h"

namespace tandem {

class CpuDevice : public Device {
 public:
  // `kernels` must outlive the device and its programs.
  explicit CpuDevice(const Kernels& kernels) : kernels_(kernels) {}

  std::string_view name() const noexcept override { return "cpu"; }
  Offer offer(const Graph& graph, const PhaseSpec& spec) const override;
  std::unique_ptr<Program> compile(const Graph& segment,
                                   const CompileContext& context) const override;

 private:
  const Kernels& kernels_;
};

}  // namespace tandem
