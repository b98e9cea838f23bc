// Forward: each block sums a chunk of voxels, tile by tile; a thread is a class, and a share of the
// tile's voxels.
#pragma once

#include "cuda.cuh"
#include "region_sums/cuda/labels.cuh"
#include "region_sums/cuda/own.cuh"
#include "region_sums/cuda/statistics.cuh"
#include "region_sums/cuda/terms.cuh"

namespace segloss::region_sums::cuda {

// Which classes a thread sums, and which of the voxels: class c of phase f has slot f * C + c.
struct Owner {
  int first, step;
  int phase, phases;
  SL_DEVICE explicit Owner(int classes) {
    const int t = int(threadIdx.x);
    phases = classes < kThreads ? kThreads / classes : 1;
    first = phases > 1 ? t % classes : t;
    phase = phases > 1 ? t / classes : 0;
    step = kThreads;
  }
  SL_DEVICE bool idle() const { return phase >= phases; }
};

// The double sums of a block. Those of a class with many neighbours lie in memory right where they
// are needed in the end.
struct Slots {
  double* first;
  int of_row;
  SL_DEVICE double& operator()(int row, int slot) const { return first[row * of_row + slot]; }
};

template <class T>
SL_DEVICE Slots slots_of(const Launch& launch, const Chunk& chunk, const Shared<T>& s) {
  const int classes = launch.channels;
  if (launch.shared_slots) return {s.slots, classes > kThreads ? classes : kThreads};
  return {launch.partial + chunk.index * launch.rows * classes, classes};
}

template <class T, class Choice>
SL_DEVICE void add_voxel(const Plan<Choice>& plan, const Shared<T>& s, int c, int v,
                         Sums<T>& sums) {
  const Voxel<T> voxel = s.voxels[v];
  const T t = plan.dense() ? s.target(c, v) : T(voxel.label == c);
  // A class's own weight of an ignored voxel does not count either.
  T w = voxel.weight;
  if (plan.class_weight() && voxel.label != kIgnored) w *= s.weight(c, v);
  sums.add(plan, activate(plan, s.x(c, v), c, voxel, s.logs[v]), t, w);
}

// Adds the sums of class c over a phase's voxels of a tile to its slots.
template <class Choice, class S>
SL_DEVICE void add_to_slots(const Launch& launch, const Plan<Choice>& plan, const Owner& owner,
                            const Slots& slots, int c, const S& sums) {
  const int slot = owner.phase * launch.channels + c;
#pragma unroll
  for (int term = 0; term < kTermCount; ++term) {
    if (plan.wants(Term(term))) slots(launch.row[term], slot) += double(sums.of[term]);
  }
}

template <class T, class Choice>
SL_DEVICE void sum_tile(const Launch& launch, const Plan<Choice>& plan, const Owner& owner,
                        const Shared<T>& s, const Slots& slots) {
  if (owner.idle()) return;
  const int v = owner.phase, end = launch.tile_voxels, step = owner.phases;
  for (int c = owner.first; c < launch.channels; c += owner.step) {
    if constexpr (Choice::kOwn) {
      OwnSums<T> sums;
      // A step that is known spares the addresses.
      step == 1 ? add_own(s, c, v, end, 1, sums) : add_own(s, c, v, end, step, sums);
      sums.of[kTp] += sums.of[kPred] - sums.of[kPred];  // a NaN in p is one of every class
      add_to_slots(launch, plan, owner, slots, c, sums);
    } else {
      Sums<T> sums;
      for_batches<Choice::kBatch>(v, end, step, [&](auto n, int first) {
#pragma unroll
        for (int i = 0; i < n; ++i) add_voxel(plan, s, c, first + i * step, sums);
      });
      add_to_slots(launch, plan, owner, slots, c, sums);
    }
  }
}

// Finds what each voxel of a loaded tile needs to know of all its classes.
template <class T, class Choice>
SL_DEVICE void find_voxels(const Launch& launch, const Plan<Choice>& plan, const Lane& lane,
                           const Shared<T>& s) {
  if constexpr (Choice::kOwn) {
    switch (launch.tile_voxels) {
      case kThreads:
        return find_own<kThreads>(launch, plan, lane, s);
      case kThreads / 2:
        return find_own<kThreads / 2>(launch, plan, lane, s);
      default:
        return find_own<0>(launch, plan, lane, s);
    }
  } else if (plan.softmax()) {
    Voxel<T> voxel = s.voxels[lane.voxel];
    VoxelLogs<T> logs{};
    find_statistics(launch, plan, lane, s, voxel, logs);
    if (lane.share == 0) {
      s.voxels[lane.voxel] = voxel;
      if (plan.ce_is(Activation::kSoftmax)) s.logs[lane.voxel] = logs;
    }
  }
}

// Adds the phases, in order.
SL_DEVICE void write_sums(const Launch& launch, const Chunk& chunk, const Owner& owner,
                          const Slots& slots) {
  double* const out = launch.partial + chunk.index * launch.rows * launch.channels;
  for (int i = int(threadIdx.x); i < launch.rows * launch.channels; i += kThreads) {
    const int row = i / launch.channels, c = i % launch.channels;
    double sum = 0;
    for (int f = 0; f < owner.phases; ++f) sum += slots(row, f * launch.channels + c);
    out[i] = sum;
  }
}

template <class T>
SL_DEVICE void write_invalid(const Launch& launch, const Chunk& chunk, const Shared<T>& s) {
  if (threadIdx.x != 0) return;
  double2 found = make_double2(double(s.invalid->count), 0);
  if (s.invalid->count != 0) {
    const int64_t voxel = chunk.begin + int64_t(s.invalid->first);
    visit_label(chunk.level->target, item_offset(chunk.level->target, chunk.item, voxel),
                [&](auto value) { found.y = double(value); });
  }
  launch.invalid[chunk.index] = found;
}

template <class T, class Choice>
__global__ void __launch_bounds__(kThreads, kBlocks<T, Choice>)
    forward_kernel(const __grid_constant__ Launch launch) {
  const Shared<T> s(launch, true, dynamic_shared());
  const Plan<Choice> plan(launch);
  const Chunk chunk(launch);
  const Lane lane(launch, int(threadIdx.x));
  const Owner owner(launch.channels);
  const Slots slots = slots_of(launch, chunk, s);
  for (int i = int(threadIdx.x); i < launch.rows * slots.of_row; i += kThreads) slots.first[i] = 0;
  if (threadIdx.x == 0) *s.invalid = {0, ~0ull};
  __syncthreads();
  for (int64_t begin = chunk.begin; begin < chunk.end; begin += launch.tile_voxels) {
    load_tile(launch, plan, chunk, chunk.span(launch, begin), lane, s);
    find_voxels(launch, plan, lane, s);
    __syncthreads();
    sum_tile(launch, plan, owner, s, slots);
    __syncthreads();
  }
  if (launch.shared_slots) write_sums(launch, chunk, owner, slots);
  write_invalid(launch, chunk, s);
}

}  // namespace segloss::region_sums::cuda
