// Forward of a softmax against class indices: there a voxel adds to the sums of its own class, but
// for that of p. What it adds is found once per voxel; each of its other classes costs one
// exponential, one multiply-add and one comparison.
#pragma once

#include "region_sums/cuda/statistics.cuh"

namespace segloss::region_sums::cuda {

SL_DEVICE float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }

// In one access, whatever of it is needed in the end.
SL_DEVICE Voxel<float> load_voxel(const Voxel<float>* from) {
  Voxel<float> voxel;
  const uint4 raw = *reinterpret_cast<const uint4*>(from);
  memcpy(&voxel, &raw, sizeof raw);
  return voxel;
}

// The term with a logarithm, of which a set that is served has at most one.
template <class T, class Choice>
SL_DEVICE T own_cost(const Plan<Choice>& plan, T shifted, T sum) {
  T cost = log_any(sum) - shifted;
  if (plan.wants(kFocal)) {
    const T q = 1 - exp_nonpositive(shifted) / sum;
    plan.template with_power<T>([&](auto power) { cost *= power(q); });
  }
  return cost;
}

// Calls f(x) for the classes of the thread's voxel in its share. Of tiles of kTile voxels, if that
// is not 0, the distances are known, and spare the addresses.
template <int kTile, class T, class F>
SL_DEVICE void for_share(const Launch& launch, const Lane& lane, const Shared<T>& s, F f) {
  constexpr int kBatch = 8;
  const int tile = kTile > 0 ? kTile : launch.tile_voxels;
  const int shares = kThreads / tile, step = shares * (tile + 1);
  T* x = s.x.first + lane.share * (tile + 1) + lane.voxel;
  int left = (launch.channels - lane.share + shares - 1) / shares;
#pragma unroll 1
  for (; left >= kBatch; left -= kBatch, x += kBatch * step) {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) f(x[i * step]);
  }
#pragma unroll 1
  for (; left > 0; --left, x += step) f(*x);
}

// Replaces the tile's logits by e^(x - max). Of its voxels the inverse is multiplied by the weight,
// and what nll or focal gets, times the weight, takes the place of the maximum, which nobody needs
// any more. Others may read all that after the next barrier.
template <int kTile, class T, class Choice>
SL_DEVICE void find_own(const Launch& launch, const Plan<Choice>& plan, const Lane& any,
                        const Shared<T>& s) {
  const Lane lane = kTile > 0 ? Lane(kTile > 0 ? kTile : 1, thread_again()) : any;
  // Before others write there: the maximum waits for all threads.
  const int label = s.voxels[lane.voxel].label;
  const T of_label = label >= 0 ? s.x(label, lane.voxel) : T(0);
  T max = -Constants<T>::kInfinity, sum = 0;
  for_share<kTile>(launch, lane, s, [&](T x) { max = larger_number(max, x); });
  max = max_of_shares(launch, lane, s, max);
  for_share<kTile>(launch, lane, s, [&](T& x) {
    x = exp_nonpositive(x - max);
    sum += x;
  });
  T* const sums = s.partial + 2 * kThreads;
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (lane.share > 0) return;
  sum = sum_of_shares(launch, lane, sums);
  Voxel<T> voxel = load_voxel(s.voxels + lane.voxel);
  voxel.inverse = voxel.weight / sum;
  const bool costs = plan.ce() && voxel.label >= 0;
  voxel.max = costs ? voxel.weight * own_cost(plan, of_label - max, sum) : T(0);
  s.voxels[lane.voxel] = voxel;
}

// As Sums, of one class.
template <class T>
struct OwnSums {
  T of[kTermCount] = {};

  SL_DEVICE void add(T e, const Voxel<T>& voxel, int c) {
    of[kPred] = multiply_add(e, voxel.inverse, of[kPred]);
    if (voxel.label != c) return;
    of[kTp] = multiply_add(e, voxel.inverse, of[kTp]);
    of[kTarget] += voxel.weight;
    of[kNll] += voxel.max;  // see find_own; one of the two is dropped
    of[kFocal] += voxel.max;
  }
};

// Adds voxels first, first + step, ... below end of a tile to the sums of a class.
template <class T>
SL_DEVICE void add_own(const Shared<T>& s, int c, int first, int end, int step, OwnSums<T>& sums) {
  for_batches<4>(first, end, step, [&](auto n, int begin) {
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const int v = begin + i * step;
      sums.add(s.x(c, v), load_voxel(s.voxels + v), c);
    }
  });
}

}  // namespace segloss::region_sums::cuda
