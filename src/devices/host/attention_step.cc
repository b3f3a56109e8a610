// Attention: appends the new keys and values to the cache, then each query row attends to the
// tokens up to its own.
#include <algorithm>

#include "base/error.h"
#include "devices/host/steps.h"

namespace tandem {
namespace {

// Query rows per task: enough to amortise converting a block of keys, few enough to balance the
// threads.
constexpr std::int64_t kRowsPerTask = 16;

class AttentionStep : public Step {
 public:
  AttentionStep(const StepContext& context, NodeId id)
      : kernels_(context.kernels), threads_(context.compile.pool.threads()) {
    const Node& node = context.segment.node(id);
    attention_ = node.as<AttentionAttributes>();
    layer_ = node.layer;
    q_ = node.inputs[0];
    k_ = node.inputs[1];
    v_ = node.inputs[2];
    output_ = node.output();
    thread_bytes_ = align_up(
        attention_scratch_floats(attention_.heads, attention_.kv_heads, attention_.head_dim) * 4);
  }

  void run(const StepRun& run) const override {
    for (const SequenceSlice& slice : run.slices()) {
      require_cache(slice.kv.dtype);
      if (!slice.parents.empty())
        fail(
            ErrorCode::kUnsupported,
            "[attention] a tree of drafts: expected an attention on the NPU, which is that of mode "
            "npu with an int8 cache");
    }
    append(run);
    const int threads = run.pool().threads();
    run.pool().run([&](int thread) {
      std::int64_t task = 0;
      for (const SequenceSlice& slice : run.slices()) {
        for (std::int64_t row = 0; row < slice.rows; row += kRowsPerTask) {
          for (std::int64_t head = 0; head < attention_.kv_heads; ++head, ++task) {
            if (task % threads != thread) continue;
            attend(run, slice, head, {row, std::min(row + kRowsPerTask, slice.rows)}, thread);
          }
        }
      }
    });
  }

  std::int64_t scratch_bytes() const override { return threads_ * thread_bytes_; }

 private:
  void require_cache(DType dtype) const {
    if (dtype == DType::kF16 || dtype == DType::kF32) return;
    if (dtype != DType::kI8)
      fail(ErrorCode::kUnsupported, "[attention] a cache in {}: expected F16, F32 or I8",
           to_string(dtype));
    if (!attention_.has_kv_scales())
      fail(ErrorCode::kUnsupported, "[attention] an int8 cache in layer {}: has no scales", layer_);
  }

  // Null where the cache holds floats.
  KvScales scales(DType dtype) const {
    if (dtype != DType::kI8) return {};
    return {attention_.k_scales.as<float>().data(), attention_.v_scales.as<float>().data()};
  }

  void append(const StepRun& run) const {
    const std::int64_t width = attention_.kv_heads * attention_.head_dim;
    const float* k = run.value<float>(k_);
    const float* v = run.value<float>(v_);
    for (const SequenceSlice& slice : run.slices()) {
      const auto store = [&](Range range) {
        for (std::int64_t r = range.begin; r < range.end; ++r) {
          const std::int64_t position = slice.position + r;
          const std::int64_t row = slice.first_row + r;
          std::byte* block = slice.kv.blocks[static_cast<std::size_t>(position / kKvBlockTokens)];
          kernels_.store_kv(k + row * width, v + row * width, attention_.kv_heads,
                            attention_.head_dim, position % kKvBlockTokens,
                            block + layer_ * slice.kv.layer_bytes, slice.kv.dtype,
                            scales(slice.kv.dtype));
        }
      };
      if (slice.rows == 1) {
        store({0, 1});
      } else {
        run.pool().parallel_for(slice.rows, 1, store);
      }
    }
  }

  void attend(const StepRun& run, const SequenceSlice& slice, std::int64_t head, Range rows,
              int thread) const {
    const std::int64_t width = attention_.heads * attention_.head_dim;
    AttentionArgs args;
    args.q = run.value<float>(q_) + slice.first_row * width;
    args.q_stride = width;
    args.out = run.value<float>(output_) + slice.first_row * width;
    args.out_stride = width;
    args.first_position = slice.position;
    args.heads = attention_.heads;
    args.kv_heads = attention_.kv_heads;
    args.head_dim = attention_.head_dim;
    args.scale = attention_.scale;
    args.window = attention_.window;
    args.softcap = attention_.softcap;
    args.blocks = slice.kv.blocks.data();
    args.block_offset = layer_ * slice.kv.layer_bytes;
    args.kv_dtype = slice.kv.dtype;
    args.kv_scales = scales(slice.kv.dtype);
    kernels_.attention(args, head, rows,
                       reinterpret_cast<float*>(run.scratch<std::byte>() + thread * thread_bytes_));
  }

  const Kernels& kernels_;
  int threads_;
  AttentionAttributes attention_;
  std::int64_t layer_ = 0;
  ValueId q_ = -1, k_ = -1, v_ = -1, output_ = -1;
  std::int64_t thread_bytes_ = 0;
};

}  // namespace

std::unique_ptr<Step> make_attention_step(const StepContext& context, NodeId node) {
  return std::make_unique<AttentionStep>(context, node);
}

}  // namespace tandem
