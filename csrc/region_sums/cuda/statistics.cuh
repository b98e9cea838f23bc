// The statistics of each voxel's softmax: the threads that share a voxel each take some of its
// classes, then put their results together in a fixed order, all of them alike.
#pragma once

#include "region_sums/cuda/plan.cuh"
#include "region_sums/cuda/tile.cuh"

namespace segloss::region_sums::cuda {

// The largest logit, the first class that has it, and the largest of the other classes.
template <class T>
struct Top {
  T max = -Constants<T>::kInfinity;
  T second = -Constants<T>::kInfinity;
  int c = -1;

  SL_DEVICE void add(T x, int of) {
    const bool first = x > max;
    second = first ? max : larger(x, second);
    max = first ? x : max;
    c = first ? of : c;
  }
  // Of classes that come in turns: of two equal logits the lower class is the top one.
  SL_DEVICE void merge(T other_max, T other_second, int other) {
    const bool wins = other_max > max || (other_max == max && (c < 0 || (other >= 0 && other < c)));
    const T loser = wins ? max : other_max;
    second = larger(loser, wins ? other_second : second);
    max = wins ? other_max : max;
    c = wins ? other : c;
  }
};

// The sum, over the threads that share a voxel, of what each wrote for it.
template <class T>
SL_DEVICE T sum_of_shares(const Launch& launch, const Lane& lane, const T* of_thread) {
  T sum = of_thread[lane.voxel];
  for (int i = 1; i < lane.shares; ++i) sum += of_thread[i * launch.tile_voxels + lane.voxel];
  return sum;
}

// The largest of what the threads that share a voxel know.
template <class T>
SL_DEVICE T max_of_shares(const Launch& launch, const Lane& lane, const Shared<T>& s, T max) {
  s.partial[threadIdx.x] = max;
  __syncthreads();
  max = s.partial[lane.voxel];
  for (int i = 1; i < lane.shares; ++i) {
    max = larger_number(max, s.partial[i * launch.tile_voxels + lane.voxel]);
  }
  return max;
}

template <class T>
SL_DEVICE T find_max(const Launch& launch, const Lane& lane, const Shared<T>& s) {
  T max = -Constants<T>::kInfinity;
  for_batches<4>(lane.share, launch.channels, lane.shares, [&](auto n, int c) {
#pragma unroll
    for (int i = 0; i < n; ++i) {
      max = larger_number(max, s.x(c + i * lane.shares, lane.voxel));  // a NaN shows in the sum
    }
  });
  return max_of_shares(launch, lane, s, max);
}

template <class T>
SL_DEVICE Top<T> find_top(const Launch& launch, const Lane& lane, const Shared<T>& s) {
  T* const max = s.partial;
  T* const second = s.partial + kThreads;
  T* const c = s.partial + 3 * kThreads;  // class numbers are exact
  Top<T> top;
  for (int i = lane.share; i < launch.channels; i += lane.shares) top.add(s.x(i, lane.voxel), i);
  max[threadIdx.x] = top.max;
  second[threadIdx.x] = top.second;
  c[threadIdx.x] = T(top.c);
  __syncthreads();
  top = Top<T>();
  for (int i = 0; i < lane.shares; ++i) {
    const int from = i * launch.tile_voxels + lane.voxel;
    top.merge(max[from], second[from], int(c[from]));
  }
  return top;
}

// Completes the thread's voxel. Between here and the next barrier the third part of s.partial is
// read.
template <class T, class Choice>
SL_DEVICE void find_statistics(const Launch& launch, const Plan<Choice>& plan, const Lane& lane,
                               const Shared<T>& s, Voxel<T>& voxel, VoxelLogs<T>& logs) {
  Top<T> top;
  if (plan.others()) {
    top = find_top(launch, lane, s);
  } else {
    top.max = find_max(launch, lane, s);
  }
  T sum = 0, others = 0;
  for_batches<4>(lane.share, launch.channels, lane.shares, [&](auto n, int first) {
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const int c = first + i * lane.shares;
      const T x = s.x(c, lane.voxel);
      sum += exp_nonpositive(x - top.max);
      if (plan.others() && c != top.c) others += exp_nonpositive(x - top.second);
    }
  });
  T* const sums = s.partial + 2 * kThreads;
  sums[threadIdx.x] = sum;
  __syncthreads();
  sum = sum_of_shares(launch, lane, sums);
  voxel.max = top.max;
  voxel.inverse = 1 / sum;
  if (plan.ce_is(Activation::kSoftmax)) logs.log_sum = log_any(sum);
  if (!plan.others()) return;
  s.partial[threadIdx.x] = others;
  __syncthreads();
  others = sum_of_shares(launch, lane, s.partial);
  logs.top = top.c;
  logs.others_max = top.second;
  logs.others_inverse = 1 / others;
  logs.others_log = (top.second - top.max) + (log_any(others) - logs.log_sum);
  if (top.second == -Constants<T>::kInfinity) logs.others_log = top.second;
}

}  // namespace segloss::region_sums::cuda
