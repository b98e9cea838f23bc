// The pass along the mask's last axis. A warp owns 512 voxels of one line, or several shorter
// lines; each thread counts through its own strip of 16, once the warp has exchanged what lies
// before and after. A longer line is swept from its end first, which leaves, at the beginning of
// each part of 512, what the part before it must know.
#include <type_traits>

#include "cuda.cuh"
#include "distance_transform/cuda/bits.cuh"
#include "distance_transform/cuda/launch.h"

namespace segloss::distance_transform::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kPart = kLanes * kStrip;  // voxels of a warp

// Run lengths of the strip's voxels, positive inside; garbage where the line has ended.
template <int kNone>
__device__ void count_runs(const Strips& strips, Ends before, Ends after, int (&run)[kStrip]) {
  unsigned bits = strips.inside;
  const int last = strips.count - 1;
  // What follows the last voxel counts as its like, so that it is as far from `after` as it is.
  if (last >= 0 && (bits >> last & 1) != 0) bits |= ~0u << last;
  int length = strips.begin - ((bits & 1) != 0 ? before.outside : before.inside);
  run[0] = length;
#pragma unroll
  for (int i = 1; i < kStrip; ++i) {
    length = ((bits >> i ^ bits >> (i - 1)) & 1) != 0 ? 1 : length + 1;
    run[i] = length;
  }
  const int end = strips.begin + kStrip - 1;
  length = ((bits >> (kStrip - 1) & 1) != 0 ? after.outside : after.inside) - end;
#pragma unroll
  for (int i = kStrip - 1; i >= 0; --i) {
    if (i < kStrip - 1) length = ((bits >> i ^ bits >> (i + 1)) & 1) != 0 ? 1 : length + 1;
    const int nearest = min(min(run[i], length), kNone);
    run[i] = (bits >> i & 1) != 0 ? nearest : -nearest;
  }
}

// Four bytes of the output.
template <class Out>
__device__ unsigned packed(const int (&run)[kStrip], int word, const RunPass& p) {
  if constexpr (sizeof(Out) == 2) {
    return (unsigned(run[2 * word]) & 0xffffu) | unsigned(run[2 * word + 1]) << 16;
  } else if constexpr (std::is_same_v<Out, float>) {
    float square[1] = {signed_square<int>(run[word], p.weight)};
    if (!p.finish.two_sided) square[0] = fmaxf(square[0], 0.0f);
    finish_squares(square, p.finish);
    return __float_as_uint(square[0]);
  } else {
    return unsigned(run[word]);
  }
}

template <class Out>
__device__ void store_vectors(Out* to, const int (&run)[kStrip], int count, const RunPass& p) {
  constexpr int kPerVector = 16 / sizeof(Out);
#pragma unroll
  for (int i = 0; i < kStrip / kPerVector; ++i) {
    if (i * kPerVector >= count) break;
    reinterpret_cast<uint4*>(to)[i] =
        make_uint4(packed<Out>(run, 4 * i, p), packed<Out>(run, 4 * i + 1, p),
                   packed<Out>(run, 4 * i + 2, p), packed<Out>(run, 4 * i + 3, p));
  }
}

// Through shared memory, so that neighbouring threads store neighbouring voxels.
template <class Out>
__device__ void store_elements(Out* to, int64_t lines, int begin, const int (&run)[kStrip],
                               const RunPass& p) {
  const int lane = int(threadIdx.x % kLanes), pitch = kStrip << p.log_lanes;
  Out* const staged = reinterpret_cast<Out*>(dynamic_shared()) + threadIdx.x / kLanes * kPart;
  store_vectors<Out>(staged + lane * kStrip, run, kStrip, p);
  __syncwarp();
  const int count = min(p.width - begin, pitch);
  for (int line = 0; line < min(int64_t(kLanes >> p.log_lanes), lines); ++line) {
    Out* const row = to + line * int64_t(p.width) + begin;
    for (int x = lane; x < count; x += kLanes) row[x] = staged[line * pitch + x];
  }
  __syncwarp();
}

// A position, in an element of the output that its own result will replace.
template <class Out>
__device__ Out encoded(int position) {
  if constexpr (std::is_same_v<Out, float>) return __int_as_float(position);
  return Out(min(position, kNoRun<Out>));
}
template <class Out>
__device__ int decoded(Out element) {
  if constexpr (std::is_same_v<Out, float>) return __float_as_int(element);
  return element == kNoRun<Out> ? kFarAfter : int(element);
}

