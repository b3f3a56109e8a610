// Attention in integers: quantizes and rotates new queries and keys, appends the codes of keys and
// values to the cache, and attends to what the mask shows.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "devices/host/steps.h"
#include "graph/uses.h"

namespace tandem {
namespace {

constexpr std::int64_t kRowsPerTask = 16;
constexpr std::int32_t kLargestInt16 = 32767;
constexpr std::int32_t kLargestInt8 = 127;
// Of cosines and sines: 1 in int16, with room for YaRN's and LongRoPE's factor.
constexpr float kOne = 16384;

// NaN gives the lowest code. A float has no fraction bits once 1.5 * 2^23 is added: ties go to even.
std::int32_t to_code(float scaled, std::int32_t most) {
  constexpr float kShift = 12582912.0F;
  const auto limit = static_cast<float>(most);
  const float above = scaled > -limit ? scaled : -limit;
  return static_cast<std::int32_t>((above < limit ? above : limit) + kShift - kShift);
}

// Of q or k: where it comes from, and how its codes are made.
struct Rotated {
  // Before RoPE.
  ValueId value = -1;
  // Null for no rotation.
  ValueId angles = -1;
  std::int64_t rotary_dim = 0;
  std::int64_t heads = 0;
  // Of the int16 codes before RoPE.
  float scale = 0;
  // From sums to codes after it, by channel.
  std::vector<FixedMultiplier> multipliers;
};

class IntAttentionStep : public Step {
 public:
  IntAttentionStep(const StepContext& context, NodeId id)
      : kernels_(context.kernels),
        threads_(context.compile.pool.threads()),
        max_rows_(context.max_rows(kTokens)),
        columns_(context.context) {
    const Node& node = context.segment.node(id);
    attention_ = node.as<AttentionAttributes>();
    layer_ = node.layer;
    v_ = node.inputs[2];
    output_ = node.output();
    const auto scales = attention_.int16_scales.as<float>();
    const auto keys = attention_.k_scales.as<float>();
    q_ = rotated(context.segment, node.inputs[0], attention_.heads, scales[0]);
    k_ = rotated(context.segment, node.inputs[1], attention_.kv_heads, scales[1]);
    const std::int64_t group = attention_.heads / attention_.kv_heads;
    for (std::int64_t c = 0; c < attention_.heads * dim(); ++c) {
      const std::int64_t key = c / dim() / group * dim() + c % dim();
      q_.multipliers.push_back(fixed_multiplier(double{scales[0]} / kOne *
                                                keys[static_cast<std::size_t>(key)] / scales[2]));
    }
    for (const float key : keys)
      k_.multipliers.push_back(fixed_multiplier(double{scales[1]} / kOne / key));
    constexpr double kUnitsOfOctave = 32768;
    octaves_ = fixed_multiplier(double{scales[2]} * attention_.scale * std::log2(std::exp(1.0)) *
                                kUnitsOfOctave);
    row_bytes_ = align_up(attention_.heads * dim() * (4 + 2) + dim() * 2);
    kernel_bytes_ = align_up(
        int_attention_scratch_bytes(attention_.heads, attention_.kv_heads, dim(), columns_));
    queries_bytes_ = align_up(max_rows_ * attention_.heads * dim() * 2);
    first_bytes_ = align_up(max_rows_ * 8);
    visible_bytes_ = align_up(max_rows_ * words(max_rows_) * 8);
  }

  void run(const StepRun& run) const override {
    for (const SequenceSlice& slice : run.slices()) require_fits(slice);
    for (const SequenceSlice& slice : run.slices()) {
      run.pool().run([&](int thread) {
        const Range rows = partition(slice.rows, thread, run.pool().threads());
        for (std::int64_t row = rows.begin; row < rows.end; ++row) append(run, slice, row, thread);
      });
      const AttentionMask mask = mask_of(run, slice);
      const std::int64_t tasks = (slice.rows + kRowsPerTask - 1) / kRowsPerTask;
      run.pool().run([&](int thread) {
        for (std::int64_t task = thread; task < tasks * attention_.kv_heads;
             task += run.pool().threads())
          attend(run, slice, mask, task, thread);
      });
    }
  }

