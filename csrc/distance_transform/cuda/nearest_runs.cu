// The pass of nearest_component along the last axis: each voxel's nearest labelled one on its line.
// A warp owns 16 words of 32 voxels, of one line or of several shorter ones, and goes through them
// forwards and backwards: a ballot shows where the labelled voxels of a word are. A longer line is
// swept from its end first, which leaves, at the beginning of each part of 512 voxels, what the
// part before it must know.
#include "cuda.cuh"
#include "distance_transform/cuda/bits.cuh"
#include "distance_transform/cuda/launch.h"

namespace segloss::distance_transform::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kWords = kStrip;
constexpr int kPart = kLanes * kWords;  // voxels of a warp

// A labelled voxel; beyond any line if there is none.
struct Source {
  int place;
  unsigned label;
};

// The words of a warp. A line has 1 << log_words of them, or is longer than a warp's.
struct Words {
  const RunPass& pass;
  int lane;
  int log_words;
  int64_t first_line;
  int64_t offset;  // of the lane's line, of the 32 >> log_lanes that exist

  __device__ int place(int begin, int word) const {
    return begin + (word & ((1 << log_words) - 1)) * kLanes;
  }
  __device__ int64_t line(int word) const { return first_line + (word >> log_words); }
  __device__ bool starts_line(int word) const { return (word & ((1 << log_words) - 1)) == 0; }
  __device__ bool ends_line(int word) const { return starts_line(word + 1); }

  // Whether the lane's voxel of a word exists.
  __device__ bool exists(int begin, int word) const {
    return place(begin, word) + lane < pass.width && line(word) < pass.lines;
  }

  // Returns the label of one, 0 for what is none.
  template <class T>
  __device__ unsigned load(int begin, int word) const {
    const int64_t start = __shfl_sync(kWarp, offset, (word >> log_words) << pass.log_lanes);
    if (!exists(begin, word)) return 0;
    const auto* const from = static_cast<const T*>(pass.mask) + start;
    const T value = from[(place(begin, word) + lane) * pass.step];
    return value <= T(pass.nearest.largest) ? unsigned(value) : 0u;
  }
};

// The last labelled voxel up to the lane's one, and the first one from there on.
__device__ Source last_before(unsigned label, unsigned labelled, int place, int lane, Source met) {
  const unsigned upto = labelled & (kWarp >> (kLanes - 1 - lane));
  const int source = upto != 0 ? 31 - __clz(int(upto)) : 0;
  const unsigned found = __shfl_sync(kWarp, label, source);
  return upto != 0 ? Source{place + source, found} : met;
}
__device__ Source first_behind(unsigned label, unsigned labelled, int place, int lane, Source met) {
  const unsigned from = labelled & (kWarp << lane);
  const int source = from != 0 ? __ffs(int(from)) - 1 : 0;
  const unsigned found = __shfl_sync(kWarp, label, source);
  return from != 0 ? Source{place + source, found} : met;
}

__device__ Source of_lane(Source source, int lane) {
  return {__shfl_sync(kWarp, source.place, lane), __shfl_sync(kWarp, source.label, lane)};
}

// Writes a voxel's nearest labelled one: as passes along other axes take it, or the result.
__device__ void write(const RunPass& p, int64_t at, int away, unsigned label) {
  const NearestPass& n = p.nearest;
  const bool known = away <= p.width;
  if (n.bits > 0) {
    n.label[at] = known ? unsigned(away) * unsigned(away) * n.key_weight | label : n.unreached;
    return;
  }
  n.label[at] = label;
  if (n.square == nullptr) return;
  const float length = float(away), square = known ? length * length * p.weight : INFINITY;
  n.square[at] = p.finish.last ? square_root(square) * n.unit : square;
}