template <class T, class Out>
__global__ void __launch_bounds__(kWarps* kLanes) runs_kernel(const __grid_constant__ RunPass p) {
  const int lane = int(threadIdx.x % kLanes), sub_lane = lane & ((1 << p.log_lanes) - 1);
  const int64_t warp = int64_t(blockIdx.x) * kWarps + threadIdx.x / kLanes;
  const int64_t first_line = warp << (5 - p.log_lanes);
  if (first_line >= p.lines) return;
  const unsigned group =
      p.log_lanes == 5 ? kWarp : ((1u << (1 << p.log_lanes)) - 1) << (lane - sub_lane);
  const int64_t line = first_line + (lane >> p.log_lanes);
  const int64_t offset = line < p.lines ? line_offset(p, line) : 0;
  Out* const out = static_cast<Out*>(p.out) + first_line * p.width;
  Out* const own = out + (lane >> p.log_lanes) * int64_t(p.width);

  const auto strips_at = [&](int begin) {
    const int strip_begin = begin + sub_lane * kStrip;
    unsigned bits = 0;
    if (sizeof(T) == 1 && p.vector_loads) {
      if (line < p.lines && strip_begin < p.width) {
        const auto* const bytes = static_cast<const uint8_t*>(p.mask) + offset + strip_begin;
        bits = strip_of_bytes(reinterpret_cast<const uint4*>(bytes));
      }
    } else {
      bits = strip_by_ballots<T>(p, first_line, offset, begin);
    }
    return Strips(p.complement ? ~bits : bits, strip_begin, line < p.lines ? p.width : 0, group);
  };

  Ends after{kFarAfter, kFarAfter}, before{kFarBefore, kFarBefore};
  for (int begin = (p.width - 1) / kPart * kPart; begin > 0; begin -= kPart) {
    after = strips_at(begin).first(kWarp, after);
    if (lane == 0) {
      own[begin - kPart] = encoded<Out>(after.inside);
      own[begin - kPart + 1] = encoded<Out>(after.outside);
    }
  }
  for (int begin = 0; begin < p.width; begin += kPart) {
    after = {kFarAfter, kFarAfter};
    if (begin + kPart < p.width) {
      if (lane == 0) after = {decoded(own[begin]), decoded(own[begin + 1])};
      after = {__shfl_sync(kWarp, after.inside, 0), __shfl_sync(kWarp, after.outside, 0)};
      __syncwarp();  // other lanes write over what the first has read
    }
    const Strips strips = strips_at(begin);
    int run[kStrip];
    count_runs<kNoRun<Out>>(strips, strips.last((1u << lane) - 1, before),
                            strips.first(~1u << lane, after), run);
    if (!p.vector_stores) {
      store_elements<Out>(out, p.lines - first_line, begin, run, p);
    } else if (strips.count > 0) {
      store_vectors<Out>(own + strips.begin, run, strips.count, p);
    }
    before = strips.last(kWarp, before);
  }
}

template <class T, class Out>
void launch_typed(const RunPass& pass, cudaStream_t stream) {
  const int64_t lines_per_block = int64_t(kWarps) << (5 - pass.log_lanes);
  const int64_t blocks = (pass.lines + lines_per_block - 1) / lines_per_block;
  STD_TORCH_CHECK(blocks <= std::numeric_limits<int32_t>::max(),
                  "distance_transform: more lines than a grid has blocks for");
  const size_t shared = pass.vector_stores ? 0 : kWarps * kPart * sizeof(Out);
  launch({unsigned(blocks), kWarps * kLanes, shared, stream}, runs_kernel<T, Out>, pass);
}

template <class T>
void launch_from(const RunPass& pass, Number out, cudaStream_t stream) {
  if (out == Number::kInt16) return launch_typed<T, int16_t>(pass, stream);
  if (out == Number::kInt32) return launch_typed<T, int32_t>(pass, stream);
  launch_typed<T, float>(pass, stream);
}

}  // namespace

void launch_runs(const RunPass& pass, Number out, cudaStream_t stream) {
  if (pass.element_size == 1) return launch_from<uint8_t>(pass, out, stream);
  if (pass.element_size == 2) return launch_from<uint16_t>(pass, out, stream);
  if (pass.element_size == 4) return launch_from<uint32_t>(pass, out, stream);
  launch_from<uint64_t>(pass, out, stream);
}

}  // namespace segloss::distance_transform::cuda
