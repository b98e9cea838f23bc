// Backward: each block computes the gradient of a chunk of voxels, tile by tile; a thread is a
// voxel, and a share of its classes. What forward knew of a voxel is computed again: that costs
// less than the memory to keep it.
#pragma once

#include "cuda.cuh"
#include "region_sums/cuda/labels.cuh"
#include "region_sums/cuda/statistics.cuh"
#include "region_sums/cuda/terms.cuh"

namespace segloss::region_sums::cuda {

// One thread's view of a tile.
template <class T, class Choice>
struct Backward {
  const Launch& launch;
  const Plan<Choice>& plan;
  const Coefficients<T>& k;
  const Lane& lane;
  const Shared<T>& s;
  Voxel<T> voxel;
  VoxelLogs<T> logs{};

  // Returns f(x, activated, derivatives) of class c.
  template <class F>
  SL_DEVICE auto with_class(int c, F f) const {
    const int v = lane.voxel;
    const T x = s.x(c, v);
    const T t = plan.dense() ? s.target(c, v) : T(voxel.label == c);
    T w = voxel.weight;
    if (plan.class_weight() && voxel.label != kIgnored) w *= s.weight(c, v);
    const Activated<T> a = activate(plan, x, c, voxel, logs);
    return f(x, a, derive(plan, k, c, a, t, w));
  }

  template <class F>
  SL_DEVICE void for_batches_of_classes(F f) const {
    for_batches<Choice::kBatch>(lane.share, launch.channels, lane.shares, f);
  }

  SL_DEVICE Coupling<T> find_coupling() const {
    Coupling<T> mine;
    for_batches_of_classes([&](auto n, int first) {
#pragma unroll
      for (int i = 0; i < n; ++i) {
        const int c = first + i * lane.shares;
        with_class(c, [&](T, const Activated<T>& a, const Derivatives<T>& d) {
          return couple(plan, a, d, c, logs.top, mine);
        });
      }
    });
    // The part that nobody may still read (find_statistics ends with the third, or the first).
    s.partial[kThreads + threadIdx.x] = mine.dot;
    if (plan.others()) s.partial[3 * kThreads + threadIdx.x] = mine.top_m;
    __syncthreads();
    Coupling<T> shared;
    shared.dot = sum_of_shares(launch, lane, s.partial + kThreads);
    if (plan.others()) shared.top_m = sum_of_shares(launch, lane, s.partial + 3 * kThreads);
    return shared;
  }

  // Replaces the thread's logits by their gradients.
  SL_DEVICE void write_gradient(const Coupling<T>& shared) const {
    for_batches_of_classes([&](auto n, int first) {
      T dx[n];
#pragma unroll
      for (int i = 0; i < n; ++i) {
        const int c = first + i * lane.shares;
        dx[i] = with_class(c, [&](T x, const Activated<T>& a, const Derivatives<T>& d) {
          return chain(plan, x, c, voxel, logs, a, d, shared);
        });
      }
#pragma unroll
      for (int i = 0; i < n; ++i) s.x(first + i * lane.shares, lane.voxel) = dx[i];
    });
  }
};

template <class T, class Choice>
__global__ void __launch_bounds__(kThreads, kBlocks<T, Choice>)
    backward_kernel(const __grid_constant__ Launch launch) {
  const Shared<T> s(launch, false, dynamic_shared());
  const Plan<Choice> plan(launch);
  const Chunk chunk(launch);
  const Lane lane(launch, int(threadIdx.x));
  const Coefficients<T> k(launch, chunk.level->first_item + chunk.item);
  if (threadIdx.x == 0) *s.invalid = {0, ~0ull};
  __syncthreads();
  for (int64_t begin = chunk.begin; begin < chunk.end; begin += launch.tile_voxels) {
    const Span span = chunk.span(launch, begin);
    load_tile(launch, plan, chunk, span, lane, s);
    Backward<T, Choice> pass{launch, plan, k, lane, s, s.voxels[lane.voxel]};
    Coupling<T> shared;
    if (plan.softmax()) {
      find_statistics(launch, plan, lane, s, pass.voxel, pass.logs);
      shared = pass.find_coupling();
    }
    pass.write_gradient(shared);
    if (launch.has_ignore) clear_ignored(lane, s);  // 0 times a NaN is none
    __syncthreads();
    store_gradient(launch, chunk.level->grad, span, s.x);
    __syncthreads();
  }
}

}  // namespace segloss::region_sums::cuda
