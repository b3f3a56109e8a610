// A device that calls a function before each of its programs runs.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "devices/device.h"

namespace tandem::testing {

class HookedDevice : public Device {
 public:
  // Given the names of the segment's nodes, each followed by a space. May throw.
  using Hook = std::function<void(const std::string& nodes)>;

  // `device` must outlive this. The hook is the one that is set when a program runs.
  explicit HookedDevice(const Device& device) : device_(device) {}
  void set(Hook hook) { hook_ = std::move(hook); }

  std::string_view name() const noexcept override { return device_.name(); }
  Offer offer(const Graph& graph, const PhaseSpec& spec) const override {
    return device_.offer(graph, spec);
  }
  std::unique_ptr<Program> compile(const Graph& segment,
                                   const CompileContext& context) const override {
    std::string nodes;
    for (const Node& node : segment.nodes()) nodes += node.name + ' ';
    return std::make_unique<Hooked>(device_.compile(segment, context), std::move(nodes), hook_);
  }

 private:
  class Hooked : public Program {
   public:
    Hooked(std::unique_ptr<Program> program, std::string nodes, const Hook& hook)
        : program_(std::move(program)), nodes_(std::move(nodes)), hook_(hook) {}
    const Needs& needs() const noexcept override { return program_->needs(); }
    void run(const RunContext& context) const override {
      if (hook_) hook_(nodes_);
      program_->run(context);
    }

   private:
    std::unique_ptr<Program> program_;
    std::string nodes_;
    const Hook& hook_;
  };

  const Device& device_;
  Hook hook_;
};

}  // namespace tandem::testing