// The nearest ones in a part of a line, or in several lines. Returns the last one for the part that
// follows.
template <class T>
__device__ Source find_nearest(const Words& words, int begin, Source before, Source after) {
  const RunPass& p = words.pass;
  unsigned label[kWords], labelled[kWords];
  Source left[kWords];
  bool is_above = false;
#pragma unroll
  for (int word = 0; word < kWords; ++word) {
    label[word] = words.load<T>(begin, word);
    is_above = is_above || label[word] > p.nearest.limit;
  }
  if (p.nearest.above != nullptr && is_above) atomicOr(p.nearest.above, 1);
  Source met = before;
#pragma unroll
  for (int word = 0; word < kWords; ++word) {
    if (words.starts_line(word)) met = before;
    labelled[word] = __ballot_sync(kWarp, label[word] != 0);
    left[word] =
        last_before(label[word], labelled[word], words.place(begin, word), words.lane, met);
    met = of_lane(left[word], kLanes - 1);
  }
  const Source last = met;
  met = after;
#pragma unroll
  for (int word = kWords - 1; word >= 0; --word) {
    if (words.ends_line(word)) met = after;
    const int x = words.place(begin, word);
    const Source right = first_behind(label[word], labelled[word], x, words.lane, met);
    met = of_lane(right, 0);
    if (!words.exists(begin, word)) continue;
    const int to_left = x + words.lane - left[word].place, to_right = right.place - x - words.lane;
    const bool nearer =
        to_right < to_left || (to_right == to_left && right.label < left[word].label);
    write(p, words.line(word) * p.width + x + words.lane, nearer ? to_right : to_left,
          nearer ? right.label : left[word].label);
  }
  return last;
}

// The first labelled voxel of a part of a line.
template <class T>
__device__ Source first_in_part(const Words& words, int begin, Source after) {
  Source found = after;
#pragma unroll 4
  for (int word = kWords - 1; word >= 0; --word) {
    const unsigned label = words.load<T>(begin, word);
    const unsigned labelled = __ballot_sync(kWarp, label != 0);
    found = first_behind(label, labelled, words.place(begin, word), 0, found);
  }
  return found;
}

template <class T>
__global__ void __launch_bounds__(kWarps* kLanes)
    nearest_runs_kernel(const __grid_constant__ RunPass p) {
  if (p.nearest.is_skipped()) return;
  const int lane = int(threadIdx.x % kLanes);
  const int64_t warp = int64_t(blockIdx.x) * kWarps + threadIdx.x / kLanes;
  const int64_t first_line = warp << (5 - p.log_lanes);
  if (first_line >= p.lines) return;
  const int64_t line = first_line + (lane >> p.log_lanes);
  const int64_t offset = line < p.lines ? line_offset(p, line) : 0;
  const Words words{p, lane, p.log_lanes - 1, first_line, offset};
  unsigned* const own = p.nearest.label + first_line * p.width;  // of a line longer than a part

  Source after{kFarAfter, 0}, before{kFarBefore, 0};
  for (int begin = (p.width - 1) / kPart * kPart; begin > 0; begin -= kPart) {
    after = first_in_part<T>(words, begin, after);
    if (lane == 0) {
      own[begin - kPart] = unsigned(after.place);
      own[begin - kPart + 1] = after.label;
    }
  }
  for (int begin = 0; begin < p.width; begin += kPart) {
    after = {kFarAfter, 0};
    if (begin + kPart < p.width) {
      if (lane == 0) after = {int(own[begin]), own[begin + 1]};
      after = of_lane(after, 0);
    }
    before = find_nearest<T>(words, begin, before, after);
  }
}

template <class T>
void launch_typed(const RunPass& pass, cudaStream_t stream) {
  const int64_t lines_per_block = int64_t(kWarps) << (5 - pass.log_lanes);
  const int64_t blocks = (pass.lines + lines_per_block - 1) / lines_per_block;
  STD_TORCH_CHECK(blocks <= std::numeric_limits<int32_t>::max(),
                  "nearest_component: more lines than a grid has blocks for");
  launch({unsigned(blocks), kWarps * kLanes, 0, stream}, nearest_runs_kernel<T>, pass);
}

}  // namespace

void launch_nearest_runs(const RunPass& pass, cudaStream_t stream) {
  if (pass.element_size == 1) return launch_typed<uint8_t>(pass, stream);
  if (pass.element_size == 2) return launch_typed<uint16_t>(pass, stream);
  if (pass.element_size == 4) return launch_typed<uint32_t>(pass, stream);
  launch_typed<uint64_t>(pass, stream);
}

}  // namespace segloss::distance_transform::cuda
