// Forward: each warp works off tiles of voxels, class after class. Neighbouring voxels of one bin
// are added up in registers, then the runs of lanes that have one bin by shuffles, in an order that
// depends on the bins alone; the sums of runs go to the warp's slots.
#include "component_sums/cuda/activations.cuh"
#include "component_sums/cuda/cache.cuh"
#include "component_sums/cuda/launch.h"
#include "cuda.cuh"

namespace segloss::component_sums::cuda {
namespace {

// What the thread's voxels add to the rows of a class.
template <class T>
struct Parts {
  T w[kQuad], p[kQuad], q[kQuad], log[kQuad];
  unsigned inside;

  // The sum of what voxels add to a term, which have a bit each. A product with a target of 0 is
  // NaN where p is.
  SL_DEVICE T sum(Term term, unsigned of) const {
    switch (term) {
      case kTp:
        return add(of, [&](int i, T t) { return p[i] * t; });
      case kPred:
        return add(of, [&](int i, T) { return p[i]; });
      case kTarget:
        return add(of, [&](int, T t) { return t; });
      case kWeight:
        return add(of, [&](int, T) { return T(1); });
      case kNll:
        return add(of & inside, [&](int i, T) { return -log[i]; });
      case kNllNeg:
        return add(of & ~inside, [&](int i, T) { return -log[i]; });
      case kPredSq:
        return add(of, [&](int i, T) { return p[i] * p[i]; });
      case kFp:
        return add(of, [&](int i, T t) { return p[i] * (1 - t); });
      default:
        return add(of, [&](int i, T t) { return t * q[i]; });
    }
  }

 private:
  template <class F>
  SL_DEVICE T add(unsigned of, F value) const {
    T sum = 0;
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      const T t = (inside >> i & 1) != 0 ? 1 : 0;
      sum += (of >> i & 1) != 0 ? w[i] * value(i, t) : T(0);
    }
    return sum;
  }
};

// Neighbouring lanes that have one bin.
struct Runs {
  unsigned heads;  // the first lanes, but of those that have no bin
  int end;         // where the thread's run ends

  SL_DEVICE explicit Runs(int32_t bin) {
    const int lane = int(threadIdx.x) % 32;
    const int32_t before = __shfl_up_sync(kAllLanes, bin, 1);
    const unsigned all = __ballot_sync(kAllLanes, lane == 0 || bin != before);
    const unsigned later = all & ~((2u << lane) - 1);
    end = later == 0 ? 32 : __ffs(int(later)) - 1;
    heads = all & __ballot_sync(kAllLanes, bin != kNowhere);
  }

  // To a run's first lane the sum over all of its lanes.
  template <class T>
  SL_DEVICE T add(T value) const {
    const int lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const T other = __shfl_down_sync(kAllLanes, value, step);
      value += lane + step < end ? other : T(0);
    }
    return value;
  }
};

template <class T>
SL_DEVICE void add_class(const Cache& cache, int c, const int32_t (&bin)[kQuad],
                         const Parts<T>& parts) {
  const Problem& problem = cache.launch.problem;
  const int lane = int(threadIdx.x) % 32;
  double* const runs = cache.runs();
  unsigned left = 0;  // voxels of the thread that are not added yet, a bit each
#pragma unroll
  for (int i = 0; i < kQuad; ++i) left |= bin[i] != kNowhere ? 1u << i : 0;
  while (__any_sync(kAllLanes, left != 0)) {
    int32_t first = kNowhere;
#pragma unroll
    for (int i = kQuad - 1; i >= 0; --i) first = (left >> i & 1) != 0 ? bin[i] : first;
    unsigned now = 0;
#pragma unroll
    for (int i = 0; i < kQuad; ++i) now |= bin[i] == first ? 1u << i : 0;
    now &= left;
    left &= ~now;
    const Runs of_lanes(first);
#pragma unroll 1
    for (int row = 0; row < problem.rows; ++row) {
      const T sum = parts.sum(cache.launch.term[row], now);
      runs[row * kScratchRow + lane] = double(of_lanes.add(sum));
    }
    cache.add_runs(c, of_lanes.heads, first);
  }
}

template <class Storage>
SL_DEVICE void add_tile(const Cache& cache, const Needs& needs, int64_t index) {
  using T = Computed<Storage>;
  const Launch& launch = cache.launch;
  const Problem& problem = launch.problem;
  const Tile tile = Tile::of<Storage>(problem, cache.item, index);
  int32_t label[kQuad];
  Voxel<T> voxel[kQuad];
  read_labels(problem, tile, &launch.to, label);
  if (needs.softmax) find_statistics<Storage>(problem, needs, tile, label, voxel);
#pragma unroll 1
  for (int c = 0; c < int(problem.channels); ++c) {
    T x[kQuad];
    Parts<T> parts;
    load_logits<Storage>(problem, tile, c, label, x);
    parts.inside = find_inside(problem, tile, c, label, &launch.to);
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      const bool inside = (parts.inside >> i & 1) != 0;
      const Activated<T> a = activate(problem.activation, needs, x[i], c, inside, voxel[i]);
      parts.p[i] = a.p;
      parts.q[i] = a.q;
      parts.log[i] = a.log;
    }
    // Not before, nor once for all classes, whose bins may be the same: it takes registers.
    int32_t bin[kQuad];
    load_weights(problem, tile, c, label, parts.w);
    if (load_bins(problem, tile, c, bin)) {
      launch.to.lost[cache.item * problem.channels + c] = 1;  // whoever does it
    }
    add_class(cache, c, bin, parts);
  }
}

template <class Storage>
__global__ void __launch_bounds__(kThreads, kBlocks<Storage>)
    forward_kernel(const __grid_constant__ Launch launch) {
  const int64_t item = blockIdx.x / launch.item_blocks;
  const int64_t of_item = blockIdx.x % launch.item_blocks * kWarps + Cache::warp();
  const Cache cache(launch, item);
  const Needs needs(launch.problem, true);
  const int64_t begin = of_item * launch.warp_tiles;
  for (int64_t i = begin; i < begin + launch.warp_tiles && i < launch.item_tiles; ++i) {
    add_tile<Storage>(cache, needs, i);
  }
  __syncthreads();
  cache.finish();
}

}  // namespace

size_t forward_shared_bytes(const Launch& launch) { return CacheShape(launch).bytes(); }

void launch_forward(const Launch& launch, cudaStream_t stream) {
  const int64_t blocks = launch.problem.batch * launch.item_blocks;
  const LaunchShape shape{static_cast<unsigned>(blocks), kThreads, forward_shared_bytes(launch),
                          stream};
  visit_input_dtype(launch.problem.input.dtype, [&](auto type) {
    segloss::launch(shape, forward_kernel<typename decltype(type)::type>, launch);
  });
}

}  // namespace segloss::component_sums::cuda