  std::int64_t scratch_bytes() const override {
    return queries_bytes_ + first_bytes_ + visible_bytes_ +
           threads_ * std::max(row_bytes_, kernel_bytes_);
  }

 private:
  static std::int64_t words(std::int64_t rows) noexcept { return (rows + 63) / 64; }
  std::int64_t dim() const noexcept { return attention_.head_dim; }

  static Rotated rotated(const Graph& segment, ValueId value, std::int64_t heads, float scale) {
    const Uses uses(segment);
    const NodeId producer = uses.producer(value);
    Rotated input{.value = value, .heads = heads, .scale = scale};
    if (producer < 0 || segment.node(producer).op != Op::kRotaryEmbedding) return input;
    input.value = segment.node(producer).inputs[0];
    input.angles = segment.node(producer).inputs[1];
    input.rotary_dim = segment.value(input.angles).width;
    return input;
  }

  void require_fits(const SequenceSlice& slice) const {
    if (slice.kv.dtype != DType::kI8)
      fail(ErrorCode::kUnsupported, "[npu] attention with a cache in {}: expected I8",
           to_string(slice.kv.dtype));
    if (slice.position + slice.rows > columns_)
      fail(ErrorCode::kInternal, "[npu] {} tokens in a context of {}", slice.position + slice.rows,
           columns_);
  }

  std::int16_t* queries(const StepRun& run) const noexcept { return run.scratch<std::int16_t>(); }
  std::byte* thread_scratch(const StepRun& run, int thread) const noexcept {
    return run.scratch<std::byte>() + queries_bytes_ + first_bytes_ + visible_bytes_ +
           thread * std::max(row_bytes_, kernel_bytes_);
  }

  // Calls store(channel, code) for all codes of one row. `scratch`: row_bytes_.
  template <typename Store>
  void rotate(const StepRun& run, const Rotated& input, std::int64_t row, std::int32_t most,
              std::byte* scratch, Store&& store) const {
    const std::int64_t width = input.heads * dim();
    const std::int64_t half = input.rotary_dim / 2;
    auto* sums = reinterpret_cast<std::int32_t*>(scratch);
    auto* codes = reinterpret_cast<std::int16_t*>(sums + attention_.heads * dim());
    std::int16_t* angles = codes + attention_.heads * dim();
    const float* x = run.value<float>(input.value) + row * width;
    for (std::int64_t c = 0; c < width; ++c)
      codes[c] = static_cast<std::int16_t>(to_code(x[c] / input.scale, kLargestInt16));
    if (half > 0) {
      const float* given = run.value<float>(input.angles) + row * input.rotary_dim;
      for (std::int64_t i = 0; i < input.rotary_dim; ++i)
        angles[i] = static_cast<std::int16_t>(to_code(given[i] * kOne, kLargestInt16));
    }
    for (std::int64_t h = 0; h < input.heads; ++h) {
      const std::int16_t* head = codes + h * dim();
      std::int32_t* y = sums + h * dim();
      for (std::int64_t i = 0; i < half; ++i) {
        const std::int32_t cosine = angles[i], sine = angles[half + i];
        y[i] = head[i] * cosine - head[half + i] * sine;
        y[half + i] = head[half + i] * cosine + head[i] * sine;
      }
      for (std::int64_t i = 2 * half; i < dim(); ++i)
        y[i] = head[i] * static_cast<std::int32_t>(kOne);
    }
    for (std::int64_t c = 0; c < width; ++c)
      store(c, requantize(sums[c], input.multipliers[static_cast<std::size_t>(c)], most));
  }

