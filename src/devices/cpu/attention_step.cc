// Attention: append the new keys and values to the cache, then let each query row attend to what
// lies before it.
#include <algorithm>

#include "devices/cpu/steps.h"

namespace tandem {
namespace {

// Query rows that one task takes: enough to share the conversion of a block of keys, few enough to
// balance threads.
constexpr std::int64_t kRowsPerTask = 16;

class AttentionStep : public Step {
 public:
  AttentionStep(const StepContext& context, NodeId id)
      : kernels_(context.kernels), scratch_(context.scratch), node_(context.graph.node(id)) {
    const auto& attention = node_.as<AttentionAttributes>();
    scratch_->reserve_attention(
        context.compile.pool.threads(),
        attention_scratch_floats(attention.heads, attention.kv_heads, attention.head_dim));
  }

  void run(const RunContext& context) override {
    const auto& a = node_.as<AttentionAttributes>();
    append(context, a);
    const int threads = context.pool.threads();
    context.pool.run([&](int thread) {
      std::int64_t task = 0;
      for (const SequenceSlice& slice : context.slices) {
        for (std::int64_t row = 0; row < slice.rows; row += kRowsPerTask) {
          for (std::int64_t head = 0; head < a.kv_heads; ++head, ++task) {
            if (task % threads != thread) continue;
            attend(context, a, slice, head, {row, std::min(row + kRowsPerTask, slice.rows)},
                   thread);
          }
        }
      }
    });
  }

 private:
  const float* value(const RunContext& context, int input) const {
    return context.values[static_cast<std::size_t>(node_.inputs[static_cast<std::size_t>(input)])];
  }

  void append(const RunContext& context, const AttentionAttributes& a) const {
    const std::int64_t width = a.kv_heads * a.head_dim;
    for (const SequenceSlice& slice : context.slices) {
      const auto& blocks = slice.kv_blocks[static_cast<std::size_t>(node_.layer)];
      const auto store = [&](Range range) {
        for (std::int64_t r = range.begin; r < range.end; ++r) {
          const std::int64_t position = slice.position + r;
          const std::int64_t row = slice.first_row + r;
          kernels_.store_kv(value(context, 1) + row * width, value(context, 2) + row * width,
                            a.kv_heads, a.head_dim, position % kKvBlockTokens,
                            blocks[static_cast<std::size_t>(position / kKvBlockTokens)],
                            slice.kv_dtype);
        }
      };
      if (slice.rows == 1) {
        store({0, 1});
      } else {
        context.pool.parallel_for(slice.rows, 1, store);
      }
    }
  }

  void attend(const RunContext& context, const AttentionAttributes& a, const SequenceSlice& slice,
              std::int64_t head, Range rows, int thread) const {
    const std::int64_t width = a.heads * a.head_dim;
    AttentionArgs args;
    args.q = value(context, 0) + slice.first_row * width;
    args.q_stride = width;
    args.out = context.values[static_cast<std::size_t>(node_.output)] + slice.first_row * width;
    args.out_stride = width;
    args.first_position = slice.position;
    args.heads = a.heads;
    args.kv_heads = a.kv_heads;
    args.head_dim = a.head_dim;
    args.scale = a.scale;
    args.window = a.window;
    args.softcap = a.softcap;
    args.blocks = slice.kv_blocks[static_cast<std::size_t>(node_.layer)].data();
    args.kv_dtype = slice.kv_dtype;
    kernels_.attention(args, head, rows, scratch_->attention(thread));
  }

  const Kernels& kernels_;
  std::shared_ptr<Scratch> scratch_;
  const Node& node_;
};

}  // namespace

std::unique_ptr<Step> make_attention_step(const StepContext& context, NodeId node) {
  return std::make_unique<AttentionStep>(context, node);
}

}  // namespace tandem
