// A Linear's weight in the layout of the kernels, and the scratch memory that its quantized input
// needs.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "devices/device.h"
#include "kernels/kernels.h"

namespace tandem {

// Input channels of an int8 Linear, at most: beyond, an int32 sum might not be exact.
inline constexpr std::int64_t kMaxInt8K = 65536;

// Why no device here can run this static int8 weight; empty if one can.
std::string why_not_static(const Int8Channels& weight);

struct PackedLinear {
  PanelLayout layout;
  Tensor panels;          // layout.bytes(), 64-byte aligned
  Tensor bias;            // F32 [n] or empty
  float input_scale = 0;  // int8: static scale of the input
  ValueId output = -1;
};

// Packs the weight of a Linear node, or takes it from the cache under the hash of its content.
PackedLinear pack_linear(const Node& node, const CompileContext& context);

// Bytes from one row of int8 activations to the next: an odd number of cache lines, since rows a
// power of two apart would fall into the same few sets of the cache.
constexpr std::int64_t code_stride(std::int64_t k) noexcept {
  const std::int64_t bytes = padded_k(k);
  return bytes / 64 % 2 == 0 ? bytes + 64 : bytes;
}

// Memory that programs of one device share, since they run one after the other: quantized
// activations, and a region per thread for attention. Grows while programs are compiled, never
// while they run.
class Scratch {
 public:
  void reserve_rows(std::int64_t rows, std::int64_t k, std::int64_t groups);
  void reserve_attention(int threads, std::int64_t floats);

  std::int8_t* codes() noexcept { return codes_.get<std::int8_t>(); }
  float* scales() noexcept { return scales_.get<float>(); }
  std::int32_t* sums() noexcept { return sums_.get<std::int32_t>(); }
  float* attention(int thread) noexcept {
    return attention_.get<float>() + thread * attention_floats_;
  }

 private:
  struct Region {
    Tensor memory;
    std::byte* data = nullptr;
    void reserve(std::int64_t bytes);
    template <typename T>
    T* get() noexcept {
      return reinterpret_cast<T*>(data);
    }
  };
  Region codes_, scales_, sums_, attention_;
  std::int64_t attention_floats_ = 0;
};

// Runs `linears`, which share an int8 input, over `rows` rows whose static codes lie in `input`:
// all their panels are split over the threads as one list.
void run_int8_linears(const Kernels& kernels, std::span<const PackedLinear> linears,
                      const StaticInt8Rows& input, std::int64_t rows, const RunContext& context);

// Splits the panels of several linears over the pool's threads: body(linear, range of its panels).
template <typename Body>
void for_each_panel(ThreadPool& pool, std::span<const PackedLinear> linears, Body&& body) {
  std::int64_t total = 0;
  for (const PackedLinear& linear : linears) total += linear.layout.panels();
  pool.parallel_for(total, 1, [&](Range range) {
    std::int64_t first = 0;
    for (const PackedLinear& linear : linears) {
      const std::int64_t last = first + linear.layout.panels();
      const Range part{std::max(range.begin, first) - first, std::min(range.end, last) - first};
      if (part.size() > 0) body(linear, part);
      first = last;
    }
  });
}

}  // namespace tandem
