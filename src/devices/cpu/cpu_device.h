// The CPU as a device: runs every operator, in float, int4 or int8 as the weights say.
#pragma once

#include <memory>
#include <string_view>

#include "devices/device.h"
#include "devices/packed_linear.h"
#include "kernels/kernels.h"

namespace tandem {

class RotaryTables;

class CpuDevice : public Device {
 public:
  explicit CpuDevice(const Kernels& kernels);
  ~CpuDevice() override;

  std::string_view name() const noexcept override { return "cpu"; }
  Support supports(const Graph& graph, const Node& node, Phase phase) const override;
  std::unique_ptr<Program> compile(const Graph& graph, NodeId begin, NodeId end,
                                   const CompileContext& context) const override;

 private:
  const Kernels& kernels_;
  std::shared_ptr<Scratch> scratch_;  // of all programs of this device: they run one at a time
  std::shared_ptr<RotaryTables> rotary_;
};

}  // namespace tandem