  void append(const StepRun& run, const SequenceSlice& slice, std::int64_t slice_row,
              int thread) const {
    const std::int64_t row = slice.first_row + slice_row;
    const std::int64_t column = slice.position + slice_row;
    const std::int64_t slot = column % kKvBlockTokens;
    const std::int64_t width = attention_.kv_heads * dim();
    auto* keys = reinterpret_cast<std::int8_t*>(
        slice.kv.blocks[static_cast<std::size_t>(column / kKvBlockTokens)] +
        layer_ * slice.kv.layer_bytes);
    std::int8_t* values = keys + width * kKvBlockTokens;
    std::byte* scratch = thread_scratch(run, thread);
    std::int16_t* q = queries(run) + row * attention_.heads * dim();
    rotate(run, q_, row, kLargestInt16, scratch,
           [&](std::int64_t c, std::int32_t code) { q[c] = static_cast<std::int16_t>(code); });
    rotate(run, k_, row, kLargestInt8, scratch, [&](std::int64_t c, std::int32_t code) {
      keys[c * kKvBlockTokens + slot] = static_cast<std::int8_t>(code);
    });
    const float* v = run.value<float>(v_) + row * width;
    const auto scales = attention_.v_scales.as<float>();
    for (std::int64_t c = 0; c < width; ++c)
      values[(c / dim() * kKvBlockTokens + slot) * dim() + c % dim()] = static_cast<std::int8_t>(
          to_code(v[c] / scales[static_cast<std::size_t>(c)], kLargestInt8));
  }

  // What each row of the slice attends to.
  AttentionMask mask_of(const StepRun& run, const SequenceSlice& slice) const {
    std::byte* scratch = run.scratch<std::byte>() + queries_bytes_;
    auto* first = reinterpret_cast<std::int64_t*>(scratch);
    auto* visible = reinterpret_cast<std::uint64_t*>(scratch + first_bytes_);
    const std::int64_t window = attention_.window;
    for (std::int64_t row = 0; row < slice.rows; ++row)
      first[row] = window > 0 ? std::max<std::int64_t>(0, slice.position_of(row) - window + 1) : 0;
    if (slice.parents.empty()) return {first};
    const std::int64_t count = words(slice.rows);
    std::fill_n(visible, slice.rows * count, std::uint64_t{0});
    for (std::int64_t row = 0; row < slice.rows; ++row) {
      std::uint64_t* bits = visible + row * count;
      std::int64_t at = row;
      for (std::int64_t steps = 0; at >= 0 && (window == 0 || steps < window); ++steps) {
        bits[at / 64] |= std::uint64_t{1} << (at % 64);
        at = slice.parents[static_cast<std::size_t>(at)];
      }
    }
    return {first, visible, count};
  }

  void attend(const StepRun& run, const SequenceSlice& slice, const AttentionMask& mask,
              std::int64_t task, int thread) const {
    const std::int64_t width = attention_.heads * dim();
    IntAttentionArgs args;
    args.q = queries(run) + slice.first_row * width;
    args.q_stride = width;
    args.out = run.value<float>(output_) + slice.first_row * width;
    args.out_stride = width;
    args.first_position = slice.position;
    args.heads = attention_.heads;
    args.kv_heads = attention_.kv_heads;
    args.head_dim = dim();
    args.mask = mask;
    args.octaves = octaves_;
    args.v_scales = attention_.v_scales.as<float>().data();
    args.blocks = slice.kv.blocks.data();
    args.block_offset = layer_ * slice.kv.layer_bytes;
    const std::int64_t first = task / attention_.kv_heads * kRowsPerTask;
    kernels_.int_attention(args, task % attention_.kv_heads,
                           {first, std::min(first + kRowsPerTask, slice.rows)},
                           thread_scratch(run, thread));
  }

  const Kernels& kernels_;
  int threads_;
  std::int64_t max_rows_;
  // Of the context.
  std::int64_t columns_;
  AttentionAttributes attention_;
  std::int64_t layer_ = 0;
  Rotated q_, k_;
  ValueId v_ = -1, output_ = -1;
  FixedMultiplier octaves_;
  // Of the scratch memory's parts: all queries, the mask, and for each thread a row or a kernel.
  std::int64_t queries_bytes_ = 0, first_bytes_ = 0, visible_bytes_ = 0;
  std::int64_t row_bytes_ = 0, kernel_bytes_ = 0;
};

}  // namespace

std::unique_ptr<Step> make_int_attention_step(const StepContext& context, NodeId node) {
  return std::make_unique<IntAttentionStep>(context, node);
}

}  // namespace tandem
